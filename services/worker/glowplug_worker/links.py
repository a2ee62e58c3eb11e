"""The worker's end of the direct path: one connection to every gateway, dialled from here.

Gateways send calls for warm slots through it and hear their answers; what it can't carry goes over the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import ContainerId, InvocationId, WorkerId
from glowplug_contracts.messages.invocation import InvocationRequested, Reply
from glowplug_contracts.messages.link import (
    LINK_FRAME_BYTES_MAX,
    LINK_HEARTBEAT_S,
    LINK_PATH,
    CallAnswered,
    CallCancelled,
    CallRefused,
    CallSent,
    SlotsTold,
    TaskEnded,
    TaskSent,
    ToGateway,
    ToWorker,
    WorkerLinked,
)
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_worker.ports import Room
from glowplug_worker.rooms import Told

log = structlog.get_logger()

CONNECT_S: Final = 5.0


class Service(Protocol):
    """Who takes the calls."""

    @property
    def rooms(self) -> Mapping[ContainerId, Room]:
        """The containers that live here."""

    def take_call(self, frame: CallSent) -> str:
        """Take a call; return "" or why not."""

    def take_task(self, frame: TaskSent, gateway: str) -> str:
        """Take durable work that is stored as running here; return "" or why not."""

    def cancel_call(self, frame: CallCancelled) -> None:
        """Stop a call."""


class GatewayLink:
    """One gateway's connection."""

    def __init__(self, instance: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.instance = instance
        self.socket = socket
        self.told = Told()

    async def send(self, frame: ToGateway) -> bool:
        """Send one frame; False if the connection is gone."""
        return await self.send_encoded(encode(frame, "msgpack"))

    async def send_encoded(self, frame: bytes) -> bool:
        """Send one frame; False if the connection is gone."""
        try:
            await self.socket.send_bytes(frame)
        except ConnectionError:
            return False
        return True


class Links:
    """See the module.

    Args:
        session: shows the internal token.
        gateways: the ready ones: where each instance answers now.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        worker_id: WorkerId,
        gateways: Callable[[], Mapping[str, str]],
        spawn: Callable[..., Any],
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        self._gateways = gateways
        self._spawn = spawn
        self._links: dict[str, GatewayLink] = {}
        self._dialled: set[str] = set()
        self._service: Service | None = None

    def serve(self, service: Service) -> None:
        """Pass calls to `service` from now on."""
        self._service = service

    async def keep(self) -> None:
        """Dial the gateways that are not linked; called a few times a second."""
        if self._service is None:
            return
        for instance, url in self._gateways().items():
            if instance not in self._dialled:
                self._dialled.add(instance)
                self._spawn(self._dial(instance, url), "link")

    async def close(self) -> None:
        """End every link."""
        self._service = None
        for link in list(self._links.values()):
            await link.socket.close()

    # -- saying ---------------------------------------------------------------------------------

    async def answer(self, instance: str, reply: Reply, room: Room | None = None) -> bool:
        """Answer through the link to `instance`, with what room `room` has now; False where there is none."""
        link = self._links.get(instance)
        if link is None:
            return False
        slots = None if room is None else link.told.say(room)
        return await link.send(CallAnswered(reply=reply, slots=slots))

    async def task_ended(
        self,
        instance: str,
        invocation_id: InvocationId,
        sequence: int,
        record: InvocationRecord | None,
        room: Room,
    ) -> None:
        """Tell the gateway that sent a task what became of it, if it is still linked."""
        link = self._links.get(instance)
        if link is None:
            return
        ended = TaskEnded(
            invocation_id=invocation_id,
            sequence=sequence,
            record=record,
            slots=link.told.say(room),
        )
        frame = encode(ended, "msgpack")
        if len(frame) > LINK_FRAME_BYTES_MAX:  # it can be read
            frame = encode(msgspec.structs.replace(ended, record=None), "msgpack")
        await link.send_encoded(frame)

    def changed(self, rooms: Iterable[Room]) -> None:
        """Containers have got or lost room by other means than answers: tell who can't know."""
        if not self._links:
            return
        for room in rooms:
            for link in self._links.values():
                if link.told.should_hear(room):
                    self._spawn(link.send(link.told.say(room)), "tell slots")

    # -- hearing --------------------------------------------------------------------------------

    async def _dial(self, instance: str, url: str) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._session.ws_connect(
                    url + LINK_PATH,
                    heartbeat=LINK_HEARTBEAT_S,
                    max_msg_size=LINK_FRAME_BYTES_MAX,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("link.failed", gateway=instance, error=repr(error))
            self._dialled.discard(instance)
            return
        link = GatewayLink(instance, socket)
        try:
            await self._hear(link)
        except ContractError as error:
            log.warning("link.violated", gateway=instance, error=str(error))
        finally:
            if self._links.get(instance) is link:
                del self._links[instance]
            self._dialled.discard(instance)
            await socket.close()
            log.info("link.ended", gateway=instance)

    async def _hear(self, link: GatewayLink) -> None:
        service = self._service
        if service is None or not await link.send(
            WorkerLinked(worker_id=self._worker_id, tasks=True)
        ):
            return
        self._links[link.instance] = link
        log.info("link.opened", gateway=link.instance)
        self.changed(service.rooms.values())
        async for message in link.socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise ContractError("platform.contract", f"a frame of type {message.type.name}")
            # mypy takes a union of types for no type.
            frame = decode(message.data, ToWorker, "msgpack")  # type: ignore[arg-type,var-annotated]
            if isinstance(frame, CallCancelled):
                service.cancel_call(frame)
            else:
                await self._take(link, service, frame)

    async def _take(self, link: GatewayLink, service: Service, frame: CallSent | TaskSent) -> None:
        container_id = frame.container_id
        link.told.count(container_id)
        if isinstance(frame, TaskSent):
            sent: InvocationRequested | InvocationRecord = frame.record
            reason = service.take_task(frame, link.instance)
        else:
            sent = frame.request
            reason = service.take_call(frame)
        room = service.rooms.get(container_id)
        if not reason:
            # Others may have left their slots unsaid, as long as the gateway counted on this one.
            if room is not None and link.told.should_hear(room):
                await link.send(link.told.say(room))
            return
        if room is None:
            slots = SlotsTold(
                container_id=container_id, deployment_id=sent.deployment_id, free=0, closed=True
            )
        else:
            slots = link.told.say(room)
        refused = CallRefused(invocation_id=sent.invocation_id, reason=reason, slots=slots)
        await link.send(refused)
