"""A scripted worker at the other end of a gateway's link."""

from __future__ import annotations

from typing import Any

import aiohttp
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.ids import ContainerId, DeploymentId
from glowplug_contracts.messages.invocation import InvocationRequested, Outcome, Reply
from glowplug_contracts.messages.link import (
    LINK_PATH,
    CallAnswered,
    CallSent,
    SlotsTold,
    TaskSent,
    ToGateway,
    ToWorker,
)

from tests.support.gateway_world import Web, ok

CONTAINER = ContainerId("ctr_1")


class LinkedWorker:
    """One linked worker with one container; the test is its head."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, deployment: str) -> None:
        self.socket = socket
        self.deployment = DeploymentId(deployment)
        self.seen = 0

    async def send(self, frame: ToGateway) -> None:
        await self.socket.send_bytes(encode(frame, "msgpack"))

    async def receive(self) -> Any:
        message = await self.socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        frame = decode(message.data, ToWorker, "msgpack")
        self.seen += isinstance(frame, CallSent | TaskSent)
        return frame

    def slots(self, free: int) -> SlotsTold:
        return SlotsTold(
            container_id=CONTAINER, deployment_id=self.deployment, free=free, seen=self.seen
        )

    async def answer(self, request: InvocationRequested, value: object, **reply: Any) -> None:
        outcome = Outcome(
            invocation_id=request.invocation_id,
            attempt=reply.pop("attempt", request.attempt),
            outcomes=(ok(value),),
        )
        await self.send(CallAnswered(reply=Reply(outcome=outcome, **reply), slots=self.slots(1)))


def a_link(gateway: Web, token: str = "internal"):
    headers = {"Authorization": f"Bearer {token}"}
    return gateway.session.ws_connect(gateway.url + LINK_PATH, headers=headers)
