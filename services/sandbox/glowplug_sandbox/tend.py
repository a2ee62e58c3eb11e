"""The shell around the tender: the one replica that holds the lease `sandbox` looks after all sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from glowplug_contracts.errors import ConflictError, NotFoundError, TransientError
from glowplug_contracts.messages.sandbox import SandboxRecord
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import SANDBOXES, WANTED
from glowplug_contracts.subjects import WORKER_BEAT
from glowplug_runtime.bus import Bus, Delivery, Entry
from glowplug_runtime.clock import Clock

from glowplug_sandbox.session import OWNER, is_live
from glowplug_sandbox.sessions import Sessions
from glowplug_sandbox.tending import Apply, Forget, SessionGone, SessionSeen, Tender, Ticked

log = structlog.get_logger()

LEASE = "sandbox"
TICK_S = 0.5
RECONCILE_S = 10.0
OPEN_AGAIN_S = 0.5


class Tending:
    """One reign."""

    def __init__(self, bus: Bus, clock: Clock, sessions: Sessions, start_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._sessions = sessions
        self._tender = Tender(start_s)
        self._records = bus.bucket(SANDBOXES)
        self._wishes = bus.bucket(WANTED)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Tend until the context is left."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(self.keep_tended(stack), name="keep tended"),
                tasks.create_task(self.keep_wishes_true(), name="keep wishes true"),
            ]
            yield
            for loop in loops:
                loop.cancel()

    async def keep_tended(self, stack: AsyncExitStack) -> None:
        """Hear sessions and workers, and let time pass."""
        await self._open_ears(stack)
        while True:
            await asyncio.sleep(TICK_S)
            await self._perform(self._tender.step(Ticked(), self._clock.now()))

    async def _open_ears(self, stack: AsyncExitStack) -> None:
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    for subscription in (
                        await self._records.watch(self.on_session_entry),
                        await self._bus.listen(WORKER_BEAT.pattern(), self.on_worker_beat),
                    ):
                        attempt.push_async_callback(subscription.close)
                except TransientError as error:
                    log.warning("tending.delayed", error=str(error))
                else:
                    stack.push_async_exit(attempt.pop_all())
                    return
            await asyncio.sleep(OPEN_AGAIN_S)

    async def keep_wishes_true(self) -> None:
        """Repair what a replica left behind that died between a record and its wish."""
        while True:
            try:
                await self.reconcile()
            except TransientError as error:
                log.warning("wishes.unread", error=str(error))
            await asyncio.sleep(RECONCILE_S)

    async def reconcile(self) -> None:
        """Want the containers of live sessions, and no other sandbox's."""
        # Wishes first: a session that starts meanwhile then has a record when records are read.
        wishes = [e.value for e in await self._wishes.entries() if e.value is not None]
        records = [e.value for e in await self._records.entries() if e.value is not None]
        wanted = {wish.container_id for wish in wishes if wish.owner == OWNER}
        live = {record.container_id for record in records if is_live(record)}
        for record in records:
            if record.container_id in live - wanted or (
                record.container_id in wanted and not is_live(record)
            ):
                log.info("wish.repaired", sandbox_id=record.sandbox_id, state=record.state)
                await self._sessions.match_wish(record)
        for stray in wanted - {record.container_id for record in records}:
            log.info("wish.dropped", container_id=stray)
            await self._wishes.delete(stray)

    async def on_session_entry(self, entry: Entry[SandboxRecord]) -> None:
        """A session's record changed."""
        seen = SessionSeen(entry.key, entry.value, entry.revision) if entry.value else None
        event = seen or SessionGone(entry.key)
        await self._perform(self._tender.step(event, self._clock.now()))

    async def on_worker_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        """A worker says what it holds."""
        if delivery.message is not None:
            await self._perform(self._tender.step(delivery.message, self._clock.now()))

    async def _perform(self, decisions: Sequence[Apply | Forget]) -> None:
        for decision in decisions:
            try:
                await self._perform_one(decision)
            except TransientError as error:  # the next tick or beat decides it again
                log.warning("tending.delayed", key=decision.key, error=str(error))

    async def _perform_one(self, decision: Apply | Forget) -> None:
        match decision:
            case Apply(key, event):
                with contextlib.suppress(NotFoundError):
                    record = await self._sessions.change(key, event)
                    log.info("sandbox.tended", key=key, state=record.state, reason=record.reason)
            case Forget(key, revision):
                with contextlib.suppress(ConflictError):
                    await self._records.delete(key, revision)
