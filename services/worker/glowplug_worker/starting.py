"""Start a container's process tree with one socketpair per runner process, and greet each runner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
from glowplug_contracts.messages.container import BindContainer

from glowplug_worker.frames import FromRunner
from glowplug_worker.launch import Brought, Places, init_for, lay_out, plan_start
from glowplug_worker.networks import Networked, attach, join
from glowplug_worker.ports import Attachment, RunningContainer, StartPlan
from glowplug_worker.processes import start_ticks
from glowplug_worker.runners import RunnerLink, open_link, send_blobs
from glowplug_worker.runtime.rooted.changes import CHANGES
from glowplug_worker.templates import Fork, Start
from glowplug_worker.workshop import Workshop

PROCESS_FILE = "process.json"


# How it was started: from nothing, from a bare runner, or from one with its code imported.
Way = Literal["plain", "warm", "template"]


class Started(msgspec.Struct, frozen=True):
    """A container whose runners were greeted."""

    running: RunningContainer
    links: list[RunnerLink]
    places: Places
    start: Start
    way: Way


async def start(
    workshop: Workshop,
    binding: BindContainer,
    brought: Brought,
    directory: Path,
    on_frame: Callable[[int, FromRunner, bytes], None],
    on_gone: Callable[[int, str], None],
    *,
    secret_env: Mapping[str, str] | None = None,
) -> Started:
    """Start it. Raises: UnavailableError if the backend can't; cancelling leaves nothing behind."""
    if brought.image is None or brought.image.base is None:
        workshop.compile_for(brought.interpreter)
    scratch = directory / "scratch"
    places = lay_out(brought, sdk=workshop.sdk, scratch=scratch, mounts=workshop.backend.mounts)
    pairs = [socket.socketpair() for _ in range(binding.spec.processes)]
    running: RunningContainer | None = None
    attachment: Attachment | None = None
    fork: Fork | None = None
    links: list[RunnerLink] = []
    starting = Start(
        binding=binding, brought=brought, places=places, secret_env=dict(secret_env or {})
    )
    try:
        attachment = await attach(workshop, binding.spec, binding.container_id)
        with contextlib.ExitStack() as theirs:
            fds = tuple(theirs.enter_context(their).fileno() for _, their in pairs)
            plan = plan_start(
                binding,
                brought,
                places,
                scratch=scratch,
                fds=fds,
                pids=workshop.pids,
                io=workshop.io,
            )
            plan = await with_gpus(workshop, binding, plan)
            if workshop.templates is not None and brought.rooted is None:
                # Born with an empty network, where it is not to share the host's.
                born = msgspec.structs.replace(plan, network=attachment.network)
                fork = await workshop.templates.fork(starting, born)
            joined = join(plan, attachment)
            rooted = brought.rooted is not None
            started = (
                fork.running if fork else await _begin(workshop, joined, directory, rooted=rooted)
            )
            running = Networked(started, attachment)
            if fork:
                await attachment.move(running.pid)
        record_process(directory, running.pid)
        for process, (ours, _) in enumerate(pairs):
            links.append(await open_link(process, ours, on_frame, on_gone))
    except BaseException:
        for ours, _ in pairs:
            ours.close()
        if running is not None:
            running.kill()
            await asyncio.shield(running.close())
        elif attachment is not None:
            await asyncio.shield(attachment.close())
        raise
    # Secrets go into the first frame only: not into the plan, whose values stand in files and arguments.
    loaded = fork is not None and fork.loaded
    given = msgspec.structs.replace(brought, pickled=b"", on_start_pickled=b"", on_exit_pickled=b"")
    brought = given if loaded else brought
    init = init_for(binding, brought, places, {**plan.env, **(secret_env or {})})
    for link in links:
        link.send(init)
        send_blobs(link, brought)
    way: Way = "plain" if fork is None else "template" if loaded else "warm"
    return Started(running, links, places, starting, way)


async def _begin(
    workshop: Workshop, plan: StartPlan, directory: Path, *, rooted: bool
) -> RunningContainer:
    """Start a container from nothing."""
    if rooted:
        return await workshop.rooted.start(plan, directory / CHANGES)
    return await workshop.backend.start(plan)


async def with_gpus(workshop: Workshop, binding: BindContainer, plan: StartPlan) -> StartPlan:
    """Return the plan with what its GPUs need. Raises: UnavailableError."""
    if not binding.gpu_ids:
        return plan
    part = binding.spec.resources.gpu_memory_bytes
    shares_ipc = not workshop.backend.mounts
    granted = await asyncio.to_thread(
        workshop.gpus.grant, binding.gpu_ids, part, shares_ipc=shares_ipc
    )
    env = {**plan.env, **granted.env}
    libraries = [each.get("LD_LIBRARY_PATH", "") for each in (plan.env, granted.env)]
    if any(libraries):
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    binds = (*plan.binds, *granted.binds)
    return msgspec.structs.replace(plan, devices=granted.devices, binds=binds, env=env)


def record_process(directory: Path, pid: int) -> None:
    """Write down which process it is, for the janitor of a worker that comes after us."""
    note = {"pid": pid, "start_ticks": start_ticks(pid)}
    (directory / PROCESS_FILE).write_text(json.dumps(note), encoding="utf-8")


def ensure_sdk(directory: Path) -> Path:
    """Return a directory that holds a link to the package `glowplug` and nothing else of ours."""
    spec = find_spec("glowplug")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package glowplug is not installed beside the worker")
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    sdk = directory / "sdk"
    sdk.mkdir(exist_ok=True)
    link = sdk / "glowplug"
    link.unlink(missing_ok=True)
    link.symlink_to(package)
    return sdk
