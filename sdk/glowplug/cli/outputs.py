"""`glowplug output …`: files that tasks have saved."""

from __future__ import annotations

from collections.abc import Mapping

import click

from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.client.listing import query
from glowplug.output import URL_S, Output

LIST_MAX = 1_000


@click.group()
def output() -> None:
    """Look at files that tasks have saved, and hand them on."""


@output.command()
@click.option("--task", "task_id", default="", help="Of this task, or call.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=50, show_default=True)
@click.option("--cursor", default="", help="Where an earlier page ended.")
@json_option
@click.pass_context
def ls(ctx: click.Context, task_id: str, limit: int, cursor: str, *, as_json: bool) -> None:
    """List outputs, newest first."""
    show_outputs(ctx, query(task=task_id, limit=limit, cursor=cursor), as_json=as_json)


@output.command()
@click.argument("output_id")
@click.argument("target", default=".")
@click.pass_context
def cp(ctx: click.Context, output_id: str, target: str) -> None:
    """Copy an output to a local file, or under its name into a folder."""
    open_session(ctx)
    click.echo(str(Output.from_id(output_id).download(target)))


@output.command()
@click.argument("output_id")
@click.option(
    "--expires", type=float, default=URL_S, show_default=True, help="Seconds that it is good for."
)
@json_option
@click.pass_context
def url(ctx: click.Context, output_id: str, expires: float, *, as_json: bool) -> None:
    """Print an address that anybody can read an output at, without a token."""
    found = ask(ctx, "POST", f"/api/v1/outputs/{output_id}/url", {"expires_s": expires})
    if as_json:
        print_json(found)
    else:
        click.echo(found["url"])


@output.command()
@click.argument("output_id")
@json_option
@click.pass_context
def rm(ctx: click.Context, output_id: str, *, as_json: bool) -> None:
    """Remove an output; its public addresses end."""
    found = ask(ctx, "DELETE", f"/api/v1/outputs/{output_id}")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{output_id} is gone")


def show_outputs(ctx: click.Context, params: Mapping[str, str], *, as_json: bool) -> None:
    """Print one page of outputs."""
    found = ask(ctx, "GET", "/api/v1/outputs", params=dict(params))
    if as_json:
        print_json(found)
        return
    columns = [
        column("OUTPUT", "output_id"),
        column("NAME", "name"),
        column("SIZE", "size"),
        ("AGE", lambda row: age(float(row["saved_at"]))),
        column("TASK", "task_id"),
    ]
    print_table(found["outputs"], columns, "no outputs; `Output(path).save()` in a task makes one")
    if found.get("cursor"):
        click.echo(f"more: --cursor {found['cursor']}")
