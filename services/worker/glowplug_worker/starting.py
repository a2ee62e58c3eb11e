"""Start a container's process tree with one socketpair per runner process, and greet each runner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
from glowplug_contracts.messages.container import BindContainer, ContainerKind

from glowplug_worker.frames import Blob, FromRunner
from glowplug_worker.launch import Brought, Places, init_for, lay_out, plan_start
from glowplug_worker.ports import RunningContainer
from glowplug_worker.processes import start_ticks
from glowplug_worker.runners import RunnerLink, open_link
from glowplug_worker.workshop import Workshop

PROCESS_FILE = "process.json"


class Started(msgspec.Struct, frozen=True):
    """A container whose runners were greeted."""

    running: RunningContainer
    links: list[RunnerLink]
    places: Places


async def start(
    workshop: Workshop,
    binding: BindContainer,
    brought: Brought,
    directory: Path,
    on_frame: Callable[[int, FromRunner, bytes], None],
    on_gone: Callable[[int, str], None],
) -> Started:
    """Start it. Raises: UnavailableError if the backend can't; cancelling leaves nothing behind."""
    places = lay_out(
        binding.spec.kind,
        brought,
        sdk=workshop.sdk,
        uv=find_uv() if binding.spec.kind is ContainerKind.BUILD else None,
        scratch=directory / "scratch",
        mounts=workshop.backend.mounts,
    )
    pairs = [socket.socketpair() for _ in range(binding.spec.processes)]
    running: RunningContainer | None = None
    links: list[RunnerLink] = []
    try:
        with contextlib.ExitStack() as theirs:
            fds = tuple(theirs.enter_context(their).fileno() for _, their in pairs)
            plan = plan_start(binding, brought, places, scratch=directory / "scratch", fds=fds)
            running = await workshop.backend.start(plan)
        record_process(directory, running.pid)
        for process, (ours, _) in enumerate(pairs):
            links.append(await open_link(process, ours, on_frame, on_gone))
    except BaseException:
        for ours, _ in pairs:
            ours.close()
        if running is not None:
            running.kill()
            await asyncio.shield(running.close())
        raise
    init = init_for(binding, brought, places, plan.env)
    for link in links:
        link.send(init)
        if brought.pickled:
            link.send(Blob(name="pickled"), brought.pickled)
        if brought.on_start_pickled:
            link.send(Blob(name="on_start_pickled"), brought.on_start_pickled)
    return Started(running, links, places)


def record_process(directory: Path, pid: int) -> None:
    """Write down which process it is, for the janitor of a worker that comes after us."""
    note = {"pid": pid, "start_ticks": start_ticks(pid)}
    (directory / PROCESS_FILE).write_text(json.dumps(note), encoding="utf-8")


def find_uv() -> Path | None:
    """Return the uv that came with the platform; builds use it, containers see it read-only."""
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - only where it is installed

        return Path(os.fspath(find_uv_bin()))
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
        return Path(found) if found else None
