"""The shell around one shard's schedules: stored states and timers in, writes and invocations out.

Entered with the shard's lease. Each schedule's steps are taken one after another, many schedules' at once;
the answer to each decision is the machine's next event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from glowplug_contracts.errors import ConflictError, PlatformError
from glowplug_contracts.ids import DeploymentId, WorkspaceId
from glowplug_contracts.messages.deployment import Deployment, DeploymentState, FunctionKind
from glowplug_contracts.messages.record import record_headers
from glowplug_contracts.messages.schedule import ScheduleDue, ScheduleState, TimerSet
from glowplug_contracts.streams import DEPLOYMENTS, SCHEDULE_STATES
from glowplug_contracts.subjects import DUE, RECORD, TIMER, shard_of
from glowplug_runtime.bus import Bus, Delivery, Entry
from glowplug_runtime.clock import Clock
from glowplug_runtime.due_times import NEVER, due_times
from glowplug_runtime.tracing import record_span

from glowplug_scheduler.schedule_records import firing
from glowplug_scheduler.schedule_types import (
    Decision,
    Event,
    Failed,
    Fire,
    Fired,
    ForgetState,
    Forgotten,
    Key,
    Loaded,
    NotThere,
    ReadState,
    SetTimer,
    StateRead,
    StateSeen,
    Tick,
    TimerStands,
    VersionGone,
    VersionSeen,
    WentOff,
    WriteState,
    Written,
)
from glowplug_scheduler.schedules import Schedules

log = structlog.get_logger()

TICK_S = 0.25
AT_ONCE = 64
TAKE_AGAIN_S = 0.2
# What went off is kept so long for an owner that was not there; after that the stored state tells.
DUE_KEPT_S = 60.0


class ScheduleOwner:
    """One generation of one shard's schedules."""

    def __init__(self, bus: Bus, clock: Clock, shard: int, shards: int, *, late_s: float) -> None:
        self.machine = Schedules(next_due, late_s=late_s)
        self._bus = bus
        self._clock = clock
        self._shard = shard
        self._shards = shards
        self._states = bus.bucket(SCHEDULE_STATES)
        self._deployments: dict[DeploymentId, Deployment] = {}
        self._decided: deque[Decision] = deque()
        self._to_do = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the shard's schedules until the context is left."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            # In the background: the lease is renewed only once this context is entered.
            loops = [
                tasks.create_task(self._take_over(stack), name="take schedules over"),
                tasks.create_task(self._keep_time(), name="keep schedules' time"),
                *(tasks.create_task(self._keep_doing(), name="do") for _ in range(AT_ONCE)),
            ]
            yield
            for loop in loops:
                loop.cancel()

    async def _take_over(self, stack: AsyncExitStack) -> None:
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    await self._listen(attempt)
                except (PlatformError, TimeoutError) as error:
                    log.warning("schedules.not_taken", shard=self._shard, error=str(error))
                    await asyncio.sleep(TAKE_AGAIN_S)
                    continue
                stack.push_async_exit(attempt.pop_all())
                self._step(Loaded())
                return

    async def _listen(self, stack: AsyncExitStack) -> None:
        """Learn all that is stored: states and versions before the timers that may refer to them."""
        states = await self._states.watch(self.on_state)
        stack.push_async_callback(states.close)
        versions = await self._bus.bucket(DEPLOYMENTS).watch(self.on_deployment)
        stack.push_async_callback(versions.close)
        following = await self._bus.follow(
            DUE.pattern(shard=self._shard), self.on_due, start="last_per_subject"
        )
        stack.push_async_callback(following.close)

    # -- hearing --------------------------------------------------------------------------------

    async def on_state(self, entry: Entry[ScheduleState]) -> None:
        """A schedule's state was written (by us, or to pause it) or removed."""
        workspace, _, name = entry.key.partition(".")
        key = Key(WorkspaceId(workspace), name)
        if self._is_mine(key):
            self._step(StateSeen(key, entry.value, entry.revision))

    async def on_deployment(self, entry: Entry[Deployment]) -> None:
        """A version was written or removed."""
        deployment_id = DeploymentId(entry.key.rpartition(".")[2])
        one = entry.value or self._deployments.get(deployment_id)
        if one is None or one.spec.kind is not FunctionKind.SCHEDULE:
            return
        key = Key(one.workspace, one.spec.name)
        if not self._is_mine(key):
            return
        serves = one.state is DeploymentState.ACTIVE and one.latest and not one.ephemeral
        if entry.value is not None and serves and one.spec.schedule is not None:
            self._deployments[deployment_id] = one
            self._step(VersionSeen(key, deployment_id, one.version, one.spec.schedule))
        elif self._deployments.pop(deployment_id, None) is not None:
            self._step(VersionGone(key, deployment_id))

    async def on_due(self, delivery: Delivery[ScheduleDue]) -> None:
        """A timer went off."""
        due = delivery.message
        if due is not None:
            self._step(WentOff(Key(due.workspace, due.name), due.due))

    def _is_mine(self, key: Key) -> bool:
        return shard_of(key.workspace, self._shards) == self._shard

    def _step(self, event: Event) -> None:
        decided = self.machine.step(event, self._clock.unix())
        if decided:
            self._decided.extend(decided)
            self._to_do.set()

    # -- doing ----------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._step(Tick())

    async def _keep_doing(self) -> None:
        while True:
            while self._decided:
                await self._do(self._decided.popleft())
            self._to_do.clear()
            await self._to_do.wait()

    async def _do(self, decision: Decision) -> None:
        key = decision.key
        answer: Event
        try:
            answer = await self._answer(decision)
        except ConflictError:
            answer = Failed(key, conflict=True)
        except (PlatformError, TimeoutError) as error:
            kind = type(decision).__name__
            log.warning("schedule.delayed", schedule=key.name, decision=kind, error=str(error))
            answer = Failed(key)
        self._step(answer)

    async def _answer(self, decision: Decision) -> Event:
        """Do it; return what the machine is told then. Raises: PlatformError."""
        key, stored = decision.key, f"{decision.key.workspace}.{decision.key.name}"
        match decision:
            case ReadState():
                found = await self._states.get(stored)
                answer: Event = StateRead(
                    key, found.value if found else None, found.revision if found else 0
                )
            case WriteState(_, state, 0):
                answer = Written(key, await self._states.create(stored, state))
            case WriteState(_, state, revision):
                answer = Written(key, await self._states.update(stored, state, revision))
            case Fire():
                answer = await self._fire(decision)
            case SetTimer(_, due):
                await self._set_timer(key, due)
                answer = TimerStands(key, due)
            case ForgetState(_, revision):
                await self._states.delete(stored, revision)
                answer = Forgotten(key)
        return answer

    async def _set_timer(self, key: Key, due: float) -> None:
        shard, workspace, name = self._shard, key.workspace, key.name
        await self._bus.set_timer(
            TIMER.at(shard=shard, workspace=workspace, schedule=name),
            TimerSet(name=name, workspace=workspace, due=due),
            due_unix=due,
            lands=DUE.at(shard=shard, workspace=workspace, schedule=name),
            kept_s=DUE_KEPT_S,
        )

    async def _fire(self, fire: Fire) -> Event:
        at = RECORD.at(
            shard=self._shard, workspace=fire.key.workspace, invocation_id=fire.invocation_id
        )
        deployment = self._deployments.get(fire.deployment_id)
        if fire.only_look or deployment is None:
            there = await self._bus.last(at) is not None
            if there or fire.only_look:
                return Fired(fire.key, fire.due) if there else NotThere(fire.key, fire.due)
            return Failed(fire.key)  # its version went a moment ago: the machine knows of another
        unix = self._clock.unix()
        trace = record_span(
            "schedule",
            "",
            min(fire.due, unix),
            unix,
            schedule=fire.key.name,
            invocation_id=fire.invocation_id,
            deployment_id=deployment.deployment_id,
        )
        record = firing(deployment, fire.invocation_id, fire.due, unix, trace)
        try:
            await self._bus.append(at, record, expect_last=0, headers=record_headers(record))
        except ConflictError:
            return Fired(fire.key, fire.due)  # an earlier owner made it
        log.info(
            "schedule.fired",
            schedule=fire.key.name,
            due=fire.due,
            late_s=round(unix - fire.due, 3),
            invocation_id=fire.invocation_id,
        )
        return Fired(fire.key, fire.due)


def next_due(when: str, timezone: str, unix: float) -> float:
    """Return the first due time after `unix`; NEVER where the text means nothing on this machine."""
    try:
        return due_times(when, timezone).after(unix)
    except Exception:  # one schedule's text, read by a library, must not end the scheduler
        log.exception("schedule.unreadable", when=when, timezone=timezone)
        return NEVER
