"""One try at one invocation inside a slot: what is sent, what came back, what is written when. Pure.

Seventh step of the journey: the service makes an `Attempt` when it takes an invocation, asks it for
the next input to send, tells it each result, and asks it for the outcomes to append. Durable and
interactive work share it; only what is done with the outcomes differs (records.py, chains.py).

Invariants: A1 each input has at most one outcome; A2 at most `window` inputs are in the runner;
A3 an outcome is handed out for writing once. Durations are monotonic seconds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec
from glowplug_contracts.messages.invocation import (
    INLINE_BYTES_MAX,
    Input,
    InputOutcome,
    RemoteError,
    RetryPolicy,
    State,
)

# How many inputs of a batch lie ready in a runner that runs one at a time: hides the round trip.
WINDOW_AHEAD: Final = 8
COALESCE_S: Final = 0.005
LINK_BYTES_MAX: Final = 512 * 1024
RETRYABLE: Final = frozenset(
    {"function.failed", "function.items_failed", "function.timeout", "function.out_of_memory"}
)
MESSAGE_CHARS_MAX: Final = 16 * 1024
TRACEBACK_CHARS_MAX: Final = 64 * 1024
DETAILS_BYTES_MAX: Final = 64 * 1024


class _Sent(msgspec.Struct):
    """An input that the runner has. `began_at` is None while another one runs before it."""

    input: Input
    began_at: float | None


class Attempt:
    """The machine. `window` 1 where a runner process runs several invocations at once."""

    __slots__ = (
        "_due",
        "_first_pending_at",
        "_left",
        "_sent",
        "_storing",
        "_tries",
        "_waiting",
        "attempt",
        "cancelled",
        "invocation_id",
        "pending",
        "pending_bytes",
        "retry",
        "run_ms",
        "timeout_s",
        "window",
    )

    def __init__(
        self,
        invocation_id: str,
        inputs: Iterable[Input],
        *,
        attempt: int,
        timeout_s: float,
        window: int = 1,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.invocation_id = invocation_id
        self.attempt = attempt
        self.timeout_s = timeout_s
        self.window = window
        self.retry = retry if retry is not None and retry.max_retries > 0 else None
        self.cancelled = False
        self.pending: list[InputOutcome] = []
        self.pending_bytes = 0
        self.run_ms = 0.0
        self._waiting: deque[Input] = deque(inputs)
        self._left = len(self._waiting)
        self._sent: dict[int, _Sent] = {}
        self._storing: dict[int, _Sent] = {}
        self._tries: dict[int, int] = {}
        self._due: list[tuple[float, Input]] = []
        self._first_pending_at = 0.0

    @property
    def done(self) -> bool:
        """Return whether every input has its outcome."""
        return self._left == 0

    @property
    def running(self) -> Input | None:
        """Return the input that runs now, as far as one can tell."""
        for sent in self._sent.values():
            return sent.input
        return None

    def next_input(self, now: float) -> Input | None:
        """Return an input to send now, or None; call again until None."""
        if self.cancelled or len(self._sent) >= self.window:
            return None
        if self._due and self._due[0][0] <= now:
            chosen = self._due.pop(0)[1]
        elif self._waiting:
            chosen = self._waiting.popleft()
        else:
            return None
        self._sent[chosen.index] = _Sent(chosen, None if self._sent else now)
        return chosen

    @property
    def due_at(self) -> float | None:
        """Return when the next retry may be sent; None = none waits."""
        return self._due[0][0] if self._due else None

    def holds(self, index: int) -> bool:
        """Return whether the runner may answer for this input."""
        return index in self._sent

    def set_aside(self, index: int, now: float) -> None:
        """The runner has answered, but the answer must be stored as a blob before it is an outcome."""
        self._storing[index] = self._sent.pop(index)
        self._begin_head(now)

    def take_result(self, outcome: InputOutcome, now: float) -> bool:
        """Take one input's end; return False if it will be tried again instead.

        The caller has checked `holds(outcome.index)`, or set it aside before.
        """
        sent = self._storing.pop(outcome.index, None)
        if sent is None:
            sent = self._sent.pop(outcome.index)
            self._begin_head(now)
        if outcome.state is State.FAILED and self.cancelled:
            outcome = msgspec.structs.replace(outcome, state=State.CANCELLED)
        if outcome.state is State.FAILED and self.retry is not None:
            tries = self._tries.get(outcome.index, 0) + 1
            seed = f"{self.invocation_id}/{outcome.index}"
            delay_s = decide_retry(self.retry, tries, outcome.error, seed)
            if delay_s is not None:
                self._tries[outcome.index] = tries
                self._due.append((now + delay_s, sent.input))
                self._due.sort(key=lambda each: each[0])
                return False
        self._add(outcome, now)
        return True

    def cancel(self, now: float) -> bool:
        """End every input that is not in the runner; return whether the runner must be told."""
        self.cancelled = True
        for _, each in self._due:
            self._add(_cancelled(each), now)
        for each in self._waiting:
            self._add(_cancelled(each), now)
        self._due.clear()
        self._waiting.clear()
        return bool(self._sent)

    def overdue(self, now: float) -> Input | None:
        """Return the input that ran longer than it may."""
        if self.timeout_s <= 0:
            return None
        for sent in self._sent.values():
            if sent.began_at is not None and now - sent.began_at >= self.timeout_s:
                return sent.input
        return None

    def end_running(self, outcome: InputOutcome, now: float) -> None:
        """Write down what the runner can't answer any more (it is killed)."""
        self._sent.pop(outcome.index)
        self._add(outcome, now)

    def unfinished(self) -> tuple[Input, ...]:
        """Return the inputs without an outcome, in the order they would run."""
        sent = [each.input for each in (*self._storing.values(), *self._sent.values())]
        return (*sent, *(each for _, each in self._due), *self._waiting)

    def due_to_flush(self, now: float) -> bool:
        """Return whether the pending outcomes should be written now."""
        if not self.pending:
            return False
        return (
            self.done
            or self.pending_bytes >= LINK_BYTES_MAX
            or now - self._first_pending_at >= COALESCE_S
        )

    def take_pending(self) -> tuple[InputOutcome, ...]:
        """Hand out what is to be written: as many outcomes as one message may carry."""
        if self.pending_bytes <= LINK_BYTES_MAX:
            taken, self.pending, self.pending_bytes = tuple(self.pending), [], 0
            return taken
        taken_bytes, count = 0, 0
        for each in self.pending:
            taken_bytes += _weight(each)
            if count and taken_bytes > LINK_BYTES_MAX:
                break
            count += 1
        taken, self.pending = tuple(self.pending[:count]), self.pending[count:]
        self.pending_bytes = sum(_weight(each) for each in self.pending)
        return taken

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert len(self._sent) <= self.window, "A2"  # noqa: S101
        waiting = len(self.unfinished())
        assert waiting == self._left, "A1"  # noqa: S101

    def _add(self, outcome: InputOutcome, now: float) -> None:
        if not self.pending:
            self._first_pending_at = now
        self.pending.append(outcome)
        self.pending_bytes += _weight(outcome)
        self.run_ms += outcome.run_ms
        self._left -= 1

    def _begin_head(self, now: float) -> None:
        for sent in self._sent.values():
            if sent.began_at is None:
                sent.began_at = now
            return


