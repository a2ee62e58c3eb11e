"""Print what members of the workspace need from outside it, one requirement a line.

A step of the Containerfiles: third-party packages get a layer of their own, which changes only when
a pyproject.toml or constraints.txt does.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def outside(members: list[str]) -> list[str]:
    """Return the requirements of the members' folders that are not members themselves."""
    wanted = set()
    for member in members:
        project = tomllib.loads(Path(member, "pyproject.toml").read_text(encoding="utf-8"))
        wanted |= {
            *project["project"].get("dependencies", []),
            *project["build-system"]["requires"],
        }
    return sorted(one for one in wanted if not one.startswith("glowplug"))


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in outside(sys.argv[1:])))
