"""What every part of a worker works with, in one value: made once by the composition root."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.ids import Digest, WorkerId
from glowplug_contracts.messages.dispatch import InvocationFact
from glowplug_runtime.bus import Bus

from glowplug_worker.door import Gateways, NoGateways
from glowplug_worker.gpus.watch import Gpus
from glowplug_worker.networks import HostNetworks
from glowplug_worker.notices import Notices
from glowplug_worker.outbox import Outbox
from glowplug_worker.ports import (
    Answers,
    Backend,
    Blobs,
    ImageStore,
    Interpreter,
    IoLimits,
    Networks,
    Pythons,
    Room,
    RootedBackend,
    RunningContainer,
    StartPlan,
)
from glowplug_worker.settings import CANCEL_GRACE_S
from glowplug_worker.templates import Templates

# History is for people; when the broker is away for long, the oldest of it goes first.
FACTS_KEPT_MAX = 20_000


class Clock(Protocol):
    """Time, as the runtime gives it."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def unix(self) -> float:
        """Return Unix seconds."""


class Changes:
    """Where containers say that they changed; whoever tells the world listens."""

    def __init__(self) -> None:
        self._listener: Callable[[Room], None] = lambda _: None

    def listen(self, listener: Callable[[Room], None]) -> None:
        """Call `listener` for every change from now on."""
        self._listener = listener

    def tell(self, changed: Room) -> None:
        """A container changed."""
        self._listener(changed)


class NoRooted:
    """What stands for it where nobody gave one."""

    def check(self) -> None:
        """There is none."""
        raise RejectedError(
            "image.unsupported", "this worker has no containers whose root can be changed"
        )

    async def start(self, plan: StartPlan, directory: Path) -> RunningContainer:  # noqa: ARG002
        """There is none."""
        self.check()
        raise AssertionError("check refuses")


class Workshop(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's surroundings.

    Attributes:
        spawn: runs a coroutine in the service's task group; what it raises is logged.
        directory: the worker's own, locked.
        sdk: directory that holds the package `glowplug` and nothing else.
        compile_for: has that package compiled for a Python, some time.
        facts: history lines that wait for their batch.
        gateways: where requests of code inside containers go.
        networks: what containers may be attached to.
        gpus: this host's real ones.
        changes: told when a container's state changed, so that a beat tells soon.
        answers: the short way to gateways that are linked.
        notices: what dispatchers must hear of calls that came that way.
        rooted: starts builds that may change their root.
        templates: what containers are forked from; None where they can't be.
        pids: how many processes and threads each container may have; 0 = not limited.
        io: what each container may ask of each disk in a second.
        refuses_unenforced: a container whose limits the backend can't hold it to is not started.
        outbox: outcomes that are being stored after they were told.
        trees: those that are all here and that other workers may have.
        cancel_grace_s: after which one that is deaf to its cancel is killed.
    """

    worker_id: WorkerId
    bus: Bus
    clock: Clock
    spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    backend: Backend
    pythons: Pythons
    images: ImageStore
    blobs: Blobs
    directory: Path
    sdk: Path
    changes: Changes
    facts: deque[InvocationFact]
    answers: Answers
    notices: Notices
    outbox: Outbox
    compile_for: Callable[[Interpreter], None] = lambda _: None
    gateways: Gateways = NoGateways()
    networks: Networks = HostNetworks()
    gpus: Gpus = msgspec.field(default_factory=Gpus)
    volumes_dir: Path | None = None
    cancel_grace_s: float = CANCEL_GRACE_S
    templates: Templates | None = None
    rooted: RootedBackend = NoRooted()
    pids: int = 0
    io: IoLimits = IoLimits()
    refuses_unenforced: bool = False
    trees: Callable[[], Sequence[Digest]] = tuple
