"""Hold the calls whose callers wait at this gateway, until each has its outcome.

Fourth step of the journey, as seen by the caller: after admission the request is published (Append);
then this machine decides what every reply, silence, disconnect or deadline means. It promises what the
interactive class promises: a waiting caller never sees a loss of the platform, and every input gets
exactly one outcome, the first one heard, whichever attempt it came from.

How losses are found: the dispatcher says so (LostHeard), or it no longer knows the call. Calls older than
PROBE_AFTER_S are asked about each PROBE_EVERY_S; one that a settled dispatcher does not know twice in a
row was lost together with whoever had it, or only its reply was. Both are healed by sending it again as
the next attempt: a worker that sees attempt > 1 reads the outcome chain first and replays what is there.

It never keeps payloads: the shell has the request and the caller. Invariants (`check`): W1 a call in hand
misses at least one outcome; W2 attempts only grow, and stay within PLATFORM_RETRIES_MAX losses; W3 a
stream's credit is at most FRAMES_AHEAD_MAX beyond what its caller took.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import assert_never

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    InputOutcome,
    RemoteError,
    State,
)

PROBE_AFTER_S = 1.0
PROBE_EVERY_S = 1.0
PROBE_IDS_MAX = 1_000
# Rounds in a row in which a settled dispatcher did not know a call.
UNKNOWN_ROUNDS = 2
DISCONNECT_GRACE_S = 10.0
FRAMES_AHEAD_MAX = 64
# Credit is renewed in steps, so that most items need no message of their own.
CREDIT_STEP = 32
# Appends in a row that the broker did not confirm; each has waited its own time-out already.
APPENDS_FAILED_MAX = 6
# Ended calls whose last attempt is remembered: the same id again continues the chain instead of
# starting a rival of it.
ENDED_KEPT_MAX = 20_000


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A caller waits for this call from now on; it was admitted.

    `indexes` are its inputs' (unique) indexes; `deadline_s` counts from now, 0 = none.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    shard: int
    indexes: tuple[int, ...] = (0,)
    deadline_s: float = 0.0
    stream: bool = False


class Joined(msgspec.Struct, frozen=True):
    """The caller of a held call came back with the same id."""

    invocation_id: InvocationId


class Disconnected(msgspec.Struct, frozen=True):
    """The caller is gone; perhaps it comes back."""

    invocation_id: InvocationId


class CancelAsked(msgspec.Struct, frozen=True):
    """The caller wants it stopped."""

    invocation_id: InvocationId


class OutcomeHeard(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's link of the outcome chain. `frames`: items a stream had; −1 = not said.

    `stored` is false where it is told while it is being stored.
    """

    invocation_id: InvocationId
    attempt: int
    outcomes: tuple[InputOutcome, ...]
    frames: int = -1
    stored: bool = True


class FrameHeard(msgspec.Struct, frozen=True):
    """Item `number` (from 0) of a generator's output."""

    invocation_id: InvocationId
    attempt: int
    number: int


class FrameTaken(msgspec.Struct, frozen=True):
    """The caller has one more item; the worker may send further."""

    invocation_id: InvocationId


class LostHeard(msgspec.Struct, frozen=True, kw_only=True):
    """The dispatcher knows that an attempt is gone. `cause` "start_failed" is not tried again."""

    invocation_id: InvocationId
    attempt: int
    cause: str
    error: RemoteError | None = None


class ProbeAnswered(msgspec.Struct, frozen=True, kw_only=True):
    """The shard's owner answered a Probe: `unknown` are those of `asked` it does not know."""

    asked: tuple[InvocationId, ...]
    unknown: tuple[InvocationId, ...]
    settled: bool
    asked_at: float


class AppendFailed(msgspec.Struct, frozen=True, kw_only=True):
    """The request could not be stored. `full`: the stream refused it; else nobody knows."""

    invocation_id: InvocationId
    attempt: int
    full: bool
    message: str = ""


class Ticked(msgspec.Struct, frozen=True):
    """Time passes: deadlines, disconnects, probes. A few times a second is enough."""


