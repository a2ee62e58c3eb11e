"""What people see of an image that is being made: a bar on a terminal, else lines; and how much was moved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from glowplug.cli.show import mib
from glowplug.cli.terminal import one_line
from glowplug.client.deploying import Progress
from glowplug.client.profile import no_color

# Where nobody looks on, a line for so many parts of what is moved.
PARTS: Final = 10


class Moved:
    """Bytes that were downloaded, unpacked and stored, as far as events tell."""

    def __init__(self) -> None:
        self._whole: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Note an event. What begins anew, for a next step, is added to what was."""
        if event.get("kind") != "bytes":
            return
        what, done = str(event["text"]), int(event["bytes_done"])
        before = self._now.get(what, 0)
        if done < before:
            self._whole[what] = self._whole.get(what, 0) + before
        self._now[what] = done

    def value(self) -> dict[str, int]:
        """Return it by what was done."""
        return {what: done + self._whole.get(what, 0) for what, done in self._now.items()}


class Lines:
    """A line for each step and each line of output; of bytes one for every tenth."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told: tuple[str, int] = ("", 0)

    def take(self, event: dict[str, Any]) -> None:
        """Show an event."""
        text = one_line(str(event.get("text", "")).rstrip())
        if event.get("kind") == "bytes":
            done, total = int(event["bytes_done"]), int(event["bytes_total"])
            told = (text, PARTS * done // max(1, total))
            if told != self._told:
                self._write(f"image: {text} {mib(done)} of {mib(total)}")
            self._told = told
        elif text:
            cached = " (cached)" if event.get("cached") else ""
            self._write(f"image: {text}{cached}")


@contextmanager
def progress_of(name: str, *, quiet: bool) -> Iterator[Progress]:
    """Show a deployment's progress: live on a terminal, else as lines."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty() and not no_color():
        with show_live(name) as update:
            yield update
    else:
        yield Lines(lambda line: click.echo(line, err=True)).take


@contextmanager
def show_live(name: str) -> Iterator[Progress]:
    """Show a bar, and above it each step."""
    from rich import progress as bars  # noqa: PLC0415 - 40 ms, only on a terminal
    from rich.console import Console  # noqa: PLC0415 - likewise

    console = Console(stderr=True)
    shown = bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[amount]}", markup=False),
        console=console,
        transient=True,
    )
    with shown:
        task, moving = shown.add_task(f"{name}: packing and uploading", total=None, amount=""), ""

        def show(text: str, what: str, total: int | None) -> None:
            """Show another bar: one whose end is known does not become one whose end is not."""
            nonlocal task, moving
            shown.remove_task(task)
            task, moving = shown.add_task(f"{name}: {text}", total=total, amount=""), what

        def update(event: dict[str, Any]) -> None:
            text = one_line(str(event.get("text", "")).rstrip())
            if event.get("kind") == "bytes":
                done, total = int(event["bytes_done"]), int(event["bytes_total"])
                if text != moving:
                    show(text, text, total)
                amount = f"{mib(done)} of {mib(total)}"
                shown.update(task, completed=done, total=total, amount=amount)
                return
            if event.get("kind") == "step":
                cached = " (cached)" if event.get("cached") else ""
                console.print(f"  {text}{cached}", highlight=False, markup=False)
            show(text[:100], "", None)

        yield update
