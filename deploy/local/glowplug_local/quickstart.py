"""`glowplug quickstart`: the main job from nothing to nothing, each step named by the command that does it alone.

It runs those very commands as child processes, so what is shown is what a user would see.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glowplug_local.ephemeral import StartError, open_ephemeral

TEXT = "Ein Glühkerzchen lässt den kalten Motor sofort anspringen."
TO_ZERO_S = 60.0
POLL_S = 0.1


class StepFailedError(Exception):
    """A step did not do what it says."""


def run(data: Path | None, inputs: int) -> int:
    """Do it all; return the exit code."""
    started = time.monotonic()
    temporary = Path(tempfile.mkdtemp(prefix="glowplug-quickstart-"))
    try:
        _run(data or temporary / "data", temporary / "config", inputs)
    except (StartError, StepFailedError) as error:
        sys.stderr.write(f"\nquickstart failed: {error}\n")
        return 1
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"\nDone in {time.monotonic() - started:.0f} s; nothing is left running.")
    say("Next: `glowplug up` in one terminal, `python examples/language_id/app.py` in another.")
    return 0


def _run(data: Path, config: Path, inputs: int) -> None:
    app = find_example()
    step(1, "Start the platform: a broker and six services, no root, no Docker", "glowplug up")
    started = time.monotonic()
    with open_ephemeral(data) as (url, token):
        say(f"ready in {time.monotonic() - started:.1f} s at {url}")
        env = os.environ | {
            "GLOWPLUG_URL": url,
            "GLOWPLUG_TOKEN": token,
            "XDG_CONFIG_HOME": str(config),
        }
        api = Api(url, token)

        step(
            2,
            "Deploy a real model; its packages become an image layer",
            f"glowplug deploy {_short(app)}",
        )
        command(env, "deploy", str(app))

        step(3, "Call it over HTTP, cold, then warm", _curl(url))
        cold = api.call("/endpoint/identify", {"text": TEXT})
        say(f"{cold.text}   cold: {cold.seconds * 1000:.0f} ms (a container was started)")
        warm = api.call("/endpoint/identify", {"text": TEXT})
        say(f"{warm.text}   warm: {warm.seconds * 1000:.1f} ms")

        step(
            4, f"Call it from Python and map {inputs:,} documents", f"python {_short(app)} {inputs}"
        )
        with watch_containers(api) as seen:
            program(env, str(app), str(inputs))
        say(f"containers at once: from 0 to {max(seen, default=0)}")
        if inputs >= 1000 and max(seen, default=0) < 2:  # noqa: PLR2004
            raise StepFailedError("the map did not scale out over several containers")

        step(5, "Idle containers go away: back to zero", "glowplug container list")
        say(f"no container left after {await_zero(api):.1f} s of idling")

        step(6, "Where the time went: the cold call", f"glowplug trace {cold.trace}")
        command(env, "trace", cold.trace)
        step(7, "... and the warm one", f"glowplug trace {warm.trace}")
        command(env, "trace", warm.trace)
        step(8, "Stop everything", "glowplug down")


def find_example() -> Path:
    """Return the example's file: in the checkout, or as shipped with this package."""
    for root in (Path(__file__).parents[3], Path(__file__).parent):
        found = root / "examples" / "language_id" / "app.py"
        if found.exists():
            return found
    raise StepFailedError("examples/language_id/app.py is missing; run this from a checkout")


class Answer:
    """An HTTP answer: its body as text, its trace id, and how long it took."""

    def __init__(self, text: str, trace: str, seconds: float) -> None:
        self.text = text
        self.trace = trace
        self.seconds = seconds


class Api:
    """The gateway, as curl would use it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, path: str, body: dict[str, object]) -> Answer:
        """POST a JSON body."""
        started = time.monotonic()
        request = urllib.request.Request(  # noqa: S310
            self._url + path, json.dumps(body).encode(), self._headers
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            text = answer.read().decode()
            return Answer(text, answer.headers["Glowplug-Trace"], time.monotonic() - started)

    def containers(self) -> list[dict[str, Any]]:
        """Return the live containers of functions."""
        request = urllib.request.Request(f"{self._url}/api/v1/containers", headers=self._headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["containers"]
        return [one for one in found if one["kind"] == "function"]


@contextlib.contextmanager
def watch_containers(api: Api) -> Iterator[list[int]]:
    """Count ready containers in the background while the block runs, and say each change."""
    counts: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_S):
            with contextlib.suppress(OSError):
                count = sum(one["state"] == "ready" for one in api.containers())
                if count > max(counts, default=0):
                    say(f"  {count} containers ready")
                counts.append(count)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def await_zero(api: Api) -> float:
    """Return the seconds until no container is left. Raises: StepFailedError."""
    started = time.monotonic()
    while time.monotonic() - started < TO_ZERO_S:
        if not api.containers():
            return time.monotonic() - started
        time.sleep(POLL_S)
    raise StepFailedError(f"containers are still there after {TO_ZERO_S:.0f} s")


def command(env: dict[str, str], *arguments: str) -> None:
    """Run a glowplug command and let it speak."""
    _check([sys.executable, "-m", "glowplug.cli.main", *arguments], env)


def program(env: dict[str, str], *arguments: str) -> None:
    """Run a Python program and let it speak."""
    _check([sys.executable, *arguments], env)


def _check(argv: list[str], env: dict[str, str]) -> None:
    sys.stdout.flush()
    done = subprocess.run(argv, env=env, check=False)
    if done.returncode:
        raise StepFailedError(f"{' '.join(argv[1:])} ended with {done.returncode}")


def step(number: int, what: str, how: str) -> None:
    """Head a step: what it does, and which command does it alone."""
    say(f"\n{number}. {what}\n   $ {how}")


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _curl(url: str) -> str:
    return (
        f'curl {url}/endpoint/identify -H "Authorization: Bearer $TOKEN" '
        f"-d '{json.dumps({'text': TEXT}, ensure_ascii=False)}'"
    )
