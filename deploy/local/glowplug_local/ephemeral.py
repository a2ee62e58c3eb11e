"""A platform for the length of a program: `python app.py` with nothing running.

It is a `glowplug up` of its own in a child process, on a free port. It uses the user's data directory, so
that images and deployments are there the next time; if another platform holds that, a temporary one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from glowplug_local.layout import default_data_dir
from glowplug_local.supervisor import die_with

STOP_S = 30.0


class StartError(Exception):
    """The platform could not be started; the message is what it said."""


@contextlib.contextmanager
def open_ephemeral(data: Path | None = None, *extra: str) -> Iterator[tuple[str, str]]:
    """Start a platform; yield its URL and token; stop it.

    Args:
        data: its data directory; None for the user's own, or a temporary one if that is taken.
        extra: more arguments of `glowplug up`.

    Raises: StartError.
    """
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(_open_up(data or default_data_dir(), extra))
        except _TakenError:
            if data is not None:
                raise
            temporary = tempfile.mkdtemp(prefix="glowplug-")
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            found = stack.enter_context(_open_up(Path(temporary), extra))
        yield found


class _TakenError(StartError):
    """The data directory is another platform's."""


@contextlib.contextmanager
def _open_up(data: Path, extra: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    command = [
        sys.executable,
        "-m",
        "glowplug.cli.main",
        "up",
        "--json",
        "--port",
        "0",
        "--no-profile",
    ]
    parent = os.getpid()
    process = subprocess.Popen(
        [*command, "--data", str(data), *extra],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509
    )
    try:
        ready = _await_ready(process)
        yield str(ready["url"]), Path(str(ready["token_file"])).read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _await_ready(process: subprocess.Popen[bytes]) -> dict[str, object]:
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line.decode(errors="replace").strip())
        with contextlib.suppress(ValueError):
            event: dict[str, object] = json.loads(line)
            if event.get("event") == "ready":
                return event
            if event.get("event") == "error":
                kind = _TakenError if event.get("kind") == "DirectoryTakenError" else StartError
                raise kind(str(event.get("message")))
    raise StartError("the platform ended before it was ready: " + " ".join(said[-3:]))
