"""`glowplug trace ID`: a call's spans as a waterfall."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import json_option, print_json
from glowplug.cli.terminal import one_line

BAR_COLUMNS_MIN = 20
BAR_COLUMNS_MAX = 60
NAME_COLUMNS = 44
DEPTH_MAX = 64


@dataclass(frozen=True)
class Row:
    """One line of the waterfall, in milliseconds from the first span's start."""

    depth: int
    name: str
    service: str
    start_ms: float
    length_ms: float
    error: str


@click.command()
@click.argument("reference", metavar="ID")
@json_option
@click.pass_context
def trace(ctx: click.Context, reference: str, *, as_json: bool) -> None:
    """Show where the time of a call went: give an invocation's or a trace's id."""
    found = ask(ctx, "GET", f"/api/v1/traces/{reference}")
    if as_json:
        print_json(found)
        return
    columns = shutil.get_terminal_size((120, 24)).columns
    click.secho(f"trace {found['trace_id']}", bold=True)
    for line in draw(arrange(found["spans"]), columns):
        click.echo(one_line(line))


def arrange(spans: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the spans parents first, children by their start."""
    known = {span["span_id"] for span in spans}
    children: dict[str, list[Mapping[str, Any]]] = {}
    for span in spans:
        parent = span["parent_id"] if span["parent_id"] in known else ""
        children.setdefault(parent, []).append(span)
    begin = min((float(span["start_at"]) for span in spans), default=0.0)
    rows: list[Row] = []

    def add(parent: str, depth: int) -> None:
        for span in sorted(children.get(parent, []), key=lambda one: float(one["start_at"])):
            start, end = float(span["start_at"]), float(span["end_at"])
            rows.append(
                Row(
                    depth,
                    str(span["name"]),
                    str(span["service"]),
                    (start - begin) * 1000,
                    (end - start) * 1000,
                    str(span.get("error", "")),
                )
            )
            if depth < DEPTH_MAX:
                add(str(span["span_id"]), depth + 1)

    add("", 0)
    return rows


def draw(rows: Sequence[Row], columns: int) -> list[str]:
    """Return the waterfall's lines for a terminal of that many columns."""
    total = max((row.start_ms + row.length_ms for row in rows), default=0.0) or 1.0
    space = max(BAR_COLUMNS_MIN, min(BAR_COLUMNS_MAX, columns - NAME_COLUMNS - 26))
    lines = []
    for row in rows:
        left = min(space - 1, int(row.start_ms / total * space))
        width = max(1, min(space - left, round(row.length_ms / total * space)))
        name = ("  " * row.depth + row.name)[:NAME_COLUMNS]
        bar = (" " * left + "█" * width).ljust(space)
        times = f"{row.start_ms:9.1f} {row.length_ms:9.1f} ms"
        error = f"  ! {row.error}" if row.error else ""
        lines.append(f"{name:<{NAME_COLUMNS}} {bar} {times}  {row.service}{error}".rstrip())
    return lines
