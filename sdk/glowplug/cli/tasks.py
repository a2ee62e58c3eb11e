"""`glowplug task …`: durable work by id."""

from __future__ import annotations

import json
from typing import Any

import click
from glowplug_contracts.messages.invocation import Format, State

from glowplug.cli.call import failure_of
from glowplug.cli.outputs import LIST_MAX, show_outputs
from glowplug.cli.plain import load_plain
from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.cli.since import since_option
from glowplug.cli.terminal import many_lines, one_line
from glowplug.client.durable import task_result
from glowplug.client.listing import query
from glowplug.client.loop import background
from glowplug.errors import GlowplugError
from glowplug.tasks import FunctionCall, public_status


@click.group()
def task() -> None:
    """Look at durable work."""


@task.command()
@click.argument("task_id")
@json_option
@click.pass_context
def status(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """Show how far a task is."""
    found = ask(ctx, "GET", f"/tasks/{task_id}/status")
    if as_json:
        print_json(found)
    else:
        click.echo(public_status(found))


@task.command()
@click.argument("task_id")
@click.option("--timeout", type=float, default=None, help="Seconds to wait; without it, as needed.")
@json_option
@click.pass_context
def result(ctx: click.Context, task_id: str, timeout: float | None, *, as_json: bool) -> None:
    """Wait for a task's result and print it."""
    open_session(ctx)
    ended = background().run(task_result(task_id, timeout))
    if ended is None:
        raise GlowplugError(f"{task_id} has not ended after {timeout} s")
    if ended.state != State.SUCCEEDED:
        raise failure_of(ended)
    read = json.loads if ended.format == Format.JSON.value else load_plain
    value = read(ended.data)
    if as_json:
        print_json(value)
    else:
        click.echo(value if isinstance(value, str) else repr(value))


@task.command()
@click.argument("task_id")
@json_option
@click.pass_context
def cancel(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """Stop a task, waiting or running."""
    found = ask(ctx, "DELETE", f"/tasks/{task_id}")
    if as_json:
        print_json(found or {"task_id": task_id})
    else:
        click.echo(f"{task_id} {public_status(found) if found else 'CANCELLED'}")


@task.command()
@click.argument("task_id")
@json_option
@click.pass_context
def show(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """Show all that is known of a task: times, attempts, error."""
    found = ask(ctx, "GET", f"/api/v1/tasks/{task_id}")
    if as_json:
        print_json(found)
        return
    click.echo(f"{task_id} {public_status(found)} {found.get('reason', '')}".rstrip())
    for name in ("accepted_at", "started_at", "ended_at"):
        if found.get(name):
            click.echo(f"{name[:-3]}: {age(found[name])} ago")
    for line in found.get("timeline", ()):
        ran_s = (line["ended_at"] or found.get("ended_at") or 0) - line["started_at"]
        took = f"{ran_s:.3f} s " if line["ended_at"] else ""
        click.echo(
            f"attempt {line['attempt']}: {line['state']} {took}{line['container_id']} "
            f"{one_line(line['error_type'])} {one_line(line['error'])}".rstrip()
        )
    if found.get("error"):
        click.echo(one_line(found["error"]["type"]) + ": " + many_lines(found["error"]["message"]))


@task.command()
@click.argument("task_id")
@json_option
@click.pass_context
def follow(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """Print a task's state and every change until it has ended (--json: a line of JSON each)."""
    open_session(ctx)
    last = ""
    for found in FunctionCall(task_id).subscribe():
        last = public_status(found)
        if as_json:
            click.echo(json.dumps(found))
        else:
            said = f"{found.get('progress', 0):g}% {found.get('message', '')}".rstrip()
            click.echo(f"{last} attempt {found['attempt']} {one_line(said)}")
    ctx.exit(0 if last == "COMPLETE" else 1)


@task.command()
@click.argument("task_id")
@json_option
@click.pass_context
def outputs(ctx: click.Context, task_id: str, *, as_json: bool) -> None:
    """List the files that a task has saved (`glowplug output ls --task`)."""
    show_outputs(ctx, query(task=task_id, limit=LIST_MAX), as_json=as_json)


@task.command("list")
@click.option("--queue", default="", help="Of this function: a name, or a version's id.")
@click.option("--app", default="", help="Of this app.")
@click.option("--state", default="", help="pending, running, retrying, completed, failed …")
@click.option("--tag", default="", help="Put with this tag: KEY or KEY=VALUE.")
@click.option("--parent", default="", help="Put by this task.")
@click.option("--kind", type=click.Choice(["durable", "interactive"]), default=None)
@since_option
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", default="", help="Where an earlier page ended.")
@json_option
@click.pass_context
def list_(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """List calls, newest first."""
    found = ask(ctx, "GET", "/api/v1/tasks", params=query(**options))
    if as_json:
        print_json(found)
        return
    columns = [
        column("TASK", "task_id"),
        ("STATUS", public_status),
        column("ATTEMPT", "attempt"),
        ("AGE", lambda row: age(row.get("at") or 0)),
        column("RUN MS", "run_ms"),
        ("FUNCTION", lambda row: row.get("name") or row.get("deployment_id")),
        column("ERROR", "error_type"),
    ]
    print_table(found["tasks"], columns, "no invocations yet")
    if found.get("cursor"):
        click.echo(f"more: --cursor {found['cursor']}")
