"""`glowplug dlq …`: dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, ahead, column, json_option, print_json, print_table
from glowplug.cli.since import since_option
from glowplug.cli.terminal import many_lines, one_line
from glowplug.client.listing import LETTERS, PAGE, every_page, query
from glowplug.client.loop import background

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = [
    column("TASK", "task_id"),
    column("QUEUE", "name"),
    column("STATUS", "status"),
    column("ATTEMPT", "attempt"),
    ("ENDED", lambda row: age(row.get("ended_at") or 0)),
    ("KEPT", lambda row: ahead(row.get("kept_until") or 0)),
    column("ERROR", "error_type"),
    column("REPLAYED AS", "replayed_as"),
]


def filters(function: F) -> F:
    """Give a command the options that say which letters."""
    for option in (
        since_option,
        click.option("--tag", default="", help="Put with this tag: KEY or KEY=VALUE."),
        click.option("--error", "error_type", default="", help="Class of the exception."),
        click.option("--state", default="", help="failed, error, timeout, expired, dead."),
        click.option("--app", default="", help="Of this app."),
        click.option("--queue", default="", help="Of this function: a name, or a version's id."),
    ):
        function = option(function)
    return function


@click.group()
def dlq() -> None:
    """Durable work that ended unsuccessfully: list, show, replay, purge."""


@dlq.command("list")
@filters
@click.option("--replayed", type=click.Choice(["0", "1", "all"]), default="0", show_default=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", default="", help="Where an earlier page ended.")
@json_option
@click.pass_context
def list_(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """List dead letters, newest first."""
    found = ask(ctx, "GET", LETTERS, params=query(**options))
    if as_json:
        print_json(found)
        return
    print_table(found["dead_letters"], COLUMNS, "no dead letters")
    if found["cursor"]:
        click.echo(f"more: --cursor {found['cursor']}")


@dlq.command()
@click.argument("task_id")
@json_option
@click.pass_context
def show(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """Show a dead letter: payload, headers, attempts and the last error."""
    found = ask(ctx, "GET", f"{LETTERS}/{task_id}")
    if as_json:
        print_json(found)
        return
    click.echo(f"{task_id} {found['status']} {found.get('name', '')}")
    arguments = found["arguments"]
    click.echo(f"arguments: {one_line(arguments.get('value', arguments))}")
    for name, value in found["headers"].items():
        click.echo(f"header {one_line(name)}: {one_line(value)}")
    for line in found["timeline"]:
        click.echo(
            f"attempt {line['attempt']}: {line['state']} {one_line(line['error_type'])} "
            f"{one_line(line['error'])}"
        )
    if found["error"]:
        click.echo(many_lines(found["error"]["traceback"] or found["error"]["message"]))
    if found["replayed_as"]:
        click.echo(f"replayed as {found['replayed_as']}")


@dlq.command()
@click.argument("task_ids", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All that fit the filters.")
@click.option(
    "--same-version", is_flag=True, help="Not the latest version, but the one that failed."
)
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    task_ids: tuple[str, ...],
    *,
    everything: bool,
    same_version: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Try dead letters again: by id, by filter, or --all. Each becomes a new task, once."""
    params = query(version="same" if same_version else "")
    if _by_id(task_ids, everything=everything, options=options):
        done = [
            ask(ctx, "POST", f"{LETTERS}/{task_id}/replay", params=params) for task_id in task_ids
        ]
        failed: list[dict[str, Any]] = []
    else:
        pages = _pages(ctx, f"{LETTERS}/replay", params | query(**options), "POST")
        done = [one for page in pages for one in page["replayed"]]
        failed = [one for page in pages for one in page["failed"]]
    if as_json:
        print_json({"replayed": done, "failed": failed})
    else:
        for one in done:
            click.echo(f"{one['replay_of']} replayed as {one['task_id']}")
        click.echo(f"{len(done)} replayed, {len(failed)} could not be")
    _report(ctx, failed)


@dlq.command()
@click.argument("task_ids", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All that fit the filters.")
@json_option
@click.pass_context
def purge(
    ctx: click.Context,
    /,
    task_ids: tuple[str, ...],
    *,
    everything: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Remove dead letters for good: by id, by filter, or --all."""
    failed: list[dict[str, Any]] = []
    if _by_id(task_ids, everything=everything, options=options):
        for task_id in task_ids:
            ask(ctx, "DELETE", f"{LETTERS}/{task_id}")
        gone = list(task_ids)
    else:
        pages = _pages(ctx, LETTERS, {"all": "1"} | query(**options), "DELETE")
        gone = [one for page in pages for one in page["purged"]]
        failed = [one for page in pages for one in page["failed"]]
    if as_json:
        print_json({"purged": gone, "failed": failed})
    else:
        click.echo(f"{len(gone)} removed")
    _report(ctx, failed)


def _by_id(task_ids: tuple[str, ...], *, everything: bool, options: dict[str, Any]) -> bool:
    """Return whether letters were named; else they must have been described. Raises: UsageError."""
    described = everything or bool(query(**options))
    if bool(task_ids) == described:
        raise click.UsageError("name task ids, or say which by filters or --all")
    return bool(task_ids)


def _pages(
    ctx: click.Context, path: str, params: dict[str, str], method: str
) -> list[dict[str, Any]]:
    open_session(ctx)

    async def collect() -> list[dict[str, Any]]:
        return [page async for page in every_page(path, params, method)]

    return background().run(collect())


def _report(ctx: click.Context, failed: list[dict[str, Any]]) -> None:
    for one in failed[:PAGE]:
        click.echo(f"{one['task_id']}: {one['error']['message']}", err=True)
    if failed:
        ctx.exit(1)
