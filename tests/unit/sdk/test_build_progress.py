"""What people see of an image that is being made."""

from __future__ import annotations

from typing import Any

import pytest
from glowplug.cli.build_progress import Lines, Moved, show_live

MIB = 1024 * 1024


def moving(text: str, done: int, total: int) -> dict[str, Any]:
    return {
        "event": "image",
        "kind": "bytes",
        "text": text,
        "bytes_done": done * MIB,
        "bytes_total": total * MIB,
    }


def test_where_nobody_looks_on_a_tenth_is_a_line() -> None:
    lines: list[str] = []
    shown = Lines(lines.append)
    shown.take({"kind": "step", "text": "pull app", "cached": True})
    for done in range(101):
        shown.take(moving("downloading", done, 100))
    assert len(lines) == 1 + 11
    assert lines[0] == "image: pull app (cached)"
    assert lines[1] == "image: downloading 0M of 100M"
    assert lines[-1] == "image: downloading 100M of 100M"


def test_what_was_moved_is_added_up_over_the_steps() -> None:
    moved = Moved()
    for event in (
        {"kind": "step", "text": "one"},
        moving("storing", 0, 4),
        moving("storing", 4, 4),
        moving("storing", 0, 2),
        moving("storing", 2, 2),
        moving("downloading", 7, 7),
    ):
        moved.take(event)
    assert moved.value() == {"storing": 6 * MIB, "downloading": 7 * MIB}


def test_on_a_terminal_the_last_that_was_said_is_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with show_live("app [x]") as update:
        update({"kind": "step", "text": "pull app", "cached": True})
        update(moving("downloading", 1, 4))
        update(moving("downloading", 3, 4))
    shown = capfd.readouterr().err
    assert "pull app (cached)" in shown
    assert "app [x]: downloading" in shown
    assert "3M of 4M" in shown
