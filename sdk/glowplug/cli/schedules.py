"""`glowplug schedule …`: what runs when it is due."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import column, json_option, print_json, print_table

PATH = "/api/v1/schedules"


@click.group()
def schedule() -> None:
    """Look at schedules, stop them and start them."""


@schedule.command("list")
@click.option("--app", default="", help="Only those of an app.")
@click.option("--paused", is_flag=True, help="Only paused ones.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--cursor", default="", help="Where the list before ended.")
@json_option
@click.pass_context
def list_(
    ctx: click.Context, app: str, limit: int, cursor: str, *, paused: bool, as_json: bool
) -> None:
    """List schedules by name."""
    given = {"app": app, "cursor": cursor, "paused": "1" if paused else "", "limit": str(limit)}
    found = ask(ctx, "GET", PATH, params={key: value for key, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    columns = [
        column("NAME", "name"),
        column("WHEN", "when"),
        column("ZONE", "timezone"),
        ("NEXT", lambda row: "paused" if row.get("paused") else at(row.get("next_due"))),
        column("FIRED", "fired"),
        column("SKIPPED", "skipped"),
        column("CATCH UP", "catch_up"),
        column("APP", "app"),
    ]
    print_table(
        found["schedules"], columns, "no schedules; @schedule and `glowplug deploy` make them"
    )
    if found.get("cursor"):
        click.echo(f"more: --cursor {found['cursor']}")


@schedule.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show a schedule and its latest due times: what fired, and what was skipped and why."""
    found = ask(ctx, "GET", f"{PATH}/{name}")
    if as_json:
        print_json(found)
        return
    zone = "" if found["timezone"] == "UTC" else f" ({found['timezone']})"
    click.echo(f"{found['name']}  {found['when']}{zone}  catch_up={found['catch_up']}")
    click.echo("paused" if found["paused"] else f"next     {at(found['next_due']) or 'never'}")
    click.echo(f"fired    {found['fired']}\nskipped  {found['skipped']}")
    columns = [
        ("DUE", _due),
        column("OUTCOME", "outcome"),
        column("WHY", "reason"),
        column("TASK", "task_id"),
    ]
    print_table(found["history"], columns, "nothing was due yet")


@schedule.command("next")
@click.argument("name")
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True)
@json_option
@click.pass_context
def next_(ctx: click.Context, name: str, count: int, *, as_json: bool) -> None:
    """Show when a schedule is due next."""
    found = ask(ctx, "GET", f"{PATH}/{name}/next", params={"count": str(count)})
    if as_json:
        print_json(found)
        return
    for one in found["next"]:
        click.echo(at(one))


@schedule.command()
@click.argument("name")
@json_option
@click.pass_context
def pause(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Let nothing fire until it is resumed; a redeploy does not resume it."""
    _change(ctx, name, "pause", as_json=as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_context
def resume(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Go on with the next due time; what was due meanwhile is skipped."""
    _change(ctx, name, "resume", as_json=as_json)


@schedule.command()
@click.argument("name")
@json_option
@click.pass_context
def run(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Run a schedule's function now; its due times stay as they are."""
    found = ask(ctx, "POST", f"{PATH}/{name}/run")
    if as_json:
        print_json(found)
    else:
        click.echo(found["task_id"])


def _change(ctx: click.Context, name: str, verb: str, *, as_json: bool) -> None:
    found = ask(ctx, "POST", f"{PATH}/{name}/{verb}")
    if as_json:
        print_json(found)
        return
    click.echo(f"{name} is paused" if found["paused"] else f"{name} next {at(found['next_due'])}")


def at(unix: float | None) -> str:
    """Return a due time as people read it, in UTC; "" for none."""
    if not unix:
        return ""
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _due(row: Mapping[str, Any]) -> str:
    if row.get("count", 1) == 1:
        return at(row["due"])
    return f"{at(row['due'])} … {at(row['last'])} ({row['count']})"
