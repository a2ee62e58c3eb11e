"""Has the package that containers see compiled, once for each Python that runs them.

Containers see it read-only. An installer that does not compile (uv), a checkout, or another version of Python than
the platform's own would have every start compile the runner again: 30 ms and more. What is missing is written
where Python itself would look for it, by that Python, and stays; where that may not be written, starts stay slow.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from glowplug_worker.ports import Interpreter

log = structlog.get_logger()

COMPILE_S_MAX: Final = 60.0
_LEAST_URGENT: Final = 19


class Bytecode:
    """One package, whose compiled modules somebody may want."""

    def __init__(
        self, package: Path, spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    ) -> None:
        self._package = package
        self._spawn = spawn
        self._looked_at: set[str] = set()

    def want(self, interpreter: Interpreter) -> None:
        """See that it is compiled for this Python. Nobody waits for it, and it may fail."""
        if interpreter.version not in self._looked_at:
            self._looked_at.add(interpreter.version)
            self._spawn(self._look(interpreter), "compile the runner")

    async def _look(self, interpreter: Interpreter) -> None:
        tag = tag_of(interpreter.version)
        missing = await asyncio.to_thread(uncompiled, self._package, tag)
        if not missing:
            return
        problem = await asyncio.to_thread(compile_package, self._package, interpreter.executable)
        log.info(
            "runner.compiled", python=interpreter.version, modules=len(missing), problem=problem
        )


def tag_of(version: str) -> str:
    """Return what names the compiled files of a Python: "cpython-311" for "3.11.7"."""
    return "cpython-" + "".join(version.split(".")[:2])


def uncompiled(package: Path, tag: str) -> list[Path]:
    """Return the modules that have no compiled file of their age."""
    found = []
    for folder, _, names in os.walk(package):
        cache = Path(folder) / "__pycache__"
        for name in names:
            source = Path(folder) / name
            if source.suffix == ".py" and not _fresh(cache / f"{source.stem}.{tag}.pyc", source):
                found.append(source)
    return found


def _fresh(compiled: Path, source: Path) -> bool:
    # Bytes 8 to 16 say of which source it is: its time and size, unless its flags (4 to 8) say otherwise.
    try:
        with compiled.open("rb") as file:
            head = file.read(16)
        stat = source.stat()
    except OSError:
        return False
    if len(head) < 16 or head[4:8] != bytes(4):  # noqa: PLR2004
        return len(head) == 16  # noqa: PLR2004
    expected = (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
    return (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")) == expected


def compile_package(package: Path, executable: Path) -> str:
    """Compile it by another Python; return "" or what went wrong. Blocks."""
    try:
        process = subprocess.Popen(
            [executable, "-I", "-S", "-m", "compileall", "-q", str(package)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            text=True,
        )
    except OSError as error:
        return str(error)
    with process:
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, _LEAST_URGENT)
            said, _ = process.communicate(timeout=COMPILE_S_MAX)
        except (OSError, subprocess.TimeoutExpired) as error:
            process.kill()
            return str(error)
    return "" if process.returncode == 0 else said.strip()[-500:]
