"""The workers that are linked to this gateway, and the calls that run straight through their links.

A worker dials (`http/links.py` is the door), tells which of its containers have room, and answers here every
call whose gateway this is. A link that ends counts as a lost worker for the calls that were sent through it: the
waiting machine sends them again as the next attempt, through the shard's stream. Durable work runs on without
its link; if it does not, the dispatcher finds that out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Final, Protocol

import msgspec
import structlog
from aiohttp import WSMessage, WSMsgType, web
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import ContractError
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.invocation import AttemptLost, InvocationRequested, Reply
from glowplug_contracts.messages.link import (
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

from glowplug_gateway.warm import Slot, WarmSlots

log = structlog.get_logger()

_VIOLATION: Final = 1002  # WebSocket: protocol error
_GOING_AWAY: Final = 1001


class Caller(Protocol):
    """Who holds the calls."""

    def hear(self, reply: Reply) -> None:
        """A worker says something about a call."""

    def refused(self, invocation_id: InvocationId) -> None:
        """A worker did not take a call: it goes another way, as the same attempt."""


class TaskKeeper(Protocol):
    """Who keeps durable work."""

    def task_refused(
        self, workspace: WorkspaceId, invocation_id: InvocationId, sequence: int, reason: str
    ) -> None:
        """A worker did not take what is stored as running there, at `sequence`."""

    def task_ended(self, ended: TaskEnded) -> None:
        """A worker has stored what became of it."""


class Lent(msgspec.Struct, frozen=True):
    """A slot that durable work is being stored for."""

    slot: Slot
    worker_id: WorkerId


class Link:
    """One worker's connection."""

    def __init__(self, number: int, linked: WorkerLinked, socket: web.WebSocketResponse) -> None:
        self.number = number
        self.worker_id = linked.worker_id
        self.takes_tasks = linked.tasks
        self.socket = socket
        self.calls: dict[InvocationId, int] = {}  # with their attempts
        self.tasks: dict[InvocationId, tuple[WorkspaceId, int]] = {}  # with their sequences

    async def send(self, frame: ToWorker) -> None:
        """Send one frame. Raises: ConnectionError."""
        await self.socket.send_bytes(encode(frame, "msgpack"))


