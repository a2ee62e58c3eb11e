"""Starts rooted containers: what a build's steps need that change the image's root.

Beside the worker's backend, since it gives what that takes away: root inside, with the few capabilities that
installing packages takes, over a tree that may be written. What holds a container is the same: namespaces,
a filter of system calls, no new privileges, control groups. Run by root, every container has 65,536 ids of its own;
run by an ordinary user there is one, so that every file is root's and changes of owner do nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Final

from glowplug_contracts.errors import RejectedError, UnavailableError

from glowplug_worker.ports import Backend, Bind, RunningContainer, StartPlan
from glowplug_worker.runtime.cgroups import Cgroups
from glowplug_worker.runtime.child import Birth
from glowplug_worker.runtime.hostbase import hand_over, resolving
from glowplug_worker.runtime.process import make_group
from glowplug_worker.runtime.rooted.changes import About, begin
from glowplug_worker.runtime.rooted.fakes import pretending
from glowplug_worker.runtime.seccomp_files import numbers, own_profile, program
from glowplug_worker.runtime.seccomp_rules import Profile
from glowplug_worker.runtime.tree import Tree, fork
from glowplug_worker.runtime.uids import SPANS, Uids

MAKING: Final = Path(__file__).with_name("__main__.py")


class Rooted:
    """See the module.

    Args:
        backend: the worker's own, which says whether containers are held here at all.
    """

    def __init__(
        self, backend: Backend, cgroups: Cgroups | None = None, profile: Profile | None = None
    ) -> None:
        self._backend = backend
        self._cgroups = cgroups or Cgroups()
        self._profile = profile or own_profile()
        self._uids = Uids(ranges=SPANS) if os.geteuid() == 0 else None

    def check(self) -> None:
        """Raise RejectedError (image.unsupported) where this worker can't have such containers."""
        name = self._backend.name
        if name in ("process", "gvisor"):
            raise RejectedError(
                "image.unsupported",
                f"this worker's containers ({name}) can't have a root that is written to, which steps that "
                "change an image's root need: build on workers with the backend bwrap or oci",
            )

    async def start(self, plan: StartPlan, directory: Path) -> RunningContainer:
        """Start it (`ports.Backend.start`), with its changes kept in a new `directory`."""
        self.check()
        assert plan.root is not None  # noqa: S101 - bringing saw to it
        group = make_group(self._cgroups, plan)
        first_id: int | None = None
        reading, alive = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        given = [alive]
        try:
            if self._uids is not None:
                first_id = self._uids.take()
            binds = (*resolving(plan), *plan.binds)
            about = About(first_id, tuple(bind.target for bind in binds))
            await asyncio.to_thread(begin, directory, plan.root, about)
            if first_id is not None:
                await asyncio.to_thread(hand_over, binds, first_id)
            given.append(_order_file(self._order(plan, binds, directory, first_id, alive)))
            argv = (_python(), "-I", "-S", str(MAKING), str(given[1]))
            birth = Birth(parent=os.getpid(), joins=group.entries, netns=plan.netns)
            process, stderr = await fork(argv, {}, birth, (*plan.fds, *given))
        except OSError as error:
            os.close(reading)
            self._give_back(first_id)
            self._cgroups.give_back(group)
            raise UnavailableError(
                "platform.unavailable", f"the build's container can't be started: {error}"
            ) from error
        except BaseException:
            os.close(reading)
            self._give_back(first_id)
            self._cgroups.give_back(group)
            raise
        finally:
            for fd in given:
                os.close(fd)

        def release() -> None:
            os.close(reading)
            self._cgroups.give_back(group)
            self._give_back(first_id)

        first = _First(reading)
        return Tree(process, stderr, first.has_ended, release, group, first.was_made)

    def _order(
        self,
        plan: StartPlan,
        binds: tuple[Bind, ...],
        directory: Path,
        first_id: int | None,
        alive: int,
    ) -> dict[str, Any]:
        machine = platform.machine()
        code = program(self._profile, machine)
        if first_id is None:
            code = pretending(numbers(machine), machine) + code
        return {
            "first_id": first_id,
            "no_network": plan.network != "shared" and plan.netns is None,
            "hostname": plan.hostname,
            "binds": [
                [str(bind.source), bind.target, bind.writable, bind.source.is_dir()]
                for bind in binds
            ],
            "lower": str(plan.root),
            "changes": str(directory),
            "alive": alive,
            "fds": list(plan.fds),
            "argv": plan.command(plan.fds),
            "env": plan.env,
            "cwd": plan.cwd,
            "filter": base64.b64encode(code).decode(),
        }

    def _give_back(self, first_id: int | None) -> None:
        if first_id is not None and self._uids is not None:
            self._uids.give_back(first_id)


def _python() -> str:
    return getattr(sys, "_base_executable", None) or sys.executable


def _order_file(order: dict[str, Any]) -> int:
    fd = os.memfd_create("order")
    data = json.dumps(order).encode()
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class _First:
    """The container's first process, which alone has the other end of the pipe: it says there when all is made."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self._made = False

    def has_ended(self) -> bool:
        """Return whether it is gone."""
        try:
            while os.read(self._reading, 1):
                self._made = True
        except BlockingIOError:
            return False
        return True

    def was_made(self) -> bool:
        """Return whether there was a container, once it has ended."""
        return self._made
