"""A seeded simulation of the control plane: the real machines, a simulated broker, network and workers.

No asyncio and no clock: one heap of (time, tiebreak, what happens, to whom). While the world is ill,
core messages are delayed, dropped, doubled and overtaken, broker writes go unanswered, and processes
die, come back, or go on believing that they lead. Then it heals, and everything must come to its end.
Equal seeds give equal worlds. What must hold is judged in `world_checks.py`, apart from the machines.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec
from glowplug_autoscaler.decide import Autoscaler
from glowplug_contracts.ids import DeploymentId, InvocationId
from glowplug_contracts.messages.container import ContainerChanged
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import InvocationRequested, Outcome
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_gateway.admission import Admission
from glowplug_gateway.waiting import Waiting
from glowplug_gateway.warm import WarmSlots
from glowplug_scheduler.dispatch import Dispatcher
from glowplug_scheduler.place import Placement

STORY_LINES = 300


class Illness(msgspec.Struct, frozen=True, kw_only=True):
    """How ill the world is: shares of messages, and seconds between deaths (0 = nobody dies)."""

    dropped: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 0.0
    unanswered: float = 0.0
    death_every_s: float = 0.0
    zombies: float = 0.0
    freezes: float = (
        0.0  # share of deaths that are a long sleep instead: who wakes goes on where it was
    )
    left_out: float = 0.0  # share of records that a reader of their stream leaves out


HEALTHY = Illness()


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated. Tests of the checkers put broken ones here."""

    dispatcher: Callable[..., Dispatcher] = Dispatcher
    placement: Callable[[], Placement] = Placement
    autoscaler: Callable[[int], Autoscaler] = Autoscaler
    admission: Callable[[], Admission] = Admission
    waiting: Callable[[], Waiting] = Waiting
    warm: Callable[[], WarmSlots] = WarmSlots
    worker_checks_capacity: bool = True
    worker_compares_and_sets: bool = True


class Node:
    """A process: what is meant for one life of it never reaches the next."""

    name = ""
    alive = False
    life = 0
    frozen_until = 0.0


class Unanswered:
    """A write's fate is unknown."""


class Conflict:
    """Somebody else was first."""


class Broker(Node):
    """Streams and buckets: never lost, always in order, and the only judge of compare-and-set."""

    name = "broker"
    alive = True

    def __init__(self, world: World) -> None:
        self.world = world
        self.sequences = itertools.count(1)
        self.calls: dict[int, InvocationRequested] = {}
        self.call_owner: tuple[Any, int] | None = None
        self.records: dict[InvocationId, tuple[int, InvocationRecord]] = {}
        self.floor: tuple[int, tuple[int, ...]] = (1, ())
        self.outcomes: dict[InvocationId, list[tuple[int, Outcome]]] = {}
        self.scale: dict[DeploymentId, ScaleDecided] = {}
        self.deployments: dict[DeploymentId, Deployment] = {}
        self.followers: dict[str, list[tuple[Node, int, Callable[..., None]]]] = {}

    def follow(self, stream: str, node: Node, handler: Callable[..., None]) -> None:
        self.followers.setdefault(stream, []).append((node, node.life, handler))

    def _tell(self, stream: str, *message: Any) -> None:
        heard = [f for f in self.followers.get(stream, ()) if f[0].alive and f[0].life == f[1]]
        self.followers[stream] = heard
        for node, _, handler in heard:
            self.world.in_order((stream, node.name, node.life), node, handler, *message)

    # What a write does when it arrives here; the answer travels back by `World.write`.

    def append_call(self, request: InvocationRequested) -> int:
        sequence = next(self.sequences)
        self.calls[sequence] = request
        if self.call_owner is not None:
            self._deliver_call(sequence)
        return sequence

    def take_calls(self, owner: Any) -> None:
        self.call_owner = (owner, owner.life)
        for sequence in list(self.calls):
            self._deliver_call(sequence)

    def _deliver_call(self, sequence: int) -> None:
        assert self.call_owner is not None
        owner, life = self.call_owner
        if owner.alive and owner.life == life:
            key = ("calls", owner.name, life)
            self.world.in_order(key, owner, owner.on_call, self.calls[sequence], sequence)

    def ack(self, sequence: int, owner: Node, life: int) -> None:
        if self.call_owner == (owner, life):  # an older consumer's acks hit nothing
            self.calls.pop(sequence, None)

    def append_record(self, record: InvocationRecord, expect: int) -> int | Conflict:
        stored = self.records.get(record.invocation_id)
        if (stored[0] if stored else 0) != expect:
            return Conflict()
        sequence = next(self.sequences)
        self.world.checks.record_written(stored[1] if stored else None, record)
        self.records[record.invocation_id] = (sequence, record)
        self._tell("records", sequence, record)
        return sequence

    def stored_records(self) -> list[tuple[int, InvocationRecord]]:
        return sorted(self.records.values(), key=lambda pair: pair[0])

    def keep_floor(self, floor: int, below: tuple[int, ...]) -> int:
        self.floor = (floor, below)
        return next(self.sequences)

    def append_outcome(self, link: Outcome, expect: int) -> int | Conflict:
        chain = self.outcomes.setdefault(link.invocation_id, [])
        if self.world.machines.worker_compares_and_sets and expect != (
            chain[-1][0] if chain else 0
        ):
            return Conflict()
        sequence = next(self.sequences)
        chain.append((sequence, link))
        self.world.checks.outcome_written(link)
        return sequence

    def append_scale(self, decided: ScaleDecided) -> int:
        self.scale[decided.deployment_id] = decided
        self._tell("scale", decided)
        return next(self.sequences)

    def append_container(self, change: ContainerChanged) -> int:
        self._tell("containers", change)
        return next(self.sequences)

    def put_deployment(self, deployment: Deployment) -> None:
        self.deployments[deployment.deployment_id] = deployment
        self._tell("deployments", deployment)


