"""What both machines of the scheduler hear: workers, containers, time and the broker's reach.

The shells make these from the bus's messages. Every time in an event of this package is on the clock
of the machine that steps (seconds that never jump), not Unix time: the shell translates. Events may
come twice, late or in another order than they were sent; the machines must bear it.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ContainerChanged
from glowplug_contracts.messages.worker import WorkerBeat


class Tick(msgspec.Struct, frozen=True):
    """Time passed. Shells tick every 50 ms (dispatcher) or 200 ms (placement)."""


class BeatHeard(msgspec.Struct, frozen=True):
    """A worker told its whole truth."""

    beat: WorkerBeat


class ContainerMoved(msgspec.Struct, frozen=True):
    """A container reached a state, as its worker says (or placement, for a dead worker)."""

    change: ContainerChanged


class BrokerReached(msgspec.Struct, frozen=True):
    """The connection to the broker went (False) or came back: while away, silence proves nothing."""

    connected: bool


class WorkerAnswered(msgspec.Struct, frozen=True):
    """A silent worker answered a direct question: it lives."""

    worker_id: WorkerId


class WorkerUnreachable(msgspec.Struct, frozen=True):
    """Nobody listens under a silent worker's name: its process is gone or cut off."""

    worker_id: WorkerId


class AskWorker(msgspec.Struct, frozen=True):
    """Decision: ask a silent worker directly whether it lives, and tell the machine.

    Answer with WorkerAnswered or WorkerUnreachable; with nothing, if the question timed out.
    """

    worker_id: WorkerId
