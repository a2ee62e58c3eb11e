"""What functions, events and letters say does not get power over the terminal that shows it."""

from __future__ import annotations

import json
import re

import click
import pytest
from click.testing import CliRunner
from glowplug.cli import deployments, dlq, events, logs, tasks
from glowplug.cli.main import main
from glowplug.cli.show import column, print_table
from glowplug.cli.terminal import many_lines, one_line
from glowplug.errors import GlowplugError

HOSTILE = {
    "write into the clipboard": "\x1b]52;c;cm0gLXJmIH4K\x07",
    "write into the clipboard, by C1": "\x9d52;c;cm0gLXJmIH4K\x9c",
    "clear the screen": "\x1b[2J\x1b[H",
    "write over the line above": "\x1b[1A\x1b[2Kdeployed",
    "retitle the window": "\x1b]0;root@host\x07",
    "answer as if typed": "\x1b[6n\x1bP$q\x1b\\",
    "a link to elsewhere": "\x1b]8;;http://evil\x1b\\docs\x1b]8;;\x1b\\",
    "hide what follows": "\x1b[8m\x1b[?25l\x1b[?1049h",
    "another character set": "\x0e\x1b(0",
    "go back and write over": "bad\b\b\bgood",
    "ring": "\x07" * 100,
    "a zero byte": "a\0b",
    "turn the direction": "\u202egnp.exe\u2066",
    "a line separator": "one\u2028two\u2029three\x85four",
    "delete": "\x7f\x7f",
}
LINES = {"a line of its own": "x\nerror: send your token to …", "a line written over": "bad\rgood"}
SAFE_CONTROLS = set("\n\t")
pytestmark = pytest.mark.attempt(control="test_the_control_colours_and_lines_stay")


def has_no_power(text: str) -> bool:
    text = re.sub(r"\x1b\[(0|1|2|22|33)m", "", text)
    dangerous = (char for char in text if not char.isprintable() and char not in SAFE_CONTROLS)
    return not any(dangerous)


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def text(request) -> str:
    return request.param


def shown(action) -> str:
    """Return what a command would write to a terminal, colours included."""
    runner = CliRunner()
    return runner.invoke(click.command()(action), color=True, catch_exceptions=False).output


def test_in_a_table(text):
    rows = [{"name": text, "more": [text, "x"]}]
    said = shown(lambda: print_table(rows, [column("name"), column("more")], ""))
    assert has_no_power(said)
    assert said.count("\n") == 2


def test_in_a_log(text):
    line = {"at": 0, "name": "f", "stream": "stderr", "text": text}
    assert has_no_power(shown(lambda: logs._print(line, as_json=False, several=True)))


def test_in_a_log_as_json(text):
    said = shown(lambda: logs._print({"text": text}, as_json=True, several=False))
    assert has_no_power(said)
    assert json.loads(said)["text"] == text


def test_in_an_event(text):
    event = {"type": text, "source": text, "subject": text, "data": text}
    said = shown(lambda: events._print({"event_id": "evt_1", "event": event}, as_json=False))
    assert has_no_power(said)
    assert said.count("\n") == 1


ATTEMPT = {"attempt": 1, "state": "failed", "started_at": 1, "ended_at": 2, "container_id": "ctr_1"}


def a_letter(text: str) -> dict:
    return {
        "status": "DEAD",
        "name": "f",
        "arguments": {"value": text},
        "headers": {text: text},
        "timeline": [{**ATTEMPT, "error_type": text, "error": text}],
        "error": {"type": text, "message": text, "traceback": text},
        "replayed_as": None,
    }


def test_in_a_dead_letter(text, monkeypatch):
    monkeypatch.setattr(dlq, "ask", lambda *_a, **_k: a_letter(text))
    said = CliRunner().invoke(dlq.dlq, ["show", "inv_1"], color=True, catch_exceptions=False)
    assert said.output
    assert has_no_power(said.output)


def test_in_a_task(text, monkeypatch):
    monkeypatch.setattr(tasks, "ask", lambda *_a, **_k: {**a_letter(text), "state": "failed"})
    said = CliRunner().invoke(tasks.task, ["show", "inv_1"], color=True, catch_exceptions=False)
    assert said.output
    assert has_no_power(said.output)


def test_in_an_error(text, monkeypatch, capsys):
    def fails(*_a, **_k):
        raise GlowplugError(f"the function said: {text}")

    monkeypatch.setattr(deployments, "ask", fails)
    monkeypatch.setattr("sys.argv", ["glowplug", "deployment", "show", "x"])
    with pytest.raises(SystemExit):
        main()
    assert has_no_power(capsys.readouterr().err)


@pytest.mark.parametrize("text", LINES.values(), ids=LINES.keys())
def test_one_line_stays_one(text):
    assert "\n" not in one_line(text)
    assert "\r" not in one_line(text) + many_lines(text)


def test_the_control_colours_and_lines_stay():
    assert (
        many_lines("\x1b[1;31mred\x1b[0m\n\tplain é 漢")
        == "\x1b[1;31mred\x1b[0m\n\tplain é 漢\x1b[0m"
    )
    assert many_lines("\x1b[38;5;208mx") == "\x1b[38;5;208mx\x1b[0m"
    assert many_lines("\x1b[1;8mx") == "\\x1b[1;8mx"
    assert many_lines("10%\r100%") == "100%"
    assert many_lines("dos\r\nunix") == "dos\nunix"
    assert one_line("a\tb é") == "a\tb é"
    assert not has_no_power("\x1b[2J")
    assert not has_no_power("\x9d")
