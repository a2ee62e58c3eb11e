"""This host's Python inside another root: how it is started where nothing of its own system is in place.

A build's root may have no Python, another one, or lose it while packages are installed. What drives the
build is therefore always the host's, started by the host's dynamic linker with the host's libraries, all of which
the container sees below `HOST_AT`.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.ports import Bind, HostPython, Interpreter

HOST_AT: Final = "/glowplug/host"
_ASK_S: Final = 20.0
# What the runner loads, so that the libraries behind it are seen.
_QUESTION: Final = """
import asyncio, ctypes, hashlib, json, select, socket, subprocess, zlib
try:
    import ssl
except ImportError:
    pass
print(open('/proc/self/maps').read())
"""
_ELF_64: Final = b"\x7fELF\x02"
_INTERPRETER: Final = 3
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")


@functools.cache
def host_python(interpreter: Interpreter) -> HostPython:
    """Return how it is started below HOST_AT; asks it once. Raises: UnavailableError."""
    try:
        loader = _loader(interpreter.executable)
        # Its own before the system's, which may have the library of another Python of that name.
        folders = sorted(
            _library_folders(interpreter.executable),
            key=lambda folder: not folder.is_relative_to(interpreter.prefix / "lib"),
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            "platform.unavailable",
            f"the Python at {interpreter.executable} can't be used inside another root: {error}",
        ) from error
    shown = dict.fromkeys(
        _top(path) for path in (loader.parent, interpreter.executable.parent, *folders)
    )
    if not interpreter.prefix.is_relative_to("/usr"):
        shown[interpreter.prefix] = None
    roots = [path for path in shown if not any(path != o and path.is_relative_to(o) for o in shown)]
    command: tuple[str, ...] = ()
    if loader != interpreter.executable:
        path = ":".join(f"{HOST_AT}{folder}" for folder in folders)
        command = (f"{HOST_AT}{loader}", "--library-path", path)
    return HostPython(
        command=(*command, f"{HOST_AT}{interpreter.executable}"),
        binds=tuple(Bind(source=path, target=f"{HOST_AT}{path}") for path in roots),
    )


def _top(path: Path) -> Path:
    """Return what is shown for a directory: /usr as a whole, of others just it."""
    return Path("/usr") if path.is_relative_to("/usr") else path


def _library_folders(executable: Path) -> list[Path]:
    said = subprocess.run(
        [executable, "-I", "-S", "-c", _QUESTION],
        capture_output=True,
        timeout=_ASK_S,
        check=True,
        env={},
    ).stdout.decode(errors="replace")
    files = [line.split(maxsplit=5)[5] for line in said.splitlines() if "/" in line]
    return list(dict.fromkeys(Path(file).parent for file in files if ".so" in file))


def _loader(executable: Path) -> Path:
    """Return the dynamic linker that a program asks for; the program itself where it needs none.

    Raises: ValueError for what is no program of 64 bits.
    """
    with executable.open("rb") as file:
        head = file.read(64)
        if not head.startswith(_ELF_64):
            raise ValueError("it is no program of 64 bits")
        offset, size, count = (
            *struct.unpack_from("<Q", head, 32),
            *struct.unpack_from("<HH", head, 54),
        )
        for number in range(count):
            file.seek(offset + number * size)
            kind, _, at, _, _, length, _, _ = _PROGRAM_HEADER.unpack(
                file.read(_PROGRAM_HEADER.size)
            )
            if kind == _INTERPRETER:
                file.seek(at)
                return Path(os.path.realpath(file.read(length).rstrip(b"\0").decode()))
    return executable