Event = (
    Submitted
    | Joined
    | Disconnected
    | CancelAsked
    | OutcomeHeard
    | FrameHeard
    | FrameTaken
    | LostHeard
    | ProbeAnswered
    | AppendFailed
    | Ticked
)


class Append(msgspec.Struct, frozen=True):
    """Publish the request as this attempt."""

    invocation_id: InvocationId
    attempt: int


class Deliver(msgspec.Struct, frozen=True, kw_only=True):
    """These outcomes are the caller's. `done`: they were the last; the call is forgotten."""

    invocation_id: InvocationId
    outcomes: tuple[InputOutcome, ...]
    done: bool


class DeliverFrame(msgspec.Struct, frozen=True):
    """The item that was just heard is the caller's."""

    invocation_id: InvocationId
    number: int


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Answer every input in `missing` with this error; the call is forgotten.

    `answered` is false where nobody waits any more.
    """

    invocation_id: InvocationId
    state: State
    error: RemoteError
    missing: tuple[int, ...]
    answered: bool = True


class SendCancel(msgspec.Struct, frozen=True):
    """Tell the shard's owner that nobody wants it any more."""

    invocation_id: InvocationId
    shard: int


class SendCredit(msgspec.Struct, frozen=True):
    """Tell the worker that it may send frames below `until`."""

    invocation_id: InvocationId
    until: int


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the shard's owner which of these it knows; answer with ProbeAnswered(asked_at)."""

    shard: int
    invocation_ids: tuple[InvocationId, ...]
    asked_at: float


Decision = Append | Deliver | DeliverFrame | GiveUp | SendCancel | SendCredit | Probe


class _Call(msgspec.Struct):
    invocation_id: InvocationId
    workspace: WorkspaceId
    shard: int
    missing: dict[int, None]  # an ordered set
    attempt: int
    sent_at: float
    probe_at: float
    deadline_at: float
    stream: bool
    gone_at: float = -1.0
    losses: int = 0
    appends_failed: int = 0
    unknown_rounds: int = 0
    frames: int = 0  # heard
    taken: int = 0  # by the caller
    credit: int = FRAMES_AHEAD_MAX  # exclusive; what a worker may send unasked


