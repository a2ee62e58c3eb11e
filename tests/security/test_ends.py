"""However user code ends its process, the end is told: nothing that it chooses breaks the worker's words."""

from __future__ import annotations

from signal import Signals

import pytest
from glowplug_worker.container import crashed

pytestmark = pytest.mark.attempt(control="a signal with a name is told by its name")


@pytest.mark.parametrize("starting", [True, False])
def test_any_signal_is_told(starting):
    for number in range(1, 65):
        error = crashed(None, number, (), starting=starting)
        assert str(number) in error.message or Signals(number).name in error.message
        assert error.details is not None
        assert error.details["signal"] == number


@pytest.mark.parametrize("starting", [True, False])
def test_any_exit_code_is_told(starting):
    for code in range(256):
        assert f"exit code {code} " in crashed(code, None, (), starting=starting).message


def test_the_last_lines_are_told_whatever_they_hold():
    lines = ("\x1b]52;c;aGk=\x07", "\ud800", "a\nb", "x" * 100_000, "")
    error = crashed(1, None, lines, starting=False)
    assert error.details is not None
    assert error.details["last_lines"] == list(lines)
