"""Which Pythons this host has: found in the usual places, verified by running each once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from glowplug_worker.ports import Interpreter

# What the runner and the SDK's container side need.
MINOR_MIN: Final = (3, 11)
MINOR_MAX: Final = (3, 20)
_ASK_S: Final = 20.0
_QUESTION: Final = (
    "import sys, json; print(json.dumps([sys.version.split()[0], sys.implementation.name,"
    " sys.base_prefix, sys.prefix, getattr(sys, '_base_executable', None) or sys.executable]))"
)


class FoundPythons:
    """The interpreters of this host, by minor version (`ports.Pythons`)."""

    def __init__(self, own: Interpreter, others: Sequence[Interpreter]) -> None:
        self._by_minor = {minor(own): own}
        for other in others:
            self._by_minor.setdefault(minor(other), other)
        self._own = own

    def versions(self) -> Sequence[str]:
        """Return the minor versions on offer, the platform's own first."""
        return tuple(self._by_minor)

    def find(self, version: str) -> Interpreter | None:
        """Return the interpreter of a minor version ("" = the platform's own), or None."""
        return self._by_minor.get(version) if version else self._own


def find_pythons() -> FoundPythons:
    """Return every CPython ≥ 3.11 that answers; takes some 15 ms for each one installed."""
    own = own_python()
    seen = {own.executable}
    others = []
    for candidate in _candidates():
        resolved = candidate.resolve()
        if resolved not in seen:
            seen.add(resolved)
            found = _ask(candidate)
            if found is not None:
                others.append(found)
    # The newest patch release of a minor version is the one that is used.
    others.sort(key=lambda each: _numbers(each.version), reverse=True)
    return FoundPythons(own, others)


def own_python() -> Interpreter:
    """Return the interpreter below the platform's own virtual environment."""
    own = _ask(Path(getattr(sys, "_base_executable", None) or sys.executable))
    assert own is not None, "the interpreter that runs this must answer"  # noqa: S101
    return own


def minor(interpreter: Interpreter) -> str:
    """Return "3.11" of "3.11.7"."""
    return ".".join(interpreter.version.split(".")[:2])


def _candidates() -> Iterator[Path]:
    names = [f"python{MINOR_MIN[0]}.{n}" for n in range(MINOR_MIN[1], MINOR_MAX[1])]
    folders = [Path(folder) for folder in os.get_exec_path() if folder]
    folders += [Path("/usr/bin"), Path("/usr/local/bin")]
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    uv = home / ".local" / "share" / "uv" / "python"
    for root in (pyenv / "versions", uv):
        if not os.access(root, os.R_OK | os.X_OK):  # inherited from another user, or not there
            continue
        folders += sorted(path / "bin" for path in root.glob("*") if not path.is_symlink())
    for folder in folders:
        # pyenv's shims are scripts that answer for whatever is active; the versions are looked up.
        if folder.name == "shims":
            continue
        yield from (folder / name for name in names if os.access(folder / name, os.X_OK))


def _ask(executable: Path) -> Interpreter | None:
    """Return what an interpreter says about itself, or None if it is not one that we can use."""
    try:
        answer = subprocess.run(
            [executable, "-I", "-S", "-c", _QUESTION],
            capture_output=True,
            timeout=_ASK_S,
            check=True,
            env={},
        )
        version, name, base_prefix, prefix, real = msgspec.json.decode(
            answer.stdout, type=list[str]
        )
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError, ValueError):
        return None
    if name != "cpython" or _numbers(version)[:2] < MINOR_MIN or base_prefix != prefix:
        return None
    return Interpreter(
        version=version, executable=Path(real).resolve(), prefix=Path(base_prefix).resolve()
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
