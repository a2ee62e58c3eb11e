"""`glowplug task …`: durable work by id."""

from __future__ import annotations

import json

import click
from glowplug_contracts.messages.invocation import Format, State

from glowplug.cli.call import failure_of
from glowplug.cli.plain import load_plain
from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.client.durable import task_result
from glowplug.client.loop import background
from glowplug.errors import GlowplugError
from glowplug.tasks import POLL_S, public_status


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
    ended = background().run(task_result(task_id, timeout, POLL_S))
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


@task.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@json_option
@click.pass_context
def list_(ctx: click.Context, limit: int, *, as_json: bool) -> None:
    """List the latest invocations."""
    found = ask(ctx, "GET", "/api/v1/tasks", params={"limit": str(limit)})
    if as_json:
        print_json(found)
        return
    columns = [
        column("TASK", "task_id"),
        ("STATUS", public_status),
        column("ATTEMPT", "attempt"),
        ("AGE", lambda row: age(row.get("at") or 0)),
        column("RUN MS", "run_ms"),
        column("DEPLOYMENT", "deployment_id"),
        column("ERROR", "error_type"),
    ]
    print_table(found["tasks"], columns, "no invocations yet")
