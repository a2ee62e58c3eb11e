"""Runs something as an ordinary user, where root runs the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

UID = 54_321
ROOT = Path(__file__).parent.parent.parent


class Ordinary(msgspec.Struct, frozen=True):
    """A Python that an ordinary user can run, and the environment in which it finds what we have."""

    python: Path
    env: dict[str, str]


def find_ordinary(home: Path) -> Ordinary | str:
    """Return what to run, or why an ordinary user can run nothing here. `home` becomes the user's."""
    if os.geteuid() != 0:
        return "this user is an ordinary one already"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = Path(f"/usr/bin/python{version}")
    if not python.exists():
        return f"no {python} that an ordinary user could run"
    readable = [path for path in sys.path if path and not path.startswith(str(Path.home()))]
    for path in (ROOT, *map(Path, readable)):
        ways = [way for way in (path, *path.parents) if way.exists()]
        if any(not way.stat().st_mode & 1 for way in ways):
            return f"{path} is out of an ordinary user's reach"
    os.chown(home, UID, UID)
    env = {
        "PYTHONPATH": ":".join(readable),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": f"/usr/bin:/bin:{Path(sys.executable).parent}",
    }
    return Ordinary(python, env)
