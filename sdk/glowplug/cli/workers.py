"""`glowplug worker …`: look at workers, take them out of service and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import column, cores, json_option, mib, print_json, print_table
from glowplug.cli.terminal import one_line

POLL_S = 0.5


@click.group()
def worker() -> None:
    """Look at live workers; take them out of service."""


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
        ("STATE", _state),
        column("BACKEND", "backend"),
        ("CPU", lambda row: _share(row, "cpu_millis", cores)),
        ("MEMORY", lambda row: _share(row, "memory_bytes", mib)),
        ("GPUS", lambda row: ", ".join(_gpu(gpu) for gpu in row.get("gpus") or ())),
        column("CONTAINERS", "containers"),
        column("PYTHONS", "pythons"),
        column("HOST", "host"),
    ]
    print_table(found["workers"], columns, "no workers are alive")


@worker.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show one worker: what it offers, its GPUs, and your containers on it."""
    found = ask(ctx, "GET", f"/api/v1/workers/{name}")
    if as_json:
        print_json(found)
        return
    lines = [
        ("worker", found["worker_id"]),
        ("state", _state(found)),
        ("host", found.get("host")),
        ("backend", found.get("backend")),
        ("pool", found.get("pool")),
        ("cpu", _share(found, "cpu_millis", cores)),
        ("memory", _share(found, "memory_bytes", mib)),
        ("pythons", ", ".join(found.get("pythons") or ())),
        ("containers", found.get("containers")),
        ("templates", mib(found["templates_bytes"]) if found.get("templates_bytes") else ""),
        ("gpu driver", found.get("driver")),
    ]
    for label, value in lines:
        if value not in {None, ""}:
            click.echo(f"{label:<12} {one_line(value)}")
    if found.get("gpu_states"):
        click.echo()
        print_table(found["gpu_states"], _GPU_COLUMNS, "")
    if found.get("yours"):
        click.echo()
        print_table(found["yours"], _CONTAINER_COLUMNS, "")
    if found.get("templates"):
        click.echo()
        print_table(found["templates"], _TEMPLATE_COLUMNS, "")


def _order(ctx: click.Context, name: str, order: str, **params: str) -> Any:
    return ask(ctx, "POST", f"/api/v1/workers/{name}/{order}", params=params)


@worker.command()
@click.argument("name")
@json_option
@click.pass_context
def cordon(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Let a worker take no new containers. It remembers, over its restarts too."""
    _said(_order(ctx, name, "cordon"), "takes nothing new", as_json=as_json)


@worker.command()
@click.argument("name")
@json_option
@click.pass_context
def uncordon(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Let a worker take containers again."""
    _said(_order(ctx, name, "uncordon"), "is in service", as_json=as_json)


@worker.command()
@click.argument("name")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds for what runs; sandboxes live so long.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it is empty.")
@json_option
@click.pass_context
def drain(ctx: click.Context, name: str, grace: float, *, wait: bool, as_json: bool) -> None:
    """Cordon a worker and end its containers; what runs may finish within the grace."""
    found = _order(ctx, name, "drain", grace_s=str(grace))
    left = int(found["containers"])
    while wait and left:
        time.sleep(POLL_S)
        now = int(ask(ctx, "GET", f"/api/v1/workers/{name}")["containers"])
        if now != left and not as_json:
            click.echo(f"{now} containers left")
        left = now
    _said(found | {"containers": left}, "takes nothing new", as_json=as_json)


def _said(found: Mapping[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    count = int(found["containers"])
    holds = "is empty" if not count else f"holds {count} container{'s' if count > 1 else ''}"
    click.echo(f"{found['worker_id']} {what}; it {holds}")


def _state(row: Mapping[str, Any]) -> str:
    if row.get("cordoned"):
        return "cordoned" if row.get("containers") else "drained"
    return "stopping" if row.get("draining") else "in service"


def _share(row: Mapping[str, Any], name: str, unit: Any) -> str:
    return f"{unit(row.get(name + '_held'))}/{unit(row.get(name))}"


def _gpu(gpu: Mapping[str, Any]) -> str:
    return f"{gpu.get('kind')}{' (simulated)' if gpu.get('simulated') else ''}"


_GPU_COLUMNS = [
    column("GPU", "gpu_id"),
    column("KIND", "kind"),
    ("MEMORY", lambda row: f"{mib(row.get('used_bytes'))}/{mib(row.get('memory_bytes'))}"),
    ("BUSY", lambda row: f"{100 * float(row.get('busy') or 0):.0f}%"),
    ("STATE", lambda row: row.get("broken") or "ok"),
]
_TEMPLATE_COLUMNS = [
    ("TEMPLATE", lambda row: row.get("name") or "(bare: any function of its image)"),
    ("MEMORY", lambda row: mib(row.get("memory_bytes"))),
    column("CONTAINERS", "containers"),
    ("IMAGE", lambda row: str(row.get("image_digest") or "host base")[:16]),
    column("DEPLOYMENT", "deployment_id"),
]
_CONTAINER_COLUMNS = [
    column("NAME", "name"),
    column("KIND", "kind"),
    column("STATE", "state"),
    column("GPUS", "gpu_ids"),
    ("GPU MEMORY", lambda row: mib(row["gpu_bytes"]) if row.get("gpu_bytes") else ""),
    ("GPU BUSY", lambda row: f"{100 * row['gpu_busy']:.0f}%" if row.get("gpu_busy") else ""),
    column("CONTAINER", "container_id"),
]
