"""`glowplug status` and `container list`: the platform's parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.cli.since import since_option


@click.command()
@json_option
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Show how the platform and its parts are; fails if one is not well."""
    found = ask(ctx, "GET", "/api/v1/health", fine=(503,))
    well = found.get("status") == "ok"
    if as_json:
        print_json(found)
    else:
        click.secho(f"platform {found.get('status', 'unknown')}", bold=True)
        rows = [{"part": part, **_part(value)} for part, value in found.get("parts", {}).items()]
        columns = [column("PART", "part"), column("READY", "ready"), column("INSTANCES", "count")]
        print_table(rows, [*columns, column("NOTES", "notes")], "no parts are known")
    ctx.exit(0 if well else 1)


@click.group()
def container() -> None:
    """Look at containers."""


@container.command("list")
@click.option("--all", "everything", is_flag=True, help="Ended ones too, and why they ended.")
@click.option("--deployment", default="", help="Only those of a name or id.")
@click.option("--state", "states", multiple=True, help="With --all: failed, stopped, ready …")
@since_option
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", default="", help="With --all: where an earlier page ended.")
@json_option
@click.pass_context
def list_containers(
    ctx: click.Context,
    deployment: str,
    states: tuple[str, ...],
    since: float | None,
    limit: int,
    cursor: str,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """List live containers, or all that are known."""
    if not everything and (states or since or cursor):
        raise click.UsageError("--state, --since and --cursor go with --all")
    params = [("deployment", deployment)] if deployment else []
    if everything:
        params += [("all", "1"), ("limit", str(limit)), *(("state", state) for state in states)]
        params += [("since", str(since))] if since else []
        params += [("cursor", cursor)] if cursor else []
    found = ask(ctx, "GET", "/api/v1/containers", params=params)
    if as_json:
        print_json(found)
        return
    nothing = "no containers: everything is scaled to zero"
    print_table(found["containers"], _ALL_COLUMNS if everything else _LIVE_COLUMNS, nothing)
    if found.get("cursor"):
        click.echo(f"more: --cursor {found['cursor']}")


def _part(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"ready": value}
    instances = value.get("instances") or []
    reason = value.get("reason")
    notes = "; ".join(
        [str(reason)] * bool(reason)
        + [f"{key}: {text}" for one in instances for key, text in (one.get("notes") or {}).items()]
    )
    return {"ready": value.get("ready"), "count": len(instances) or "", "notes": notes}


_LIVE_COLUMNS = [
    column("NAME", "name"),
    column("KIND", "kind"),
    column("STATE", "state"),
    column("BUSY", "in_flight"),
    column("SLOTS", "slots"),
    column("WORKER", "worker_id"),
    column("CONTAINER", "container_id"),
    column("DEPLOYMENT", "deployment_id"),
]
_ALL_COLUMNS = [
    column("NAME", "name"),
    column("KIND", "kind"),
    column("STATE", "state"),
    column("REASON", "reason"),
    ("AGO", lambda row: age(row.get("at") or 0)),
    column("WORKER", "worker_id"),
    column("CONTAINER", "container_id"),
    ("WHY", lambda row: ": ".join(filter(None, (row.get("code"), row.get("message"))))[:120]),
]
