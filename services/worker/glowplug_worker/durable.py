"""A durable invocation in a slot: the record is claimed, run, and changed by compare-and-set.

The sequence of the RUNNING record is the token: whoever wrote something later (a cancel, another
worker after we were thought dead) makes our write fail, and ours is dropped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from glowplug_contracts.errors import (
    ConflictError,
    OverloadedError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.invocation import InputOutcome, RemoteError, State
from glowplug_contracts.messages.record import (
    InvocationRecord,
    Progress,
    ProgressMade,
    kept_s,
    ordered_by,
    record_headers,
)
from glowplug_contracts.subjects import PROGRESS, RECORD, Address

from glowplug_worker import frames
from glowplug_worker.attempts import Attempt, trim_error
from glowplug_worker.inflight import InFlight
from glowplug_worker.ports import CALL_BLOBS_KEPT_S, LEASE_S_MAX
from glowplug_worker.predecessors import PredecessorGoneError, gather
from glowplug_worker.progress import PROGRESS_EVERY_S, Throttled, spoken
from glowplug_worker.records import CLAIMABLE, claim, expire, finish, lose, refuse

if TYPE_CHECKING:
    from glowplug_runtime.bus import Delivery

    from glowplug_worker.supervisor import Supervisor

log = structlog.get_logger()

WRITE_TRIES_S: Final = 600.0
TRY_AGAIN_S: Final = 0.1
# A replica of the broker that has not heard of the record yet, as after an election, is asked again.
BEHIND_LOOKS: Final = 10
BEHIND_LOOK_S: Final = 0.05


class DurableFlight(InFlight):
    """See the module."""

    def __init__(self, supervisor: Supervisor, run: RunInvocation, process: int) -> None:
        assert run.record is not None  # noqa: S101
        super().__init__(
            supervisor,
            Attempt(run.record, (), attempt=0, timeout_s=0.0),
            process=process,
            shard=run.shard,
            workspace=run.workspace,
            trace="",
        )
        self._token = run.record_sequence
        self._record: InvocationRecord | None = None
        self._lost = False
        self._last: InvocationRecord | None = None  # what became of the attempt, once it is stored
        self._progress = Throttled(PROGRESS_EVERY_S)

    def start(self) -> None:
        """Claim the record, then run it."""
        self.supervisor.workshop.spawn(self._claim(), "claim")

    async def _claim(self) -> None:
        async with self.writer:
            if self._ended:
                return
            try:
                claimed = not self._lost and await self._write_claim()
            except PlatformError as error:
                # Somebody else has it, or nobody can: the record says who; the dispatcher reads it.
                log.info("claim.failed", invocation_id=self.invocation_id, error=str(error))
                claimed = False
            if not claimed:
                await self.end()
                return
        if self._lost:
            return  # `lose` waits for the writer and does the rest
        if self.cancelled_at is not None:
            self.cancel()
        else:
            self.begin()

    async def _write_claim(self) -> bool:
        workshop = self.supervisor.workshop
        found = await self._read()
        if found is None or found.message is None or found.sequence != self._token:
            return False
        record, unix = found.message, workshop.clock.unix()
        record = msgspec.structs.replace(record, order=ordered_by(record, found.sequence))
        if record.state not in CLAIMABLE:
            return False
        if record.expires_at and unix > record.expires_at:
            await self._append(expire(record, unix))
            return False
        if record.pass_as:
            try:
                self.passed = await gather(workshop, record, self.shard)
            except PredecessorGoneError as gone:
                await self._append(refuse(record, str(gone), unix))
                return False
            self.pass_as = record.pass_as
        self._hold(
            await self._append(
                claim(record, workshop.worker_id, self.supervisor.container_id, unix)
            )
        )
        return True

    def _hold(self, record: InvocationRecord) -> None:
        """The record is ours: RUNNING here."""
        self._record = record
        self.trace = record.trace
        self.scheduled_for = record.scheduled_for
        self.attempt = Attempt(
            record.invocation_id,
            (record.input,),
            attempt=record.attempt,
            timeout_s=record.timeout_s or self.supervisor.binding.spec.timeout_s,
        )
        self.inputs = 1

    async def _read(self) -> Delivery[InvocationRecord] | None:
        """Return the record as it is now, at least as new as what we were handed."""
        for _ in range(BEHIND_LOOKS):
            found = await self.supervisor.workshop.bus.last(self._address())
            if found is not None and found.sequence >= self._token:
                break
            await asyncio.sleep(BEHIND_LOOK_S)
        return found

    def on_progress(self, progress: frames.Progress) -> None:
        """Tell how far it is, some times a second at most; the last word is kept with the record."""
        workshop = self.supervisor.workshop
        said = spoken(progress.fraction, progress.message, workshop.clock.unix())
        wait_s = self._progress.say(said, workshop.clock.now())
        if wait_s == 0.0:
            self._tell_progress()
        elif wait_s is not None:
            asyncio.get_running_loop().call_later(wait_s, self._tell_progress)

    def _tell_progress(self) -> None:
        said = self._progress.take(self.supervisor.workshop.clock.now())
        if said is not None and not self._ended:
            self.supervisor.workshop.spawn(self._send_progress(said), "tell progress")

    async def _send_progress(self, said: Progress) -> None:
        told = ProgressMade(
            invocation_id=self.invocation_id, attempt=self.attempt.attempt, progress=said
        )
        at = PROGRESS.at(
            shard=self.shard, workspace=self.workspace, invocation_id=self.invocation_id
        )
        await self.supervisor.workshop.bus.send(at, told)

    def result_kept_s(self) -> float:
        """Return as long as the record is kept with it, and a while more."""
        assert self._record is not None  # noqa: S101
        ended = msgspec.structs.replace(self._record, state=State.SUCCEEDED)
        kept = kept_s(ended, self.supervisor.workshop.clock.unix())
        return min(LEASE_S_MAX, kept + CALL_BLOBS_KEPT_S)

    async def write_outcomes(self, outcomes: tuple[InputOutcome, ...]) -> None:
        """Finish the record with its one outcome."""
        record, workshop = self._record, self.supervisor.workshop
        assert record is not None  # noqa: S101
        finished = finish(record, outcomes[0], workshop.clock.unix())
        await self._change(msgspec.structs.replace(finished, progress=self._progress.last))

    async def lose(self, error: RemoteError | None, *, alone: bool) -> None:
        """Put the record back for another try, or to its end when these are used up."""
        self._lost = True
        async with self.writer:
            if self._ended:
                return
            running = self.attempt.running
            blamed = error is not None and error.code == "function.out_of_memory" and alone
            if blamed and error is not None and running is not None:
                self.end_input(
                    InputOutcome(index=running.index, state=State.FAILED, error=trim_error(error))
                )
            await self.write_due()
            if self._record is not None and not self.attempt.done:
                await self._write_lost(error)
            await self.end()

    async def _write_lost(self, error: RemoteError | None) -> None:
        record, workshop = self._record, self.supervisor.workshop
        assert record is not None  # noqa: S101
        trimmed = None if error is None else trim_error(error)
        await self._change(lose(record, trimmed, workshop.clock.unix()))

    async def _change(self, record: InvocationRecord) -> None:
        """Write the record; drop it if ours is not the last word any more."""
        clock = self.supervisor.workshop.clock
        give_up_at = clock.now() + WRITE_TRIES_S
        while True:
            try:
                await self._append(record)
            except ConflictError:
                log.info("outcome.dropped", invocation_id=self.invocation_id, why="record changed")
                return
            except (UnavailableError, OverloadedError):
                if clock.now() >= give_up_at:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                self._state = record.state
                self._last = record
                return

    async def _append(self, record: InvocationRecord) -> InvocationRecord:
        self._token = await self.supervisor.workshop.bus.append(
            self._address(),
            record,
            expect_last=self._token,
            headers=record_headers(record),
            ttl_s=kept_s(record, self.supervisor.workshop.clock.unix()),
        )
        return record

    def _address(self) -> Address[InvocationRecord]:
        return RECORD.at(
            shard=self.shard, workspace=self.workspace, invocation_id=self.invocation_id
        )
