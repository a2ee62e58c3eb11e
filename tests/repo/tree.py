"""The repository as the house rules see it: members, files, syntax trees."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "scheduler", "autoscaler", "imagecache", "worker", "sandbox")
MEMBERS = (
    "libs/contracts",
    "libs/runtime",
    *(f"services/{name}" for name in SERVICES),
    "sdk",
    "deploy/local",
)
# Other people's code, kept as it came.
VENDORED = "sdk/glowplug/_vendor/"
SKIPPED = {"__pycache__", "node_modules", "dist", "build"}


class Source(msgspec.Struct, frozen=True):
    """One Python file: its path from the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module


def assert_none(found: Iterable[str]) -> None:
    """Fail with the list of what should not be there."""
    lines = sorted(found)
    assert not lines, "\n" + "\n".join(lines)


def manifest(member: str) -> dict[str, Any]:
    """Return a member's pyproject.toml."""
    return tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))


def distribution(member: str) -> str:
    return str(manifest(member)["project"]["name"])


def package(member: str) -> str:
    """Return the import package of a member."""
    return str(manifest(member)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"][0])


def requirement_name(requirement: str) -> str:
    """Return the distribution's name of a requirement."""
    name = requirement
    for end in "<>=!~;[ @":
        name = name.split(end, 1)[0]
    return name.strip().lower().replace("_", "-")


def member_closure(member: str) -> list[str]:
    """Return the member and all members it depends on, those first."""
    by_name = {distribution(m): m for m in MEMBERS}
    found: list[str] = []

    def visit(one: str) -> None:
        for requirement in manifest(one)["project"].get("dependencies", []):
            needed = by_name.get(requirement_name(requirement))
            if needed and needed not in found:
                visit(needed)
        if one not in found:
            found.append(one)

    visit(member)
    return found


@cache
def files() -> tuple[str, ...]:
    """Return every file of the checkout that belongs to it (tracked or new, not ignored)."""
    try:
        out = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return tuple(sorted(_walk()))  # an unpacked archive, or no git here
    names = {name for name in out.decode().split("\0") if name}
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


def _walk() -> list[str]:
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in {".ci", ".importlinter", ".gitignore"}
                     for part in parts)  # fmt: skip
        if (
            path.is_file()
            and not hidden
            and not SKIPPED.intersection(parts)
            and "venv" not in parts
        ):
            found.append(path.relative_to(ROOT).as_posix())
    return found


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Return the Python files under some folders, other people's left out."""
    found = []
    for name in files():
        if name.endswith(".py") and name.startswith(folders) and not name.startswith(VENDORED):
            text = (ROOT / name).read_text(encoding="utf-8")
            found.append(Source(name, text, ast.parse(text, name)))
    return tuple(found)


def product() -> tuple[Source, ...]:
    """Return the Python files that are shipped."""
    return tuple(s for s in sources("libs/", "services/", "sdk/", "deploy/local/"))


def module_name(path: str) -> str:
    """Return the dotted name of a shipped file: `libs/runtime/glowplug_runtime/bus.py` → …"""
    member = next(m for m in MEMBERS if path.startswith(m + "/"))
    parts = list(Path(path).relative_to(member).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def documents() -> tuple[str, ...]:
    """Return the Markdown files."""
    return tuple(name for name in files() if name.endswith(".md"))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
