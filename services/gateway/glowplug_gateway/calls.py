"""The calls whose callers wait here: the shell around admission and waiting.

HTTP routes submit a request and read what comes; replies, reports and time come from the bus; the two
machines decide. Nothing here is a truth: if this process dies, its callers' clients send the same id to
another gateway.

The hot path is one frame to a worker, one future and one reply: `submit` sends, the reply steps the machine and
wakes the future.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence

import msgspec
from glowplug_contracts.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
    PlatformError,
    QuotaExceededError,
)
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_contracts.messages.dispatch import BacklogChanged, CallsKnown, CallsProbed
from glowplug_contracts.messages.invocation import (
    InputOutcome,
    InvocationRequested,
    Payload,
    Reply,
    StreamCredit,
)
from glowplug_contracts.subjects import BACKLOG, PROBE, REPLY, STREAM_CREDIT, shard_of
from glowplug_runtime.bus import Delivery

from glowplug_gateway import admission, waiting
from glowplug_gateway.admission import Admission, BacklogHeard, CallLeft, CallOffered, Refuse
from glowplug_gateway.dispatch import Dispatch
from glowplug_gateway.ports import Platform
from glowplug_gateway.waiting import (
    Append,
    AppendFailed,
    CancelAsked,
    Deliver,
    DeliverFrame,
    Disconnected,
    FrameHeard,
    FrameTaken,
    GiveUp,
    Joined,
    LostHeard,
    OutcomeHeard,
    Probe,
    ProbeAnswered,
    SendCancel,
    SendCredit,
    Submitted,
    Waiting,
)

TICK_S = 0.25
PROBE_TIMEOUT_S = 1.0


class HeldCall:
    """One call in hand: what has come for it, and who waits for more.

    Attributes:
        request: as first published; later attempts differ in the number only.
        outcomes: in order of arrival.
        items: of a stream, not taken by the caller yet.
        gave_up: set when the platform answers in place of a worker.
        done: nothing more will come.
    """

    __slots__ = ("_waiters", "done", "gave_up", "items", "outcomes", "readers", "request")

    def __init__(self, request: InvocationRequested) -> None:
        self.request = request
        self.outcomes: list[InputOutcome] = []
        self.items: deque[Payload] = deque()
        self.gave_up: GiveUp | None = None
        self.done = False
        self.readers = 0
        self._waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Let everybody who waits look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def changed(self) -> None:
        """Return when something new has come."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class Calls:
    """See the module."""

    def __init__(self, platform: Platform, dispatch: Dispatch, *, workspace_max: int) -> None:
        self._platform = platform
        self._dispatch = dispatch
        self._bus = platform.bus
        self._clock = platform.clock
        self._admission = Admission(workspace_max=workspace_max)
        self._waiting = Waiting()
        self._held: dict[InvocationId, HeldCall] = {}
        self.backlogs: dict[str, BacklogChanged] = {}

    def __len__(self) -> int:
        return len(self._held)

    # -- for routes -----------------------------------------------------------------------------

    def admit(self, call: CallOffered) -> None:
        """Take a call in. Raises: QuotaExceededError, OverloadedError (both with retry_after_s)."""
        (decision,) = self._admission.step(call, self._clock.now())
        if isinstance(decision, Refuse):
            raise _refusal(decision)

    @contextlib.asynccontextmanager
    async def open_call(
        self, request: InvocationRequested, max_pending: int, deadline_s: float = 0.0
    ) -> AsyncIterator[HeldCall]:
        """Submit a call, or join the one with the same id; leaving early counts as a disconnect.

        Raises: QuotaExceededError, OverloadedError; ConflictError if the id is in use for something else.
        """
        held = self._held.get(request.invocation_id)
        new = held is None
        if held is None:
            held = self._take(request, max_pending)
        else:
            self._join(held, request)
        held.readers += 1
        try:
            if new:
                await self._submit(held, deadline_s)
            yield held
        finally:
            held.readers -= 1
            if not held.done and held.readers == 0:
                self._perform(
                    self._waiting.step(Disconnected(request.invocation_id), self._clock.now())
                )

    def taken(self, held: HeldCall) -> None:
        """The caller has one more item of its stream."""
        event = FrameTaken(held.request.invocation_id)
        self._perform(self._waiting.step(event, self._clock.now()))

    def cancel(self, invocation_id: InvocationId, workspace: WorkspaceId) -> None:
        """Stop a call. Raises: NotFoundError if this gateway does not hold it for this workspace."""
        held = self._held.get(invocation_id)
        if held is None or held.request.workspace != workspace:
            raise NotFoundError("invocation.not_found", f"no call {invocation_id} waits here")
        self._perform(self._waiting.step(CancelAsked(invocation_id), self._clock.now()))

    async def send_cancel(self, invocation_id: InvocationId, shard: int) -> None:
        """Have something stopped, whether this gateway holds it or not."""
        await self._dispatch.cancel(invocation_id, shard)

    # -- taking in ------------------------------------------------------------------------------

    def _take(self, request: InvocationRequested, max_pending: int) -> HeldCall:
        self.admit(
            CallOffered(
                invocation_id=request.invocation_id,
                workspace=request.workspace,
                deployment_id=request.deployment_id,
                shard=shard_of(request.workspace, self._platform.shards),
                inputs=len(request.inputs),
                max_pending=max_pending,
            )
        )
        held = self._held[request.invocation_id] = HeldCall(request)
        return held

    async def _submit(self, held: HeldCall, deadline_s: float) -> None:
        request = held.request
        decisions = self._waiting.step(
            Submitted(
                invocation_id=request.invocation_id,
                workspace=request.workspace,
                shard=shard_of(request.workspace, self._platform.shards),
                indexes=(0,)
                if len(request.inputs) == 1 and request.inputs[0].index == 0
                else tuple(one.index for one in request.inputs),
                deadline_s=deadline_s,
                stream=request.stream,
            ),
            self._clock.now(),
        )
        for decision in decisions:
            if isinstance(decision, Append):
                await self._append(decision)

    def _join(self, held: HeldCall, request: InvocationRequested) -> None:
        mine = held.request
        same = (
            mine.workspace == request.workspace
            and mine.deployment_id == request.deployment_id
            and mine.inputs == request.inputs
        )
        if not same or mine.stream:
            raise ConflictError(
                "invocation.conflict",
                f"{mine.invocation_id} is in use"
                + (", and a stream can't be joined" if same else " for another call"),
            )
        self._waiting.step(Joined(mine.invocation_id), self._clock.now())

    # -- what the bus says ----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear replies and reports, and let time pass, while the context is open."""
        mine = REPLY.pattern(instance=self._platform.instance)
        subscriptions = [
            await self._bus.listen(mine, self.on_reply),
            await self._bus.listen(BACKLOG.pattern(), self.on_backlog),
        ]
        self._platform.every(TICK_S, self.on_tick, "waiting")
        try:
            yield
        finally:
            for subscription in subscriptions:
                await subscription.close()

    async def on_reply(self, delivery: Delivery[Reply]) -> None:
        """A worker or dispatcher says something about a call that is in hand here."""
        if delivery.message is not None:
            self.hear(delivery.message)
            ended = delivery.message.outcome or delivery.message.lost
            if ended is not None:
                self._dispatch.ended(ended.invocation_id)

    def hear(self, reply: Reply) -> None:
        """Take what a worker or dispatcher says, whichever way it came."""
        now = self._clock.now()
        if reply.outcome is not None:
            one = reply.outcome
            event: waiting.Event = OutcomeHeard(
                invocation_id=one.invocation_id,
                attempt=one.attempt,
                outcomes=one.outcomes,
                frames=one.frames,
                stored=reply.stored,
            )
            self._perform(self._waiting.step(event, now))
        elif reply.frame is not None:
            frame = reply.frame
            event = FrameHeard(frame.invocation_id, frame.attempt, frame.number)
            self._perform(self._waiting.step(event, now), frame.item)
        elif reply.lost is not None:
            lost = reply.lost
            event = LostHeard(
                invocation_id=lost.invocation_id,
                attempt=lost.attempt,
                cause=lost.cause,
                error=lost.error,
            )
            self._perform(self._waiting.step(event, now))

    async def on_backlog(self, delivery: Delivery[BacklogChanged]) -> None:
        """A dispatcher reports how much waits and runs."""
        report = delivery.message
        if report is None:
            return
        if report.queued or report.in_flight or report.held:
            self.backlogs[report.deployment_id] = report
        else:
            self.backlogs.pop(report.deployment_id, None)
        event = BacklogHeard(
            deployment_id=report.deployment_id,
            shard=report.shard,
            queued=report.queued + report.held,
            in_flight=report.in_flight,
        )
        self._admission.step(event, self._clock.now())

    async def on_tick(self) -> None:
        """Let both machines see the time."""
        now = self._clock.now()
        self._admission.step(admission.Ticked(), now)
        self._perform(self._waiting.step(waiting.Ticked(), now))

    # -- performing -----------------------------------------------------------------------------

    def _perform(self, decisions: Sequence[waiting.Decision], item: Payload | None = None) -> None:
        for decision in decisions:
            match decision:
                case Deliver():
                    held = self._held[decision.invocation_id]
                    held.outcomes.extend(decision.outcomes)
                    self._end(held, done=decision.done)
                case DeliverFrame():
                    held = self._held[decision.invocation_id]
                    if item is not None:
                        held.items.append(item)
                    held.wake()
                case GiveUp():
                    held = self._held[decision.invocation_id]
                    held.gave_up = decision
                    self._end(held, done=True)
                case Append():
                    self._spawn(self._append(decision), "append")
                case SendCancel():
                    cancel = self.send_cancel(decision.invocation_id, decision.shard)
                    self._spawn(cancel, "cancel")
                case SendCredit():
                    self._spawn(self._send_credit(decision), "credit")
                case Probe():
                    self._spawn(self._probe(decision), "probe")

    def _end(self, held: HeldCall, *, done: bool) -> None:
        if done:
            held.done = True
            invocation_id = held.request.invocation_id
            del self._held[invocation_id]
            self._admission.step(CallLeft(invocation_id), self._clock.now())
        held.wake()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        self._platform.spawn(work, name)

    def refused(self, invocation_id: InvocationId) -> None:
        """A warm slot was none: the same attempt goes through the shard's stream."""
        held = self._held.get(invocation_id)
        if held is not None:
            again = Append(invocation_id, held.request.attempt)
            self._spawn(self._append(again, warm=False), "append")

    def waits(self, deployment_id: DeploymentId) -> bool:
        """Return whether others wait already for a slot of this deployment, as dispatchers have told."""
        backlog = self.backlogs.get(deployment_id)
        return backlog is not None and backlog.queued > 0

    async def _append(self, decision: Append, *, warm: bool = True) -> None:
        """Publish an attempt; if that fails, the machine decides what follows."""
        held = self._held.get(decision.invocation_id)
        if held is None:
            return
        request = held.request
        if decision.attempt != request.attempt:
            request = msgspec.structs.replace(request, attempt=decision.attempt, first=False)
        try:
            await self._dispatch.send(request, warm=warm and not self.waits(request.deployment_id))
        except PlatformError as error:
            failed = AppendFailed(
                invocation_id=decision.invocation_id,
                attempt=decision.attempt,
                full=isinstance(error, OverloadedError),
                message=str(error),
            )
            self._perform(self._waiting.step(failed, self._clock.now()))

    async def _send_credit(self, decision: SendCredit) -> None:
        message = StreamCredit(invocation_id=decision.invocation_id, until=decision.until)
        await self._bus.send(STREAM_CREDIT.at(invocation_id=decision.invocation_id), message)

    async def _probe(self, decision: Probe) -> None:
        """Ask the shard's owner; no answer proves nothing and is asked again by the next tick."""
        question = CallsProbed(invocation_ids=decision.invocation_ids)
        with contextlib.suppress(PlatformError):
            known = await self._bus.request(
                PROBE.at(shard=decision.shard), question, CallsKnown, timeout_s=PROBE_TIMEOUT_S
            )
            event = ProbeAnswered(
                asked=decision.invocation_ids,
                unknown=known.unknown,
                settled=known.settled,
                asked_at=decision.asked_at,
            )
            self._perform(self._waiting.step(event, self._clock.now()))


def _refusal(refuse: Refuse) -> PlatformError:
    message = (
        f"{refuse.pending} inputs wait already for this {refuse.limit}, which may have "
        f"{refuse.bound}; try again in {refuse.retry_after_s:.0f} s"
    )
    details: dict[str, object] = {
        "limit": refuse.limit,
        "pending": refuse.pending,
        "bound": refuse.bound,
    }
    if refuse.limit == "shard":
        return OverloadedError(
            "scheduler.overloaded", message, retry_after_s=refuse.retry_after_s, details=details
        )
    return QuotaExceededError(
        "invocation.queue_full", message, retry_after_s=refuse.retry_after_s, details=details
    )