def decide_retry(
    policy: RetryPolicy, tries: int, error: RemoteError | None, seed: str = ""
) -> float | None:
    """Return after how many seconds a failed try is made again, or None: not at all.

    Args:
        policy: of the invocation.
        tries: made so far that ended by the user's code, this one included (≥ 1).
        error: of this try. The names in `retry_for` and `no_retry_for` match its type or one of its base
            classes, which the runner lists in `details["mro"]`.
        seed: names the invocation: what chance takes away from the pause derives from it and `tries`.
    """
    if tries > policy.max_retries or error is None or error.code not in RETRYABLE:
        return None
    names = _names(error)
    if policy.retry_for and names.isdisjoint(policy.retry_for):
        return None
    if not names.isdisjoint(policy.no_retry_for):
        return None
    return pause_s(policy, tries, seed)


def pause_s(policy: RetryPolicy, tries: int, seed: str) -> float:
    """Return how long to pause after so many failed tries.

    Exponential up to the cap; then chance takes away at most the share `jitter`, so that what failed
    together does not come back together. The same seed and tries always give the same pause.
    """
    exponent = min(tries - 1, 64)  # beyond, every backoff > 1 has reached max_delay_s
    whole_s = min(policy.delay_s * policy.backoff**exponent, policy.max_delay_s)
    hashed = hashlib.blake2b(f"{seed}/{tries}".encode(), digest_size=8).digest()
    chance = int.from_bytes(hashed) / 2**64
    return whole_s * (1.0 - min(max(policy.jitter, 0.0), 1.0) * chance)


def trim_error(error: RemoteError) -> RemoteError:
    """Return the error small enough for a message; a runner may send anything."""
    pickled = error.pickled
    if pickled is not None and len(pickled) > INLINE_BYTES_MAX:
        pickled = None  # the caller still gets class name, message and traceback
    details = error.details
    if len(msgspec.json.encode(details)) > DETAILS_BYTES_MAX:
        details = {"trimmed": True}
    return msgspec.structs.replace(
        error,
        type=error.type[:256],
        code=error.code[:64],
        message=error.message[:MESSAGE_CHARS_MAX],
        traceback=error.traceback[-TRACEBACK_CHARS_MAX:],
        pickled=pickled,
        details=details,
    )


def timed_out(index: int, timeout_s: float, ran_s: float) -> InputOutcome:
    """Return the outcome of an input that was killed for running too long."""
    error = RemoteError(
        code="function.timeout",
        type="FunctionTimeoutError",
        message=f"the function ran longer than its timeout of {timeout_s:g} s and was killed",
        details={"timeout_s": timeout_s, "mro": ["FunctionTimeoutError", "TimeoutError"]},
    )
    return InputOutcome(index=index, state=State.TIMED_OUT, error=error, run_ms=ran_s * 1000)


def _cancelled(each: Input) -> InputOutcome:
    error = RemoteError(
        code="invocation.cancelled", type="CancelledError", message="the call was cancelled"
    )
    return InputOutcome(index=each.index, state=State.CANCELLED, error=error)


def _names(error: RemoteError) -> set[str]:
    bases = error.details.get("mro")
    names = {str(each) for each in bases} if isinstance(bases, list) else set()
    names.add(error.type)
    return names | {name.rpartition(".")[2] for name in names}


def _weight(outcome: InputOutcome) -> int:
    """Return about how many bytes an outcome takes in a message."""
    size = 128
    if outcome.result is not None and outcome.result.data is not None:
        size += len(outcome.result.data)
    if outcome.error is not None:
        size += 256 + len(outcome.error.message) + len(outcome.error.traceback)
        size += len(outcome.error.pickled or b"")
    return size
