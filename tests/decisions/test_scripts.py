"""Golden decision scripts: a change of policy shows its consequences in their diff.

A script's commands stand at the margin, what follows from each stands indented below it. `just golden
--update` (GLOWPLUG_GOLDEN_UPDATE=1) writes what follows now; the review reads the difference. The
language is documented by the `do_` methods of tests/support/stage.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.stage import Stage

INDENT = "    "
SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


def play(text: str) -> str:
    """Return the script with what follows from its commands now."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += [INDENT + said for said in stage.run(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_decisions_are_as_written(script):
    written = script.read_text()
    now = play(written)
    if os.environ.get("GLOWPLUG_GOLDEN_UPDATE") == "1":
        script.write_text(now)
        return
    assert now == written, "decisions changed; `just golden --update` and read the difference"


def test_there_are_scripts_and_each_expects_something():
    assert len(SCRIPTS) >= 10
    for script in SCRIPTS:
        assert any(line.startswith(INDENT) for line in script.read_text().splitlines())


def test_a_changed_decision_is_noticed():
    script = "worker w1\ndeploy f\ninvoke f\n"
    played = play(script)
    assert played != script
    assert play(played) == played
    assert play(played.replace("w1", "w1 cpu=0.5", 1)) != played
