"""Printing: JSON where it was asked for, else aligned columns that read well and cut well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from glowplug.cli.terminal import one_line

F = TypeVar("F", bound=Callable[..., Any])
Column = tuple[str, Callable[[Mapping[str, Any]], Any]]

DAY_S = 86_400
HOUR_S = 3_600
MINUTE_S = 60


def json_option(function: F) -> F:
    """Give a command the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], empty: str) -> None:
    """Print rows in aligned columns; `empty` where there are none."""
    if not rows:
        click.echo(empty)
        return
    cells = [[_text(pick(row)) for _, pick in columns] for row in rows]
    heads = [name for name, _ in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for number, line in enumerate([heads, *cells]):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.secho(text.rstrip(), bold=number == 0)


def column(name: str, *path: str) -> Column:
    """Return a column that shows a value found by following keys."""

    def pick(row: Mapping[str, Any]) -> Any:
        value: Any = row
        for key in path or (name,):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return name, pick


def age(seconds: float) -> str:
    """Return how long ago a Unix time was, roughly."""
    if not seconds:
        return ""
    return _span(time.time() - seconds)


def ahead(seconds: float) -> str:
    """Return how far ahead a Unix time is, roughly."""
    return _span(seconds - time.time()) if seconds else ""


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for size, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def mib(size: Any) -> str:
    """Return bytes as MiB."""
    return f"{int(size or 0) / 1024**2:,.0f}M"


def cores(millis: Any) -> str:
    """Return millicores as cores."""
    return f"{int(millis or 0) / 1000:g}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return one_line(value)
