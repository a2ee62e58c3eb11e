"""`glowplug status`, `container list` and `worker list`: the platform's parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import column, cores, json_option, mib, print_json, print_table


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
    """Look at live containers."""


@container.command("list")
@json_option
@click.pass_context
def list_containers(ctx: click.Context, *, as_json: bool) -> None:
    """List live containers."""
    found = ask(ctx, "GET", "/api/v1/containers")
    if as_json:
        print_json(found)
        return
    columns = [
        column("NAME", "name"),
        column("KIND", "kind"),
        column("STATE", "state"),
        column("BUSY", "in_flight"),
        column("SLOTS", "slots"),
        column("WORKER", "worker_id"),
        column("CONTAINER", "container_id"),
        column("DEPLOYMENT", "deployment_id"),
    ]
    print_table(found["containers"], columns, "no containers: everything is scaled to zero")


@click.group()
def worker() -> None:
    """Look at live workers."""


@worker.command("list")
@json_option
@click.pass_context
def list_workers(ctx: click.Context, *, as_json: bool) -> None:
    """List live workers."""
    found = ask(ctx, "GET", "/api/v1/workers")
    if as_json:
        print_json(found)
        return
    columns = [
        column("WORKER", "worker_id"),
        column("BACKEND", "backend"),
        ("CPU", lambda row: _share(row, "cpu_millis", cores)),
        ("MEMORY", lambda row: _share(row, "memory_bytes", mib)),
        ("GPUS", lambda row: ", ".join(_gpu(gpu) for gpu in row.get("gpus") or ())),
        column("CONTAINERS", "containers"),
        column("PYTHONS", "pythons"),
        column("HOST", "host"),
    ]
    print_table(found["workers"], columns, "no workers are alive")


def _part(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"ready": value}
    instances = value.get("instances") or []
    notes = "; ".join(
        f"{key}: {text}" for one in instances for key, text in (one.get("notes") or {}).items()
    )
    return {"ready": value.get("ready"), "count": len(instances) or "", "notes": notes}


def _share(row: Mapping[str, Any], name: str, unit: Any) -> str:
    return f"{unit(row.get(name + '_held'))}/{unit(row.get(name))}"


def _gpu(gpu: Mapping[str, Any]) -> str:
    return f"{gpu.get('kind')}{' (simulated)' if gpu.get('simulated') else ''}"