class Links:
    """See the module."""

    def __init__(self) -> None:
        self._warm = WarmSlots()
        self._links: dict[int, Link] = {}
        self._by_call: dict[InvocationId, Link] = {}
        self._by_task: dict[InvocationId, Link] = {}
        self._numbers = itertools.count(1)
        self._caller: Caller | None = None
        self._keeper: TaskKeeper | None = None
        self._draining = False
        self._answered = asyncio.Event()

    def listen(self, caller: Caller) -> None:
        """Tell `caller` from now on."""
        self._caller = caller

    def listen_for_tasks(self, keeper: TaskKeeper) -> None:
        """Tell `keeper` of durable work from now on."""
        self._keeper = keeper

    def __len__(self) -> int:
        return len(self._links)

    # -- out ------------------------------------------------------------------------------------

    async def send(self, request: InvocationRequested, shard: int) -> bool:
        """Send a call to a warm slot, or return False where none is known."""
        slot = None if self._draining else self._warm.take(request.deployment_id)
        if slot is None:
            return False
        link = self._links[slot.link]
        link.calls[request.invocation_id] = request.attempt
        self._by_call[request.invocation_id] = link
        try:
            await link.send(CallSent(container_id=slot.container_id, shard=shard, request=request))
        except ConnectionError:
            self._end(link)  # perhaps it arrived: the call counts as lost, not as never sent
        return True

    async def cancel(self, invocation_id: InvocationId) -> bool:
        """Pass a cancel on to the worker that was sent the call; False if none was."""
        link = self._by_call.get(invocation_id) or self._by_task.get(invocation_id)
        if link is None:
            return False
        try:
            await link.send(CallCancelled(invocation_id=invocation_id))
        except ConnectionError:
            self._end(link)
        return True

    def forget(self, invocation_id: InvocationId) -> None:
        """A call that went out here was answered over the broker: nobody waits for the link's answer."""
        link = self._by_call.get(invocation_id)
        if link is not None:
            self._leave(link, invocation_id)

    def lend(self, deployment_id: DeploymentId) -> Lent | None:
        """Return a warm slot that takes durable work, counted as taken, or None."""
        slot = None if self._draining else self._warm.take(deployment_id)
        if slot is None:
            return None
        link = self._links[slot.link]
        if link.takes_tasks:
            return Lent(slot, link.worker_id)
        self._warm.give_back(slot)
        return None

    def take_back(self, lent: Lent) -> None:
        """Nothing was sent to a slot that was lent."""
        self._warm.give_back(lent.slot)

    async def send_task(self, lent: Lent, frame: TaskSent) -> bool:
        """Send durable work to a slot that was lent; False if it surely never left."""
        link = self._links.get(lent.slot.link)
        if link is None:
            return False
        record = frame.record
        link.tasks[record.invocation_id] = record.workspace, frame.sequence
        self._by_task[record.invocation_id] = link
        try:
            await link.send(frame)
        except ConnectionError:
            self._end(link)  # perhaps it arrived: its worker's beats say so
        return True

    # -- in -------------------------------------------------------------------------------------

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Hear one worker until its connection ends."""
        link: Link | None = None
        try:
            async for message in socket:
                frame = _frame(message)
                if link is None:
                    link = self._open(frame, socket)
                else:
                    self._take(link, frame)
        except ContractError as error:
            log.warning("link.violated", worker_id=link and link.worker_id, error=str(error))
            await socket.close(code=_VIOLATION)
        finally:
            if link is not None:
                self._end(link)

    async def drain(self, grace_s: float) -> None:
        """Send nothing more; let what was sent be answered for `grace_s`; then end every link."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._by_call:
                    self._answered.clear()
                    await self._answered.wait()
        for link in list(self._links.values()):
            await link.socket.close(code=_GOING_AWAY)

    def _open(self, frame: ToGateway, socket: web.WebSocketResponse) -> Link:
        if not isinstance(frame, WorkerLinked):
            raise ContractError("platform.contract", "a link begins with its worker's name")
        link = Link(next(self._numbers), frame, socket)
        self._links[link.number] = link
        self._warm.open(link.number)
        log.info("link.opened", worker_id=link.worker_id)
        return link

    def _take(self, link: Link, frame: ToGateway) -> None:
        if isinstance(frame, WorkerLinked):
            raise ContractError("platform.contract", "a worker says its name once")
        # The room first: whoever is woken by an answer may call again at once.
        slots = frame if isinstance(frame, SlotsTold) else frame.slots
        if slots is not None:
            self._warm.told(link.number, slots)
        match frame:
            case CallAnswered(reply=reply) if self._caller is not None:
                ended = reply.outcome or reply.lost
                if ended is not None:
                    self._leave(link, ended.invocation_id)
                self._caller.hear(reply)
            case CallRefused():
                self._refused(link, frame)
            case TaskEnded(invocation_id=invocation_id) if self._keeper is not None:
                # A word about what was not sent here is none.
                task = self._leave_task(link, invocation_id)
                if task is not None and _is_about(frame, task[0]):
                    self._keeper.task_ended(frame)

    def _refused(self, link: Link, refused: CallRefused) -> None:
        invocation_id = refused.invocation_id
        if self._leave(link, invocation_id) and self._caller is not None:
            self._caller.refused(invocation_id)
            return
        task = self._leave_task(link, invocation_id)
        if task is not None and self._keeper is not None:
            workspace, sequence = task
            self._keeper.task_refused(workspace, invocation_id, sequence, refused.reason)

    def _leave(self, link: Link, invocation_id: InvocationId) -> bool:
        if link.calls.pop(invocation_id, None) is None:
            return False
        self._by_call.pop(invocation_id, None)
        self._answered.set()
        return True

    def _leave_task(
        self, link: Link, invocation_id: InvocationId
    ) -> tuple[WorkspaceId, int] | None:
        task = link.tasks.pop(invocation_id, None)
        if task is not None and self._by_task.get(invocation_id) is link:
            del self._by_task[invocation_id]
        return task

    def _end(self, link: Link) -> None:
        if self._links.pop(link.number, None) is None:
            return
        self._warm.close(link.number)
        log.info(
            "link.ended",
            worker_id=link.worker_id,
            calls=len(link.calls),
            tasks=len(link.tasks),
        )
        for invocation_id in list(link.tasks):
            self._leave_task(link, invocation_id)
        for invocation_id, attempt in list(link.calls.items()):
            self._leave(link, invocation_id)
            if self._caller is not None:
                lost = AttemptLost(invocation_id=invocation_id, attempt=attempt, cause="worker")
                self._caller.hear(Reply(lost=lost))


def _is_about(ended: TaskEnded, workspace: WorkspaceId) -> bool:
    """Return whether a record that is told is of the task that was sent."""
    record = ended.record
    told = None if record is None else (record.invocation_id, record.workspace)
    return told is None or told == (ended.invocation_id, workspace)


def _frame(message: WSMessage) -> ToGateway:
    if message.type is not WSMsgType.BINARY:
        raise ContractError("platform.contract", f"a frame of type {message.type.name}")
    # mypy takes a union of types for no type.
    return decode(message.data, ToGateway, "msgpack")  # type: ignore[arg-type]
