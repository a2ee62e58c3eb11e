"""Schedules seen from outside: what is due when, pause and resume, and run now.

The scheduler fires; how far a schedule is decided stands in one stored state, which both change by
compare-and-set only. Here it is paused, resumed and shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from glowplug_contracts.errors import ConflictError, NotFoundError
from glowplug_contracts.ids import InvocationId, WorkspaceId, check_name
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentState,
    FunctionKind,
)
from glowplug_contracts.messages.http import PutOptions
from glowplug_contracts.messages.invocation import Format, Payload
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.messages.schedule import (
    HISTORY_MAX,
    NO_ARGUMENTS,
    ScheduleEntry,
    ScheduleSpec,
    ScheduleState,
)
from glowplug_contracts.streams import SCHEDULE_STATES
from glowplug_runtime.bus import Entry
from glowplug_runtime.due_times import DueTimes, due_times

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.intake import Intake
from glowplug_gateway.ports import Platform

WRITES_MAX: Final = 20
# Due times of a pause are counted up to here; "at least so many" were skipped.
COUNTED_MAX: Final = 10_000


class Scheduled(msgspec.Struct, frozen=True):
    """A schedule: the version that serves it, and its state."""

    deployment: Deployment
    state: ScheduleState

    @property
    def spec(self) -> ScheduleSpec:
        """Return when it is due."""
        return schedule_of(self.deployment)


class Schedules:
    """See the module."""

    def __init__(self, platform: Platform, catalog: Catalog, intake: Intake) -> None:
        self._platform = platform
        self._catalog = catalog
        self._intake = intake
        self._bucket = platform.bus.bucket(SCHEDULE_STATES)
        self._states: dict[str, ScheduleState] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the list's states fresh while the context is open."""
        watching = await self._bucket.watch(self.on_state)
        try:
            yield
        finally:
            await watching.close()

    async def on_state(self, entry: Entry[ScheduleState]) -> None:
        """A state was written or removed."""
        if entry.value is None:
            self._states.pop(entry.key, None)
        else:
            self._states[entry.key] = entry.value

    def listed(self, workspace: WorkspaceId) -> list[Scheduled]:
        """Return the workspace's schedules by name; states may be a moment old."""
        found = [
            Scheduled(one, self._states.get(_key(one)) or self._fresh(one))
            for one in self._catalog.deployments(workspace)
            if one.spec.kind is FunctionKind.SCHEDULE
            and one.latest
            and not one.ephemeral
            and one.state is DeploymentState.ACTIVE
        ]
        return sorted(found, key=lambda one: one.deployment.spec.name)

    async def show(self, workspace: WorkspaceId, name: str) -> Scheduled:
        """Return one. Raises: NotFoundError."""
        deployment = await self._find(workspace, name)
        entry = await self._bucket.get(_key(deployment))
        known = entry.value if entry is not None else None
        return Scheduled(deployment, known or self._fresh(deployment))

    async def upcoming(self, workspace: WorkspaceId, name: str, count: int) -> list[float]:
        """Return its next due times, as if it were not paused. Raises: NotFoundError."""
        found = await self.show(workspace, name)
        times = _times(found.spec)
        following = max(found.state.decided_until, self._platform.clock.unix())
        next_ones: list[float] = []
        while len(next_ones) < count and (following := times.after(following)):
            next_ones.append(following)
        return next_ones

    async def pause(self, workspace: WorkspaceId, name: str) -> Scheduled:
        """Have nothing fire any more; what was claimed already still fires. Raises: NotFoundError."""
        return await self._change(workspace, name, paused)

    async def resume(self, workspace: WorkspaceId, name: str) -> Scheduled:
        """Go on with the next due time from now. Raises: NotFoundError."""
        return await self._change(workspace, name, resumed)

    async def run(self, workspace: WorkspaceId, name: str, trace: str) -> InvocationRecord:
        """Run it now, durably, whatever is due when. Raises: NotFoundError, QuotaExceededError."""
        deployment = await self._find(workspace, name)
        clock = self._platform.clock
        args = Payload(format=Format.PICKLE, data=NO_ARGUMENTS)
        invocation_id = InvocationId(clock.id("invocation"))
        return await self._intake.accept(
            deployment, invocation_id, args, PutOptions(), trace, scheduled_for=clock.unix()
        )

    async def _find(self, workspace: WorkspaceId, name: str) -> Deployment:
        found = await self._catalog.by_name(workspace, check_name(name))
        if found.spec.kind is not FunctionKind.SCHEDULE or found.spec.schedule is None:
            raise NotFoundError(
                "schedule.not_found", f"{name} is a {found.spec.kind.value} and has no schedule"
            )
        return found

    async def _change(
        self,
        workspace: WorkspaceId,
        name: str,
        change: Callable[[ScheduleState, float], ScheduleState],
    ) -> Scheduled:
        deployment = await self._find(workspace, name)
        key = _key(deployment)
        for _ in range(WRITES_MAX):
            entry = await self._bucket.get(key)
            known = entry.value if entry is not None else None
            state = change(known or self._fresh(deployment), self._platform.clock.unix())
            try:
                if known is None or entry is None:
                    await self._bucket.create(key, state)
                elif state != known:
                    await self._bucket.update(key, state, entry.revision)
            except ConflictError:
                continue
            return Scheduled(deployment, state)
        raise ConflictError("invocation.conflict", f"schedule {name} changes too fast; try again")

    def _fresh(self, deployment: Deployment) -> ScheduleState:
        """Return the state of a schedule that the scheduler has not seen yet."""
        spec, now = schedule_of(deployment), self._platform.clock.unix()
        return ScheduleState(
            name=deployment.spec.name,
            workspace=deployment.workspace,
            when=spec.when,
            timezone=spec.timezone,
            decided_until=now,
            next_due=_times(spec).after(now),
            created_at=now,
        )


def paused(state: ScheduleState, now: float) -> ScheduleState:
    """Return the state with nothing firing from now on."""
    return state if state.paused else msgspec.structs.replace(state, paused=True, paused_at=now)


def resumed(state: ScheduleState, now: float) -> ScheduleState:
    """Return the state that goes on from now; the due times between are recorded as skipped."""
    if not state.paused:
        return state
    times = due_times(state.when, state.timezone)
    missed, following = 0, state.next_due
    first = last = following
    while 0.0 < following <= now and missed < COUNTED_MAX:
        missed, last, following = missed + 1, following, times.after(following)
    history = state.history
    if missed:
        line = ScheduleEntry(
            outcome="skipped",
            due=first,
            last=last if missed > 1 else 0.0,
            count=missed,
            at=now,
            reason="paused",
        )
        history = (line, *history)[:HISTORY_MAX]
    decided = max(state.decided_until, now)
    return msgspec.structs.replace(
        state,
        paused=False,
        paused_at=0.0,
        decided_until=decided,
        next_due=times.after(decided),
        skipped=state.skipped + missed,
        history=history,
    )


def schedule_of(deployment: Deployment) -> ScheduleSpec:
    """Return when a deployment of kind SCHEDULE is due."""
    spec = deployment.spec.schedule
    assert spec is not None  # noqa: S101 - check_schedule let it in
    return spec


def _times(spec: ScheduleSpec) -> DueTimes:
    return due_times(spec.when, spec.timezone)


def _key(deployment: Deployment) -> str:
    return f"{deployment.workspace}.{deployment.spec.name}"
