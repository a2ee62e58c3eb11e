"""The functions' own output, live and in order, while a program runs.

One follower per deployment reads its log as it is written. At the program's end a mark is written into
each follower after everything that the gateway has received; when it arrives, all has been printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from glowplug.client.http import Http, json_lines
from glowplug.client.loop import background
from glowplug.errors import GlowplugError

MARK_S = 3.0
RECONNECT_S = 0.5
OPEN_S = 2.0

Write = Callable[[str, str], None]


class Output:
    """The followers of one program."""

    def __init__(self, http: Http, *, quiet: bool, write: Write | None = None) -> None:
        self._http = http
        self._quiet = quiet
        self._write = write or write_line
        self._followers: dict[str, Follower] = {}
        self._model_text = ""
        self._moving = ""

    async def follow(self, deployment_id: str) -> None:
        """Print what this deployment's containers write from now on."""
        if self._quiet or deployment_id in self._followers:
            return
        follower = Follower(self._http, deployment_id, self._write)
        self._followers[deployment_id] = follower
        await follower.start()

    async def drain(self) -> None:
        """Wait until everything written so far has been printed, then stop following."""
        followers = list(self._followers.values())
        self._followers.clear()
        if followers:
            await asyncio.gather(*(follower.finish() for follower in followers))

    def build_event(self, event: dict[str, Any]) -> None:
        """Show a line of an image's build; what was cached stays unsaid."""
        if self._quiet or event.get("cached") or not event.get("text"):
            return
        text = str(event["text"])
        if event.get("kind") == "bytes":
            if text == self._moving:
                return
            self._moving, text = text, f"{text} {event['bytes_total'] / 1024**2:,.1f} MiB"
        else:
            self._moving = ""
        self._write("stderr", f"image: {text}")

    def model_event(self, text: str, _done: int, total: int) -> None:
        """Show how far a model is, when something else is done with it."""
        if not self._quiet and text != self._model_text:
            size = f", {total / 1024**2:,.1f} MiB" if total else ""
            self._write("stderr", f"model: {text}{size}")
        self._model_text = text


class Follower:
    """One deployment's log, followed until `finish`."""

    def __init__(self, http: Http, deployment_id: str, write: Write) -> None:
        self._http = http
        self._deployment_id = deployment_id
        self._write = write
        self._tag = f"sdk-{os.urandom(8).hex()}"
        self._mark = f"end-{os.urandom(4).hex()}"
        self._open = asyncio.Event()
        self._marked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns when the gateway has taken the follower (or after a moment without)."""
        self._task = background().start(self._keep_following())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_S):
                await self._open.wait()

    async def finish(self) -> None:
        """Print all that there is, then stop."""
        with contextlib.suppress(GlowplugError, TimeoutError):
            if self._open.is_set():
                await self._http.request(
                    "POST",
                    f"/api/v1/logs/marks/{self._tag}",
                    params={"mark": self._mark},
                    patience_s=0.5,
                )
                async with asyncio.timeout(MARK_S):
                    await self._marked.wait()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, GlowplugError):
                await self._task

    async def _keep_following(self) -> None:
        while not self._marked.is_set():
            with contextlib.suppress(GlowplugError, OSError, ValueError):
                await self._http.retrying(self._follow_once)
            await asyncio.sleep(RECONNECT_S)

    async def _follow_once(self, url: str) -> None:
        params = [
            ("deployment", self._deployment_id),
            ("follow", "1"),
            ("tail", "0"),
            ("tag", self._tag),
        ]
        async with self._http.open_stream(url, "GET", "/api/v1/logs", params=params) as response:
            self._open.set()
            async for line in json_lines(response):
                self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if "mark" in line:
            if line["mark"] == self._mark:
                self._marked.set()
        elif "dropped" in line:
            self._write("stderr", dropped_sentence(line))
        else:
            self._write(str(line.get("stream", "stdout")), str(line.get("text", "")))


def dropped_sentence(line: dict[str, Any]) -> str:
    """Return what is said where lines were lost to the bound."""
    why = line.get("why") or "the function writes faster than is kept"
    return f"[glowplug: {line['dropped']} lines dropped here: {why}]"


def write_line(stream: str, text: str) -> None:
    """Write one line to this program's stdout or stderr, as a whole."""
    target = sys.stderr if stream == "stderr" else sys.stdout
    with contextlib.suppress(ValueError, OSError):  # closed, or a pipe that nobody reads
        target.write(text if text.endswith("\n") else text + "\n")
        target.flush()
