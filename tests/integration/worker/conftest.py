"""A dispatcher, placement and gateway in one: sends what they send, keeps what they hear."""

from __future__ import annotations

from typing import Any

import pytest
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    ContainerChanged,
    LogSegment,
)
from glowplug_contracts.messages.dispatch import AttemptEnded, AttemptRefused, RunInvocation
from glowplug_contracts.messages.invocation import (
    AttemptLost,
    InputOutcome,
    Outcome,
    Reply,
    StreamFrame,
)
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.subjects import (
    BIND,
    CONTAINER,
    ENDED,
    LOG,
    REFUSED,
    REPLY,
    RUN,
    WORKER_BEAT,
)
from glowplug_runtime.bus import Delivery

from tests.support.builders_worker import WORKER, a_binding, a_run
from tests.support.eventually import eventually


class Rest:
    """The rest of the platform, as a worker meets it."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.order: list[Any] = []  # replies and log segments, as they came
        self.replies: list[Reply] = []
        self.ended: list[AttemptEnded] = []
        self.refused: list[AttemptRefused] = []
        self.changes: list[ContainerChanged] = []
        self.beats: list[WorkerBeat] = []
        self.logs: list[LogSegment] = []

    async def open(self) -> None:
        await self.bus.listen(REPLY.pattern(), self._keep(self.replies, self.order))
        await self.bus.listen(ENDED.pattern(), self._keep(self.ended))
        await self.bus.listen(REFUSED.pattern(), self._keep(self.refused))
        await self.bus.listen(CONTAINER.pattern(), self._keep(self.changes))
        await self.bus.listen(WORKER_BEAT.pattern(), self._keep(self.beats))
        await self.bus.listen(LOG.pattern(), self._keep(self.logs, self.order))

    def _keep(self, *lists: list[Any]) -> Any:
        async def keep(delivery: Delivery[Any]) -> None:
            for each in lists:
                each.append(delivery.message)

        return keep

    async def bind(self, binding: BindContainer | None = None, **spec: Any) -> BindReply:
        message = binding or a_binding(**spec)
        return await self.bus.request(BIND.at(worker_id=WORKER), message, BindReply, timeout_s=5)

    async def bound(self, state: str = "ready", container_id: str = "ctr_1", **spec: Any) -> Any:
        reply = await self.bind(a_binding(container_id, **spec))
        assert reply.accepted, reply.reason
        return await self.change(state, container_id)

    async def change(self, state: str, container_id: str = "ctr_1") -> ContainerChanged:
        def look() -> ContainerChanged | None:
            for each in self.changes:
                if each.container_id == container_id and each.state == state:
                    return each
                # It has no other state after this one.
                assert each.container_id != container_id or each.state != "failed", each.error
            return None

        return await eventually(look, what=f"{container_id} {state}")

    def states(self, container_id: str = "ctr_1") -> list[str]:
        return [each.state.value for each in self.changes if each.container_id == container_id]

    async def run(self, message: Any, container_id: str = "ctr_1", **fields: Any) -> None:
        run = (
            message
            if isinstance(message, RunInvocation)
            else a_run(message, container_id, **fields)
        )
        await self.bus.send(RUN.at(worker_id=WORKER), run)

    @property
    def outcomes(self) -> list[InputOutcome]:
        return [each for link in self.links for each in link.outcomes]

    @property
    def links(self) -> list[Outcome]:
        return [each.outcome for each in self.replies if each.outcome is not None]

    @property
    def frames(self) -> list[StreamFrame]:
        return [each.frame for each in self.replies if each.frame is not None]

    @property
    def lost(self) -> list[AttemptLost]:
        return [each.lost for each in self.replies if each.lost is not None]


@pytest.fixture
async def rest(bus: Any) -> Rest:
    rest = Rest(bus)
    await rest.open()
    return rest