class World:
    """Time, chance and the network."""

    def __init__(self, seed: int, illness: Illness, machines: Machines | None = None) -> None:
        from tests.support.world_checks import Checks  # they look at each other

        self.seed = seed
        self.rng = random.Random(seed)
        self.illness = illness
        self.machines = machines or Machines()
        self.now = 0.0
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self.broker = Broker(self)
        self.checks = Checks(self)
        self._heap: list[tuple[float, float, int, Node, int, Callable[..., None], tuple[Any, ...]]]
        self._heap = []
        self._numbers = itertools.count()
        self._last: dict[Any, float] = {}

    def tell(self, line: str) -> None:
        """Write a line of the story, which a failure shows."""
        self.story.append(f"@{self.now:.3f} {line}")

    # -- Time -----------------------------------------------------------------------------------

    def later(self, delay_s: float, node: Node, what: Callable[..., None], *args: Any) -> None:
        """Let something happen to this life of a node."""
        entry = (self.now + delay_s, self.rng.random(), next(self._numbers))
        heapq.heappush(self._heap, (*entry, node, node.life, what, args))

    def every(self, period_s: float, node: Node, what: Callable[[], None]) -> None:
        """Let something happen again and again, in this life."""

        def again() -> None:
            what()
            self.later(period_s, node, again)

        self.later(self.rng.uniform(0.0, period_s), node, again)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; return early (True) when `done`."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, _, node, life, what, args = heapq.heappop(self._heap)
            if node.frozen_until > self.now:
                entry = (node.frozen_until, 0.0, next(self._numbers))
                heapq.heappush(self._heap, (*entry, node, life, what, args))
            elif node.alive and node.life == life:
                what(*args)
                self.steps += 1
                if self.steps % 64 == 0:
                    self.checks.look()
                    if done():
                        return True
        self.now = until
        return done()

    # -- The network ----------------------------------------------------------------------------

    def latency(self) -> float:
        if self.illness.late and self.rng.random() < self.illness.late:
            return self.rng.uniform(0.0, self.illness.late_s)
        return self.rng.uniform(0.0002, 0.002)

    def send(self, node: Node, what: Callable[..., None], *args: Any, once: bool = False) -> None:
        """Core NATS: lost or doubled now and then (requests, `once`, never doubled), in no order."""
        ill = self.illness
        if ill.dropped and self.rng.random() < ill.dropped:
            self.counts["dropped"] += 1
            return
        self.later(self.latency(), node, what, *args)
        if ill.doubled and not once and self.rng.random() < ill.doubled:
            self.counts["doubled"] += 1
            self.later(self.latency(), node, what, *args)

    def in_order(self, key: Any, node: Node, what: Callable[..., None], *args: Any) -> None:
        """A followed stream: late perhaps, but everything, in order; after a hiccup the last again."""
        at = max(self._last.get(key, 0.0), self.now + self.latency())
        self._last[key] = at
        for _ in range(2 if self.illness.doubled and self.chance(self.illness.doubled) else 1):
            entry = (at, 0.0, next(self._numbers))
            heapq.heappush(self._heap, (*entry, node, node.life, what, args))

    def write(
        self, node: Node, action: Callable[[], Any], then: Callable[[Any], None] = lambda _: None
    ) -> None:
        """Ask the broker for something; the answer may never come, whether it did it or not."""
        fate = self.rng.random()
        life = node.life
        if fate < self.illness.unanswered / 2:
            self.later(1.0, node, then, Unanswered())
            return

        def arrive() -> None:
            answer = action()
            if node.alive and node.life == life:
                if fate < self.illness.unanswered:
                    self.later(1.0, node, then, Unanswered())
                else:
                    self.later(self.latency(), node, then, answer)

        self.later(self.latency(), self.broker, arrive)

    # -- Chance ---------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.rng.random() < share
