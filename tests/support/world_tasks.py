"""How the simulated gateways accept durable work: through the stream, or straight to a warm slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State, is_terminal
from glowplug_contracts.messages.link import CallCancelled, TaskEnded, TaskSent
from glowplug_contracts.messages.record import InvocationRecord, attempts_after, ordered_by
from glowplug_gateway.at_once import claimed, may_go_straight, unclaimed
from glowplug_gateway.line import Line
from glowplug_gateway.straight import PUT_BACK_PAUSE_S, PUT_BACK_TRIES_MAX, SEND_WITHIN_S

from tests.support.world import Node, Unanswered

if TYPE_CHECKING:
    from glowplug_gateway.warm import Slot

    from tests.support.world_links import Link
    from tests.support.world_nodes import Gateway

CANCELLED = RemoteError(code="invocation.cancelled", type="CancelledError", message="cancelled")


class Tasks(Node):
    """One life's part of a gateway that accepts durable work."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.world = gateway, gateway.world
        self.line = Line()
        self.sent: dict[InvocationId, Link] = {}
        self.world.broker.follow("records", gateway, self._on_record)

    def _on_record(self, _: int, record: InvocationRecord) -> None:
        if record.state is not State.ACCEPTED:
            self.line.leave(record.invocation_id)

    def put(self, record: InvocationRecord, then: Callable[[Any], None]) -> None:
        """Store new work, as running where a slot is known; tell `then` how that went."""
        slot = self._lend(record)
        if slot is not None:
            worker_id = WorkerId(self.gateway.links[slot.link].worker.name)
            record = claimed(record, worker_id, slot.container_id, self.world.now)
        self.line.join(record)
        began_at = self.world.now

        def stored(answer: Any) -> None:
            if not isinstance(answer, int):
                self.line.leave(record.invocation_id)
                if slot is not None:
                    self.gateway.warm.give_back(slot)
            elif slot is not None:
                self._send(slot, record, answer, began_at)
            then(answer)

        self.world.write(self.gateway, lambda: self.world.broker.append_record(record, 0), stored)

    def _lend(self, record: InvocationRecord) -> Slot | None:
        deployment_id: DeploymentId = record.deployment_id
        waits = self.line.waits(deployment_id) or self.gateway.queued.get(deployment_id, 0) > 0
        if waits or not may_go_straight(record):
            return None
        return self.gateway.warm.take(deployment_id)

    def _send(self, slot: Slot, record: InvocationRecord, sequence: int, began_at: float) -> None:
        link = self.gateway.links.get(slot.link)
        if self.world.now - began_at > SEND_WITHIN_S:
            self.world.counts["tasks stored late"] += 1
            self.gateway.warm.give_back(slot)
        elif link is not None:
            self.world.counts["tasks sent straight"] += 1
            link.tasks[record.invocation_id] = sequence
            self.sent[record.invocation_id] = link
            link.to_worker(
                TaskSent(container_id=slot.container_id, shard=0, sequence=sequence, record=record)
            )
            return
        self._put_back(record.invocation_id, sequence, PUT_BACK_TRIES_MAX)

    def leave(self, link: Link, invocation_id: InvocationId) -> int | None:
        sequence = link.tasks.pop(invocation_id, None)
        if sequence is not None and self.sent.get(invocation_id) is link:
            del self.sent[invocation_id]
        return sequence

    def refused(self, link: Link, invocation_id: InvocationId) -> None:
        sequence = self.leave(link, invocation_id)
        if sequence is not None:
            self.world.counts["tasks refused straight"] += 1
            self._put_back(invocation_id, sequence, PUT_BACK_TRIES_MAX)

    def ended(self, link: Link, ended: TaskEnded) -> None:
        if self.leave(link, ended.invocation_id) and ended.record is not None:
            self.world.checks.end_told(ended.record)

    def link_ended(self, link: Link) -> None:
        for invocation_id in list(link.tasks):
            self.leave(link, invocation_id)

    def _put_back(self, invocation_id: InvocationId, sequence: int, tries: int) -> None:
        stored = self.world.broker.records.get(invocation_id)
        if stored is None or stored[0] != sequence or not tries:
            return
        record = msgspec.structs.replace(
            unclaimed(stored[1]), order=ordered_by(stored[1], sequence)
        )
        self.line.join(record)

        def then(answer: Any) -> None:
            if isinstance(answer, Unanswered):
                self.world.later(
                    PUT_BACK_PAUSE_S,
                    self.gateway,
                    self._put_back,
                    invocation_id,
                    sequence,
                    tries - 1,
                )

        self.world.counts["tasks put back"] += 1
        self.world.write(
            self.gateway, lambda: self.world.broker.append_record(record, sequence), then
        )

    def cancel(self, invocation_id: InvocationId) -> None:
        """Write the end, then have it stopped where it runs."""
        stored = self.world.broker.records.get(invocation_id)
        if stored is None or is_terminal(stored[1].state):
            return
        sequence, record = stored
        cancelled = msgspec.structs.replace(
            record,
            state=State.CANCELLED,
            ended_at=self.world.now,
            order=ordered_by(record, sequence),
            outcome=InputOutcome(state=State.CANCELLED, error=CANCELLED),
            attempts=attempts_after(record, State.CANCELLED, CANCELLED, self.world.now),
        )

        def then(answer: Any) -> None:
            if not isinstance(answer, int):
                return
            self.world.counts["tasks cancelled"] += 1
            link = self.sent.get(invocation_id)
            if link is not None:
                link.to_worker(CallCancelled(invocation_id=invocation_id))
            for scheduler in self.gateway.nodes.schedulers() if link is None else ():
                self.world.send(scheduler, scheduler.on_cancel, invocation_id)

        self.world.write(
            self.gateway, lambda: self.world.broker.append_record(cancelled, sequence), then
        )
