"""What must hold in the simulated world, whatever happens: judged from outside the machines.

C1 no input ever has two different outcomes, and a caller gets the one that was stored, or will be if any is
C2 nothing accepted is lost: every call and every durable record comes to its end, by a right reason
C3 no worker's CPU, memory, GPUs or slots are ever oversold
C4 at rest a deployment has exactly its minimum
C5 nothing stays parked once there is room
C7 no more of a key run than its limit, and a key in order is never overtaken
C8 in no period more of a queue begin than its rate allows
C9 what waits for others runs when, and only when, they have ended as it asks
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

from glowplug_contracts.ids import DeploymentId, InvocationId
from glowplug_contracts.messages.deployment import DeploymentState
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    InputOutcome,
    Outcome,
    State,
    is_terminal,
)
from glowplug_contracts.messages.record import InvocationRecord

if TYPE_CHECKING:
    from tests.support.world import World

EPSILON_S = 1e-9


class BrokenError(AssertionError):
    """A promise does not hold."""


class Checks:
    """Hears what the world does, and looks at it now and then."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stored: dict[tuple[InvocationId, int], InputOutcome] = {}
        self.told: dict[tuple[InvocationId, int], InputOutcome] = {}
        self.nodes: Any = None
        self._handed: dict[tuple[InvocationId, int], float] = {}
        self._began: dict[DeploymentId, list[float]] = {}

    def must(self, holds: object, promise: str) -> None:
        if not holds:
            raise BrokenError(promise)

    # -- As it happens --------------------------------------------------------------------------

    def outcome_written(self, link: Outcome) -> None:
        for outcome in link.outcomes:
            key = (link.invocation_id, outcome.index)
            self.must(key not in self.stored, f"C1 {key} has a second outcome")
            self.stored[key] = outcome
            told = self.told.get(key, outcome)
            self.must(told == outcome, f"C1 {key}: stored is another outcome than was told")

    def outcome_delivered(
        self, invocation_id: InvocationId, outcome: InputOutcome, *, stored: bool
    ) -> None:
        key = (invocation_id, outcome.index)
        self.told[key] = outcome
        if not stored:
            link = self.stored.get(key, outcome)
            self.must(link == outcome, f"C1 {key}: told is another outcome than was stored")
            return
        found = self.stored.get(key)
        self.must(found is not None, f"C1 {invocation_id}: an outcome that nobody stored")
        self.must(found == outcome, f"C1 {invocation_id}: another outcome than the stored one")

    def end_told(self, record: InvocationRecord) -> None:
        _, stored = self.world.broker.records[record.invocation_id]
        self.must(stored == record, f"C1 {record.invocation_id}: an end that nobody stored")

    def record_written(self, before: InvocationRecord | None, after: InvocationRecord) -> None:
        if before is None:
            return
        name = after.invocation_id
        self.must(not is_terminal(before.state), f"C1 {name} changed after its end")
        if after.state is State.DEAD:
            often = after.lost_attempts > PLATFORM_RETRIES_MAX
            self.must(often, f"C2 {name} was given up after {after.lost_attempts} losses")

        if after.state is State.RUNNING and before.state is not State.RUNNING:
            self._rated(after)
            self._followed(after)
        # An order holds among those that are known: not where a reader kept one from the dispatcher.
        if (
            after.state is State.RUNNING
            and after.key.key
            and not self.world.counts["records left out"]
        ):
            self._beside(after)

    def handed(self, invocation_id: InvocationId, sequence: int) -> None:
        """A dispatcher sends a record's next attempt to a worker: its rate counts it from now."""
        self._handed[invocation_id, sequence] = self.world.now

    def _rated(self, after: InvocationRecord) -> None:
        """No period has more starts than the rate: counted from the hand, which is the dispatcher's to time."""
        rate = after.rate
        if not rate.count or self.world.counts["records left out"]:
            return
        sequence, _ = self.world.broker.records[after.invocation_id]
        began = self._began.setdefault(after.deployment_id, [])
        bisect.insort(began, self._handed[after.invocation_id, sequence])
        self.world.counts["starts under a rate"] += 1
        for first, beyond in zip(began, began[rate.count :], strict=False):
            apart_s = beyond - first
            holds = apart_s >= rate.period_s - EPSILON_S
            self.must(holds, f"C8 {rate.count + 1} of {after.deployment_id} in {apart_s} s")

    def _followed(self, after: InvocationRecord) -> None:
        """What waits for others begins when they have ended as it asks, not before."""
        if after.after:
            name = after.invocation_id
            self.must(self._may_begin(after), f"C9 {name} began before its time")
            self.world.counts["followers began"] += 1

    def _may_begin(self, waiter: InvocationRecord) -> bool:
        records = self.world.broker.records
        states = [records[one][1].state for one in waiter.after if one in records]
        well = [state is State.SUCCEEDED for state in states]
        all_ended = len(states) == len(waiter.after) and all(map(is_terminal, states))
        match waiter.after_if:
            case "succeeded":
                return all_ended and all(well)
            case "failed":
                return any(is_terminal(s) and s is not State.SUCCEEDED for s in states)
        return all_ended

    def _beside(self, after: InvocationRecord) -> None:
        """What runs of a key beside this one, and before it in the key's order."""
        same = [
            one
            for _, one in self.world.broker.records.values()
            if one.key.key == after.key.key and one.invocation_id != after.invocation_id
        ]
        running = [one.invocation_id for one in same if one.state is State.RUNNING]
        limit = 1 if after.key.ordered else after.key.limit
        self.must(len(running) < limit, f"C7 {after.invocation_id} runs beside {running}")
        if after.key.ordered:
            earlier = [
                one.invocation_id
                for sequence, one in self.world.broker.records.values()
                if one.key.key == after.key.key
                and not is_terminal(one.state)
                and (one.order or sequence) < after.order
            ]
            self.must(not earlier, f"C7 {after.invocation_id} overtook {earlier}")

    def worker_changed(self, worker: Any) -> None:
        live = worker.containers.values()
        needs = [each.bind.spec.resources for each in live]
        cpu = sum(each.cpu_millis for each in needs)
        memory = sum(each.memory_bytes for each in needs)
        gpus = [gpu for each in live for gpu in each.bind.gpu_ids]
        self.must(cpu <= worker.cpu_millis, f"C3 {worker.name}: {cpu}m of {worker.cpu_millis}m")
        self.must(memory <= worker.memory_bytes, f"C3 {worker.name}: memory")
        self.must(len(gpus) == len(set(gpus)), f"C3 {worker.name}: a GPU is used twice: {gpus}")
        for each in live:
            self.must(len(each.flights) <= each.slots, f"C3 {each.name}: slots")

    def look(self) -> None:
        """Let the machines check themselves."""
        if self.nodes is not None:
            for machine in self.nodes.machines():
                machine.check()

    # -- In the end -----------------------------------------------------------------------------

    def all_ended(self) -> bool:
        """Return whether everything accepted has its end."""
        return not self.unended()

    def unended(self) -> list[str]:
        calls = [
            call.invocation_id
            for call in self.nodes.client.calls.values()
            if not (call.ended or call.cancelled)
        ]
        records = [
            f"{record.invocation_id} {record.state}"
            for _, record in self.world.broker.records.values()
            if not is_terminal(record.state)
        ]
        return calls + records

    def everything_ended(self) -> None:
        self.must(self.all_ended(), f"C2 never ended: {self.unended()}")
        accepted = self.nodes.client.accepted
        missing = accepted - self.world.broker.records.keys()
        self.must(not missing, f"C2 accepted and gone: {missing}")
        for _, record in self.world.broker.records.values():
            if record.after and not self._excused(record):
                begun, may = record.attempt > 0, self._may_begin(record)
                self.must(
                    begun == may, f"C9 {record.invocation_id} {record.state}: {record.reason}"
                )

    def _excused(self, record: InvocationRecord) -> bool:
        """Return whether it may have ended without beginning for reasons of its function's."""
        state = self.nodes.deployment(record.deployment_id).state
        return state is DeploymentState.DELETED or record.deployment_id in self.nodes.flaky

    def at_rest(self) -> bool:
        return not self.restless()

    def restless(self) -> list[str]:
        """Return which deployments have other than their minimum, and what is parked."""
        found = []
        for deployment_id, deployment in sorted(self.world.broker.deployments.items()):
            live = [
                each.name
                for worker in self.nodes.workers
                for each in worker.containers.values()
                if each.bind.spec.deployment_id == deployment_id
            ]
            deleted = deployment.state is DeploymentState.DELETED
            minimum = 0 if deleted else deployment.spec.autoscaler.min_containers
            decided = self.world.broker.scale.get(deployment_id)
            wanted = minimum if decided is None else decided.target
            if wanted != minimum:  # what is wanted may still be waiting for room
                found.append(f"C4 {deployment_id} is to have {wanted} instead of {minimum}")
            if len(live) != minimum:
                found.append(f"C4 {deployment_id} has {live} instead of {minimum}")
        for scheduler in self.nodes.schedulers():
            found += [f"C5 {key} is parked" for key in scheduler.placement.state.parked]
        return found

    def everything_rests(self) -> None:
        restless = self.restless()
        self.must(not restless, "; ".join(restless))