class Waiting:
    """The machine. `step` mutates only its own state and returns decisions, in order."""

    def __init__(self) -> None:
        self._calls: dict[InvocationId, _Call] = {}
        self._ended: OrderedDict[InvocationId, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, invocation_id: object) -> bool:
        return invocation_id in self._calls

    def step(self, event: Event, now: float) -> Sequence[Decision]:  # noqa: PLR0911, C901 — one arm each
        """Take in one event. Everything about calls that are not held is ignored."""
        match event:
            case OutcomeHeard():
                return self._on_outcome(event)
            case Submitted():
                return self._on_submitted(event, now)
            case FrameHeard():
                return self._on_frame(event)
            case FrameTaken():
                return self._on_taken(event)
            case Joined():
                return self._on_joined(event)
            case Disconnected():
                return self._on_disconnected(event, now)
            case CancelAsked():
                return self._on_cancel(event)
            case LostHeard():
                return self._on_lost(event, now)
            case ProbeAnswered():
                return tuple(self._on_probe_answered(event, now))
            case AppendFailed():
                return self._on_append_failed(event, now)
            case Ticked():
                return tuple(self._on_ticked(now))
            case _:
                assert_never(event)

    # -- the caller -----------------------------------------------------------------------------

    def _on_submitted(self, event: Submitted, now: float) -> Sequence[Decision]:
        if event.invocation_id in self._calls:
            return self._on_joined(Joined(event.invocation_id))
        attempt = self._ended.pop(event.invocation_id, 0) + 1
        self._calls[event.invocation_id] = _Call(
            invocation_id=event.invocation_id,
            workspace=event.workspace,
            shard=event.shard,
            missing=dict.fromkeys(event.indexes),
            attempt=attempt,
            sent_at=now,
            probe_at=now + PROBE_AFTER_S,
            deadline_at=now + event.deadline_s if event.deadline_s > 0.0 else 0.0,
            stream=event.stream,
        )
        return (Append(event.invocation_id, attempt),)

    def _on_joined(self, event: Joined) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is not None:
            call.gone_at = -1.0
        return ()

    def _on_disconnected(self, event: Disconnected, now: float) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None:
            return ()
        if call.stream and call.frames:
            # Items were handed out that nobody could take back: the stream can't be joined again.
            return self._abandon(call)
        if call.gone_at < 0.0:
            call.gone_at = now
        return ()

    def _on_cancel(self, event: CancelAsked) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None:
            return ()
        cancel = SendCancel(call.invocation_id, call.shard)
        error = _error("invocation.cancelled", "CancelledError", "the caller cancelled it")
        return cancel, self._give_up(call, State.CANCELLED, error)

    # -- the worker -----------------------------------------------------------------------------

    def _on_outcome(self, event: OutcomeHeard) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None:
            return ()
        if not event.stored and event.attempt != call.attempt:
            return ()  # another attempt is under way, and may store another outcome first
        missing = call.missing
        if call.stream and 0 <= event.frames != call.frames:
            return self._break_stream(call, f"{call.frames} of {event.frames} items arrived")
        news = [one for one in event.outcomes if missing.pop(one.index, _ABSENT) is None]
        if not news:
            return ()
        call.unknown_rounds = 0
        if not missing:
            self._forget(call)
        return (
            Deliver(
                invocation_id=event.invocation_id,
                outcomes=tuple(news),
                done=not missing,
            ),
        )

    def _on_frame(self, event: FrameHeard) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None or not call.stream or event.attempt != call.attempt:
            return ()  # a frame of an older attempt: that one's items were given up with it
        if event.number < call.frames:
            return ()
        if event.number > call.frames:
            return self._break_stream(call, f"item {call.frames} is missing")
        if event.number >= call.credit:
            return self._break_stream(call, f"item {event.number} came without credit")
        call.frames += 1
        call.unknown_rounds = 0
        return (DeliverFrame(call.invocation_id, event.number),)

    def _on_taken(self, event: FrameTaken) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None or call.taken >= call.frames:
            return ()
        call.taken += 1
        until = call.taken + FRAMES_AHEAD_MAX
        if until - call.credit < CREDIT_STEP:
            return ()
        call.credit = until
        return (SendCredit(call.invocation_id, until),)

    # -- losses ---------------------------------------------------------------------------------

    def _on_lost(self, event: LostHeard, now: float) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None or event.attempt != call.attempt:
            return ()
        if event.cause == "start_failed":
            error = event.error or _error(
                "function.start_failed", "StartupError", "no container of it could start"
            )
            return (self._give_up(call, State.FAILED, error),)
        return self._again(call, now, event.error)

    def _on_probe_answered(self, event: ProbeAnswered, now: float) -> Iterator[Decision]:
        unknown = frozenset(event.unknown)
        for invocation_id in event.asked:
            call = self._calls.get(invocation_id)
            if call is None or call.sent_at >= event.asked_at:
                continue  # ended, or sent again after the question
            if invocation_id not in unknown:
                call.unknown_rounds = 0
            elif event.settled:
                call.unknown_rounds += 1
                if call.unknown_rounds >= UNKNOWN_ROUNDS:
                    yield from self._again(call, now, None)

    def _on_append_failed(self, event: AppendFailed, now: float) -> Sequence[Decision]:
        call = self._calls.get(event.invocation_id)
        if call is None or event.attempt != call.attempt:
            return ()
        if event.full:
            error = _error("scheduler.overloaded", "OverloadedError", event.message)
            return (self._give_up(call, State.FAILED, error),)
        call.appends_failed += 1
        if call.appends_failed < APPENDS_FAILED_MAX:
            return (self._send_again(call, now),)
        error = _error("platform.unavailable", "UnavailableError", event.message)
        return SendCancel(call.invocation_id, call.shard), self._give_up(call, State.FAILED, error)

    def _again(self, call: _Call, now: float, error: RemoteError | None) -> Sequence[Decision]:
        """Send as the next attempt, unless it was lost too often or can't be repeated."""
        call.losses += 1
        if call.stream and call.frames:
            return self._break_stream(call, "the container that made it was lost", error)
        if call.losses > PLATFORM_RETRIES_MAX:
            lost = error or _error(
                "invocation.lost",
                "InvocationLostError",
                f"the platform lost it {call.losses} times in a row",
            )
            return (self._give_up(call, State.FAILED, lost),)
        return (self._send_again(call, now),)

    def _send_again(self, call: _Call, now: float) -> Append:
        call.attempt += 1
        call.sent_at = now
        call.probe_at = now + PROBE_AFTER_S
        call.unknown_rounds = 0
        return Append(call.invocation_id, call.attempt)

    # -- time -----------------------------------------------------------------------------------

    def _on_ticked(self, now: float) -> Iterator[Decision]:
        probes: dict[int, list[InvocationId]] = {}
        for call in list(self._calls.values()):
            if 0.0 < call.deadline_at <= now:
                yield SendCancel(call.invocation_id, call.shard)
                error = _error(
                    "invocation.deadline", "DeadlineExceededError", "its deadline passed first"
                )
                yield self._give_up(call, State.FAILED, error)
            elif 0.0 <= call.gone_at <= now - DISCONNECT_GRACE_S:
                yield from self._abandon(call)
            elif call.probe_at <= now:
                call.probe_at = now + PROBE_EVERY_S
                probes.setdefault(call.shard, []).append(call.invocation_id)
                if call.taken:
                    # A lost credit would stop a stream for ever; a repeated one changes nothing.
                    yield SendCredit(call.invocation_id, call.credit)
        for shard, ids in probes.items():
            for start in range(0, len(ids), PROBE_IDS_MAX):
                some = tuple(ids[start : start + PROBE_IDS_MAX])
                yield Probe(shard=shard, invocation_ids=some, asked_at=now)

    # -- ends -----------------------------------------------------------------------------------

    def _abandon(self, call: _Call) -> Sequence[Decision]:
        error = _error("invocation.cancelled", "CancelledError", "its caller went away")
        cancel = SendCancel(call.invocation_id, call.shard)
        return cancel, self._give_up(call, State.CANCELLED, error, answered=False)

    def _break_stream(
        self, call: _Call, why: str, cause: RemoteError | None = None
    ) -> Sequence[Decision]:
        error = cause or _error(
            "invocation.lost", "InvocationLostError", f"the stream broke: {why}"
        )
        cancel = SendCancel(call.invocation_id, call.shard)
        return cancel, self._give_up(call, State.FAILED, error)

    def _give_up(
        self, call: _Call, state: State, error: RemoteError, *, answered: bool = True
    ) -> GiveUp:
        self._forget(call)
        return GiveUp(
            invocation_id=call.invocation_id,
            state=state,
            error=error,
            missing=tuple(call.missing),
            answered=answered,
        )

    def _forget(self, call: _Call) -> None:
        del self._calls[call.invocation_id]
        self._ended[call.invocation_id] = call.attempt
        if len(self._ended) > ENDED_KEPT_MAX:
            self._ended.popitem(last=False)

    def check(self) -> None:
        """Raise InvariantError unless every invariant holds (O(state))."""
        for call in self._calls.values():
            _hold(call.missing, f"W1: {call.invocation_id}")
            _hold(call.invocation_id not in self._ended, f"W1: {call.invocation_id} has ended")
            _hold(call.attempt >= 1, f"W2: {call.invocation_id}")
            _hold(call.losses <= PLATFORM_RETRIES_MAX, f"W2: {call.invocation_id}")
            _hold(call.taken <= call.frames <= call.credit, f"W3: {call.invocation_id}")
            _hold(call.credit <= call.taken + FRAMES_AHEAD_MAX, f"W3: {call.invocation_id}")
        _hold(len(self._ended) <= ENDED_KEPT_MAX, "W1: ended calls")


_ABSENT = object()


def _error(code: str, name: str, message: str) -> RemoteError:
    return RemoteError(code=code, type=name, message=message)


def _hold(truth: object, what: str) -> None:
    if not truth:
        raise InvariantError("platform.bug", f"waiting: {what}")
