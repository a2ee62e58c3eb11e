"""`glowplug deployment …`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import (
    age,
    ahead,
    column,
    cores,
    json_option,
    mib,
    print_json,
    print_table,
)
from glowplug.cli.terminal import one_line

# What a container did that is not started again at once.
FAILED_HOW = {
    "start_failed": ("start failed", "starts in a row failed"),
    "crashed": (
        "container crashed soon after it was ready",
        "containers in a row crashed soon after they were ready",
    ),
}


@click.group()
def deployment() -> None:
    """Look at what is deployed."""


@deployment.command("list")
@click.option("--app", default="", help="Only those of an app.")
@click.option("--name", default="", help="Only versions of a name.")
@click.option("--all", "everything", is_flag=True, help="Old and ephemeral versions too.")
@json_option
@click.pass_context
def list_(ctx: click.Context, app: str, name: str, *, everything: bool, as_json: bool) -> None:
    """List deployments."""
    params = {"app": app, "name": name, "all": "1" if everything else ""}
    params = {key: value for key, value in params.items() if value}
    found = ask(ctx, "GET", "/api/v1/deployments", params=params)
    if as_json:
        print_json(found)
        return
    columns = [
        column("NAME", "name"),
        ("VERSION", lambda row: f"v{row.get('version')}" if row.get("version") else "-"),
        column("KIND", "kind"),
        column("APP", "app"),
        ("STATE", lambda row: "failing" if row.get("failing") else row.get("state")),
        ("CONTAINERS", lambda row: _count(row.get("containers"))),
        column("TARGET", "target"),
        column("QUEUED", "queued"),
        ("AGE", lambda row: age(row.get("created_at") or 0)),
        column("ID", "deployment_id"),
    ]
    print_table(
        found["deployments"], columns, "nothing is deployed; `glowplug deploy FILE` does it"
    )


@deployment.command()
@click.argument("name", metavar="NAME|ID")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show one deployment."""
    found = ask(ctx, "GET", f"/api/v1/deployments/{name}")
    if as_json:
        print_json(found)
        return
    for label, value in _lines(found):
        if value not in {None, ""}:
            click.echo(f"{label:<12} {one_line(value)}")


@deployment.command()
@click.argument("name", metavar="NAME|ID")
@json_option
@click.pass_context
def delete(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Delete a version by its id, or a name with all its versions."""
    found = ask(ctx, "DELETE", f"/api/v1/deployments/{name}") or {}
    if as_json:
        print_json(found)
        return
    gone = found.get("deleted", name)
    click.echo(f"deleted {', '.join(map(str, gone)) if isinstance(gone, list) else gone}")


def _lines(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    spec = found.get("spec") or {}
    resources = spec.get("resources") or {}
    scaling = spec.get("autoscaler") or {}
    return [
        ("name", found.get("name")),
        ("version", found.get("version")),
        ("id", found.get("deployment_id")),
        ("kind", found.get("kind")),
        ("app", found.get("app")),
        ("state", found.get("state")),
        ("url", found.get("url")),
        ("python", found.get("base_python")),
        ("image", str(found.get("image_digest") or "host base")[:16]),
        ("cpu", cores(resources.get("cpu_millis", 125))),
        ("memory", mib(resources.get("memory_bytes", 128 * 1024**2))),
        ("gpu", ", ".join(resources.get("gpus") or ())),
        ("scaling", _scaling(scaling)),
        ("target", found.get("target", 0)),
        ("queued", found.get("queued")),
        ("in flight", found.get("in_flight")),
        ("containers", _count(found.get("containers"))),
        ("failing", _failing(found.get("failing") or {})),
        ("last failure", _failure(found.get("last_failure") or {})),
        (
            "starts",
            "; ".join(f"{how} on {who}" for who, how in (found.get("starts") or {}).items()),
        ),
    ]


def _scaling(scaling: Mapping[str, Any]) -> str:
    buffer = scaling.get("buffer_containers", 0)
    more = f", {buffer} more than busy ones while it is used" if buffer else ""
    return (
        f"{scaling.get('min_containers', 0)} to {scaling.get('max_containers', 1)} containers{more}"
    )


def _failing(failing: Mapping[str, Any]) -> str:
    """Return how many failed in a row, and how long starts are held back."""
    if not failing:
        return ""
    count, until = int(failing.get("in_a_row") or 0), float(failing.get("until") or 0)
    one, many = FAILED_HOW.get(str(failing.get("why")), ("failure", "failures in a row"))
    rest = (
        f"starts are held back for {ahead(until)} unless somebody calls"
        if until > time.time()
        else "the next is tried when one is needed"
    )
    return f"{count} {one if count == 1 else many}; {rest}"


def _failure(failure: Mapping[str, Any]) -> str:
    if not failure:
        return ""
    why = failure.get("code") or failure.get("reason")
    return f"{why}: {failure.get('message')} ({failure.get('container_id')})"


def _count(containers: Any) -> int:
    return len(containers) if isinstance(containers, list) else int(containers or 0)
