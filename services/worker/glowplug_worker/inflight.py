"""One invocation that a container runs: the I/O around an `Attempt`, shared by both delivery classes.

Feeds inputs to the runner, takes results and items, and has one writer at a time that sends what is
due, in order. What an outcome becomes is the subclass's: interactive.py appends links and answers the
caller, durable.py changes the record. Nothing here decides about the container.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_contracts.messages.dispatch import AttemptEnded, InvocationFact
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    Format,
    Input,
    InputOutcome,
    Payload,
    RemoteError,
    State,
)
from glowplug_contracts.subjects import ENDED, Address
from glowplug_runtime.tracing import record_span

from glowplug_worker import frames
from glowplug_worker.attempts import COALESCE_S, Attempt, timed_out, trim_error
from glowplug_worker.frames import Cancel, FrameError, Item, Result, Run
from glowplug_worker.ports import CALL_BLOBS_KEPT_S

log = structlog.get_logger()

if TYPE_CHECKING:
    from glowplug_worker.supervisor import Supervisor

BLOB_TRIES_S: Final = 60.0
TRY_AGAIN_S: Final = 0.25
FORMATS: Final = {each.value: each for each in Format}
RUN_MS_MAX: Final = 30 * 86_400_000.0


class InFlight:
    """An invocation in a slot. Subclasses say what happens to outcomes."""

    def __init__(
        self,
        supervisor: Supervisor,
        attempt: Attempt,
        *,
        process: int,
        shard: int,
        workspace: WorkspaceId,
        trace: str,
        stream: bool = False,
        method: str = "",
    ) -> None:
        self.supervisor = supervisor
        self.attempt = attempt
        self.process = process
        self.shard = shard
        self.workspace = workspace
        self.trace = trace
        self.stream = stream
        self.method = method
        self.scheduled_for = 0.0
        self.direct = False  # sent here by its gateway, past the shard
        self.passed: list[tuple[str, bytes]] = []  # results of others: format and bytes
        self.pass_as = ""
        self.cancelled_at: float | None = None
        self.inputs = len(attempt.unfinished())
        self._started_unix = 0.0
        self._state = State.SUCCEEDED
        self._error_type = ""
        self._items: deque[tuple[Item, bytes]] = deque()
        self._items_taken = 0
        self.writer = asyncio.Lock()
        self._ended = False
        self._woken = False

    @property
    def invocation_id(self) -> InvocationId:
        """Return the invocation's id."""
        return InvocationId(self.attempt.invocation_id)

    @property
    def deployment_id(self) -> DeploymentId:
        """Return whose invocation it is."""
        return self.supervisor.binding.spec.deployment_id

    @property
    def _owner(self) -> WorkspaceId:
        """Whose blobs its arguments and results are: its container's workspace, whatever a request says."""
        return self.supervisor.binding.spec.workspace

    # -- into the runner ------------------------------------------------------------------------

    def begin(self) -> None:
        """Start feeding the runner."""
        self._started_unix = self.supervisor.workshop.clock.unix()
        self.feed()

    def feed(self) -> None:
        """Send as many inputs as the window takes."""
        attempt, now = self.attempt, self.supervisor.workshop.clock.now()
        while (each := attempt.next_input(now)) is not None:
            if each.args.blob is None:
                self._send(each, each.args.data or b"")
            else:
                self.supervisor.workshop.spawn(self._send_blob(each), "fetch arguments")
        due_at = attempt.due_at
        if due_at is not None and not attempt.done:
            loop = asyncio.get_running_loop()
            loop.call_later(max(0.0, due_at - now) + 0.001, self._feed_later)

    def _feed_later(self) -> None:
        if not self._ended:
            self.feed()

    def _send(self, each: Input, data: bytes) -> None:
        attempt = self.attempt
        self.supervisor.send(
            self.process,
            Run(
                id=attempt.invocation_id,
                index=each.index,
                format=each.args.format.value,
                attempt=attempt.attempt,
                method=self.method,
                stream=self.stream,
                timeout_s=attempt.timeout_s,
                scheduled_for=self.scheduled_for,
                passed=tuple((form, len(body)) for form, body in self.passed),
                pass_as=self.pass_as,
            ),
            b"".join((data, *(body for _, body in self.passed))) if self.passed else data,
        )

    async def _send_blob(self, each: Input) -> None:
        assert each.args.blob is not None  # noqa: S101
        try:
            data = await self.supervisor.workshop.blobs.get(each.args.blob, self._owner)
        except PlatformError as error:
            if self.attempt.holds(each.index):
                self._take(_failed(each.index, _as_remote(error)))
            return
        if self.attempt.holds(each.index):
            self._send(each, data)

    # -- out of the runner ----------------------------------------------------------------------

    def on_result(self, result: Result, body: bytes) -> None:
        """Take one input's end. Raises: FrameError for a result nobody waits for."""
        if not self.attempt.holds(result.index):
            raise FrameError(f"a result for input {result.index} that it does not run")
        run_ms = result.run_ms if math.isfinite(result.run_ms) else 0.0
        run_ms = min(max(run_ms, 0.0), RUN_MS_MAX)
        if result.state == "failed":
            error = self.supervisor.explained(trim_error(result.error or _nameless()))
            state = State.CANCELLED if error.code == "invocation.cancelled" else State.FAILED
            self._take(InputOutcome(index=result.index, state=state, error=error, run_ms=run_ms))
            return
        form = check_format(result.format)
        if len(body) > INLINE_BYTES_MAX:
            self.attempt.set_aside(result.index, self.supervisor.workshop.clock.now())
            self.supervisor.hold_bytes(len(body))
            self.supervisor.workshop.spawn(
                self._store_result(result.index, form, body, run_ms), "store result"
            )
            self.feed()
            return
        self._take(
            InputOutcome(
                index=result.index,
                state=State.SUCCEEDED,
                result=Payload(format=form, data=body, size=len(body)),
                run_ms=run_ms,
            )
        )

    def on_item(self, item: Item, body: bytes) -> None:
        """Take a generator's item. Raises: FrameError out of order or beyond the credit."""
        raise FrameError(f"an item of {item.id[:64]!r} ({len(body)} bytes), which is no stream")

    def on_progress(self, progress: frames.Progress) -> None:
        """Take what user code says of its progress; nobody waits for an interactive call's."""

    async def _store_result(self, index: int, form: Format, body: bytes, run_ms: float) -> None:
        try:
            payload = await self.store_payload(form, body)
            outcome = InputOutcome(
                index=index, state=State.SUCCEEDED, result=payload, run_ms=run_ms
            )
        except PlatformError as error:
            outcome = _failed(index, _as_remote(error))
        finally:
            self.supervisor.let_go_bytes(len(body))
        if not self._ended:
            self._take(outcome)

    async def store_payload(self, form: Format, body: bytes) -> Payload:
        """Return the bytes as a payload, stored as a blob where they are large."""
        if len(body) <= INLINE_BYTES_MAX:
            return Payload(format=form, data=body, size=len(body))
        workshop = self.supervisor.workshop
        give_up_at = workshop.clock.now() + BLOB_TRIES_S
        while True:
            try:
                return Payload(
                    format=form,
                    blob=await workshop.blobs.put(body, self._owner, self.result_kept_s()),
                    size=len(body),
                )
            except UnavailableError:
                if workshop.clock.now() >= give_up_at:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)

    def result_kept_s(self) -> float:
        """Return how long a large result is kept."""
        return CALL_BLOBS_KEPT_S

    def _take(self, outcome: InputOutcome) -> None:
        now = self.supervisor.workshop.clock.now()
        if self.attempt.take_result(outcome, now):
            self._note(outcome)
        if not self.attempt.done:
            self.feed()
        self.wake()

    def _note(self, outcome: InputOutcome) -> None:
        if outcome.state is not State.SUCCEEDED:
            self._state = outcome.state
            self._error_type = outcome.error.type if outcome.error else ""

    # -- ends that do not come from the runner --------------------------------------------------

    def cancel(self) -> None:
        """Stop it: what has not begun ends now, what runs is interrupted."""
        now = self.supervisor.workshop.clock.now()
        if self.cancelled_at is None:
            self.cancelled_at = now
        if self.attempt.cancel(now):
            self.supervisor.send(self.process, Cancel(id=self.attempt.invocation_id))
        self.wake()

    def end_overdue(self, each: Input) -> None:
        """Write down that this input ran too long; its container is being killed."""
        timeout_s = self.attempt.timeout_s
        outcome = timed_out(each.index, timeout_s, timeout_s)
        if outcome.error is not None:
            explained = self.supervisor.explained(outcome.error)
            outcome = msgspec.structs.replace(outcome, error=explained)
        self.end_input(outcome)

    def end_input(self, outcome: InputOutcome) -> None:
        """Write down an end that the worker itself decided."""
        self.attempt.end_running(outcome, self.supervisor.workshop.clock.now())
        self._note(outcome)

    async def lose(self, error: RemoteError | None, *, alone: bool) -> None:
        """The container is gone: write what is known, and hand back or report what is not.

        `alone`: no other invocation ran in it, so what ran here is what crashed it.
        """
        raise NotImplementedError

    # -- the writer -----------------------------------------------------------------------------

    def wake(self) -> None:
        """See to it that what is due is written, now or when it is due."""
        if self._ended or self.writer.locked():
            return
        attempt = self.attempt
        if self._items or attempt.due_to_flush(self.supervisor.workshop.clock.now()):
            self.supervisor.workshop.spawn(self._write(), "write outcomes")
        elif attempt.pending and not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_later(COALESCE_S, self._wake_later)

    def _wake_later(self) -> None:
        self._woken = False
        self.wake()

    async def _write(self) -> None:
        if self._ended or self.writer.locked():
            return  # whoever writes now looks again before leaving
        try:
            async with self.writer:
                await self.write_due()
                if self.attempt.done and not self.attempt.pending:
                    await self.end()
        except PlatformError as error:
            log.warning("outcome.given_up", invocation_id=self.invocation_id, error=str(error))
            await self.end()
        except Exception:  # our bug must not hold a slot; the gateway will find the call unknown
            log.exception("outcome.given_up", invocation_id=self.invocation_id)
            await self.end()
        self.wake()

    async def write_due(self) -> None:
        """Send items and write outcomes, in order, until nothing is due."""
        attempt, clock = self.attempt, self.supervisor.workshop.clock
        while True:
            if self._items:
                item, body = self._items.popleft()
                await self.write_item(item, body)
                self.supervisor.let_go_bytes(len(body))
            elif attempt.due_to_flush(clock.now()):
                # Output that came before a result must reach the gateway before its answer.
                if self.supervisor.logbook.pending:
                    await self.supervisor.publish_logs()
                await self.write_outcomes(attempt.take_pending())
            else:
                return

    async def write_item(self, item: Item, body: bytes) -> None:
        """Send one item to the caller."""
        raise NotImplementedError

    async def write_outcomes(self, outcomes: tuple[InputOutcome, ...]) -> None:
        """Make these outcomes true, and tell whoever waits."""
        raise NotImplementedError

    async def end(self) -> None:
        """Free the slot and tell the shard's owner."""
        if self._ended:
            return
        workshop, container_id = self.supervisor.workshop, self.supervisor.container_id
        self._ended = True
        self.supervisor.release(self)
        await self.tell_end()
        if self.direct:
            self._notice_end()
        else:
            await workshop.bus.send(
                _ended_address(self.shard),
                AttemptEnded(
                    container_id=container_id,
                    invocation_ids=(self.invocation_id,),
                    run_s=self.attempt.run_ms / 1000,
                    inputs=self.inputs,
                ),
            )
        if self._started_unix:
            self._note_fact()
        self.supervisor.after_release()

    async def tell_end(self) -> None:
        """Tell whoever sent it straight here, beside the shard's owner, that it is over."""

    def forget(self) -> None:
        """Free the slot without a word: the invocation goes on elsewhere."""
        self._ended = True
        self.supervisor.release(self)
        if self.direct:
            self._notice_end()
        self.supervisor.after_release()

    def _notice_end(self) -> None:
        notices, container_id = self.supervisor.workshop.notices, self.supervisor.container_id
        notices.ended(self.shard, container_id, self.invocation_id)

    def _note_fact(self) -> None:
        """Add a line of history, and the span of the run."""
        workshop = self.supervisor.workshop
        unix = workshop.clock.unix()
        workshop.facts.append(
            InvocationFact(
                invocation_id=self.invocation_id,
                deployment_id=self.deployment_id,
                workspace=self.workspace,
                state=self._state,
                attempt=self.attempt.attempt,
                at=unix,
                run_ms=self.attempt.run_ms,
                inputs=self.inputs,
                container_id=self.supervisor.container_id,
                trace=self.trace,
                error_type=self._error_type,
            )
        )
        if self.trace:
            record_span(
                "run",
                self.trace,
                self._started_unix,
                unix,
                self._error_type,
                container_id=self.supervisor.container_id,
                attempt=self.attempt.attempt,
                inputs=self.inputs,
                run_ms=self.attempt.run_ms,
            )


@functools.cache
def _ended_address(shard: int) -> Address[AttemptEnded]:
    """Shards are few, and this is asked once per call."""
    return ENDED.at(shard=shard)


def check_format(text: str) -> Format:
    """Return the format a runner named. Raises: FrameError."""
    form = FORMATS.get(text)
    if form is None:
        raise FrameError(f"a result in the unknown format {text[:32]!r}")
    return form


def _failed(index: int, error: RemoteError) -> InputOutcome:
    return InputOutcome(index=index, state=State.FAILED, error=error)


def _nameless() -> RemoteError:
    return RemoteError(
        code="function.failed", type="Exception", message="the runner sent no error with a failure"
    )


def _as_remote(error: PlatformError) -> RemoteError:
    return RemoteError(
        code=error.code, type=type(error).__name__, message=error.message, details=error.details
    )
