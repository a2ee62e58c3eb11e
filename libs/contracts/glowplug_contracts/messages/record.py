"""A durable invocation: what is stored of it, and what follows from that.

A record is the last message on its own subject, changed only by compare-and-set.
"""

from __future__ import annotations

import hashlib
import json

import msgspec

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import (
    Input,
    InputOutcome,
    RemoteError,
    RetryPolicy,
    State,
    is_terminal,
)

ATTEMPTS_KEPT = 32
ATTEMPT_ERROR_CHARS_MAX = 300
KEEP_RESULT_S = 86_400.0
DEAD_LETTER_KEEP_S = 14 * 86_400.0
# What others wait for is kept at least so long after its end; they must start by then.
KEEP_FOR_OTHERS_S = 7 * 86_400.0
# A record whose callback is still to be told; longer than all tries take.
KEEP_FOR_CALLBACK_S = 86_400.0


class RateLimit(Message, frozen=True, kw_only=True):
    """At most `count` starts in any `period_s` seconds; a count of 0 is no limit."""

    count: int = 0
    period_s: float = 1.0


class KeyLimit(Message, frozen=True, kw_only=True):
    """What of one key may run at once, among all versions of a function.

    Attributes:
        key: the function's name and the caller's key; "" = no key.
        limit: so many at once.
        ordered: strictly in the order of acceptance: one begins when all before it have ended for good.
    """

    key: str = ""
    limit: int = 1
    ordered: bool = False


class Progress(Message, frozen=True, kw_only=True):
    """How far an attempt is, as the user's code says: `fraction` 0 … 1 (below 0: unknown)."""

    fraction: float = -1.0
    message: str = ""
    at: float = 0.0


class AttemptLine(Message, frozen=True, kw_only=True):
    """One try that has ended, for people: when, where and how.

    Attributes:
        state: how it ended: SUCCEEDED, FAILED, TIMED_OUT, CANCELLED; RETRY_WAIT or DEAD if the platform
            lost it.
        error_type, error: class and message of what it ended in, cut.
    """

    number: int
    state: State
    started_at: float = 0.0
    ended_at: float = 0.0
    worker_id: WorkerId = WorkerId("")
    container_id: ContainerId = ContainerId("")
    error_type: str = ""
    error: str = ""


class CallbackState(Message, frozen=True, kw_only=True):
    """How far the telling of a record's `callback_url` is; none yet if the record has no such.

    Attributes:
        state: "waiting" for the next try at `due_at`, "delivered" or "failed" (given up).
        status: of the last HTTP answer; 0 = there was none.
        error: why the last try failed.
    """

    state: str
    attempts: int = 0
    due_at: float = 0.0
    status: int = 0
    error: str = ""
    at: float = 0.0


class RecordAbout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What lists show of a record beside its other headers. It travels in one of them, HEADER_ABOUT.

    Attributes:
        gone_at: when the broker removes the record; 0 = not set.
        callback: "due" (there is one to tell, from `callback_at` on), "delivered", "failed", or "" (nobody
            is to be told).
    """

    name: str = ""
    app: str = ""
    parent: str = ""
    tags: dict[str, str] = {}
    ended_at: float = 0.0
    gone_at: float = 0.0
    error_type: str = ""
    run_ms: float = 0.0
    letter: bool = False
    replayed_as: str = ""
    callback: str = ""
    callback_at: float = 0.0
    fraction: float = -1.0


IDEMPOTENCY_WINDOW_S_MAX = 7 * 86_400.0


class IdempotentPut(Message, frozen=True, kw_only=True):
    """What a caller's idempotency key stands for, until a Unix time; `fingerprint` of what was asked."""

    invocation_id: InvocationId
    fingerprint: str
    until: float


class ProgressMade(Message, frozen=True, kw_only=True):
    """An attempt of a durable invocation says how far it is; the last word per invocation is kept."""

    invocation_id: InvocationId
    attempt: int
    progress: Progress


class InvocationRecord(Message, frozen=True, kw_only=True):
    """A durable invocation: this *is* the truth about it.

    Attributes:
        attempt: the try that runs or ran last; 0 before the first claim.
        user_attempts / lost_attempts: how many tries ended by user code / by the platform.
        due_at: not before this Unix time (retry delay, ETA); 0 = at once.
        expires_at: EXPIRED if not started by then; 0 = never.
        worker_id, container_id: of the current attempt; its fencing token is this record's sequence.
        keep_result_s: how long the terminal record is kept; `kept_s` says how long in the end.
        order: sequence of the record's first word, its place in the order of acceptance; 0 while this
            is the first word. Every later word carries it (`ordered_by`).
        parent: the invocation whose code asked for this one.
        tags: the caller's own words, for lists.
        headers: what came with the payload and is not part of it (an event's attributes, a request's
            headers); shown with a dead letter.
        reason: why it ended as it did or what it waits for, in a word or sentence for people.
        progress: what its code said last.
        idempotency_key: the caller's; the same one means this invocation until `idempotent_until`.
        key: what may run beside it.
        rate: of its queue.
        then: invocations that wait for the end of this one; they name it in `after`.
        after: invocations whose ends this one waits for.
        after_if: "succeeded" starts it when all of them have succeeded and fails it otherwise; "failed"
            starts it when one has not and cancels it otherwise; "ended" starts it in any case.
        pass_as: what its code gets of them, before its own arguments: "" nothing, "value" the one
            result, "list" the results in order, "error" what is known of the first failure.
        callback_url: told of the end.
        dead_letter: kept as a dead letter, for `dead_letter_keep_s`, if it ends unsuccessfully.
        replay_of / replayed_as: a dead letter that was tried again, and as what.
        scheduled_for: the due time that a schedule's firing stands for, Unix; 0 = no schedule's.
        name, app: of its function, for lists and for replays after the deployment is gone.
        attempts: the last tries that ended, at most ATTEMPTS_KEPT, oldest first.
        callback: how far the telling of `callback_url` is.
        events: its one argument is a list of so many events, of which some may fail (then only these
            stay in the input); 0 = its input is one thing.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    deployment_id: DeploymentId
    input: Input
    state: State = State.ACCEPTED
    attempt: int = 0
    user_attempts: int = 0
    lost_attempts: int = 0
    priority: int = 0
    timeout_s: float = 0.0
    retry: RetryPolicy = RetryPolicy()
    accepted_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    due_at: float = 0.0
    expires_at: float = 0.0
    keep_result_s: float = KEEP_RESULT_S
    worker_id: WorkerId = WorkerId("")
    container_id: ContainerId = ContainerId("")
    outcome: InputOutcome | None = None
    trace: str = ""
    parent: str = ""
    order: int = 0
    tags: dict[str, str] = {}
    headers: dict[str, str] = {}
    reason: str = ""
    progress: Progress | None = None
    idempotency_key: str = ""
    idempotent_until: float = 0.0
    key: KeyLimit = KeyLimit()
    rate: RateLimit = RateLimit()
    then: tuple[InvocationId, ...] = ()
    after: tuple[InvocationId, ...] = ()
    after_if: str = "succeeded"
    pass_as: str = ""
    callback_url: str = ""
    dead_letter: bool = False
    dead_letter_keep_s: float = DEAD_LETTER_KEEP_S
    replay_of: str = ""
    replayed_as: str = ""
    scheduled_for: float = 0.0
    name: str = ""
    app: str = ""
    attempts: tuple[AttemptLine, ...] = ()
    callback: CallbackState | None = None
    events: int = 0


EXPIRED_ERROR = RemoteError(
    code="invocation.expired",
    type="TaskExpiredError",
    message="the task expired: it had not started within its ttl",
)
# Ends that make a dead letter of a record that is to be kept as one.
DEAD_LETTER_STATES = frozenset({State.FAILED, State.TIMED_OUT, State.EXPIRED, State.DEAD})


def is_dead_letter(record: InvocationRecord) -> bool:
    """Return whether a record is a dead letter."""
    return record.dead_letter and record.state in DEAD_LETTER_STATES


def kept_s(record: InvocationRecord, unix: float) -> float:
    """Return the time to live of a record's word, written at `unix`: 0 (for ever) until it has ended.

    A dead letter is kept as such, and nothing goes while its idempotency key is in force, its queue's
    rate counts its start, or somebody may wait for its result.
    """
    if not is_terminal(record.state):
        return 0.0
    return max(
        1.0,
        record.dead_letter_keep_s if is_dead_letter(record) else record.keep_result_s,
        record.idempotent_until - unix,
        record.rate.period_s if record.rate.count else 0.0,
        KEEP_FOR_OTHERS_S if record.then else 0.0,
        KEEP_FOR_CALLBACK_S if callback_due(record) else 0.0,
    )


def attempts_after(
    record: InvocationRecord, state: State, error: RemoteError | None, unix: float
) -> tuple[AttemptLine, ...]:
    """Return a record's `attempts` once the running one, if there is one, has ended like this."""
    if record.state is not State.RUNNING:
        return record.attempts
    line = AttemptLine(
        number=record.attempt,
        state=state,
        started_at=record.started_at,
        ended_at=unix,
        worker_id=record.worker_id,
        container_id=record.container_id,
        error_type=error.type if error else "",
        error=error.message[:ATTEMPT_ERROR_CHARS_MAX] if error else "",
    )
    return (*record.attempts, line)[-ATTEMPTS_KEPT:]


def callback_due(record: InvocationRecord) -> bool:
    """Return whether somebody is still to be told of a record's end."""
    if not record.callback_url or not is_terminal(record.state):
        return False
    return record.callback is None or record.callback.state == "waiting"


def about(record: InvocationRecord) -> RecordAbout:
    """Return what lists show of a record."""
    error = record.outcome.error if record.outcome else None
    callback = record.callback.state if record.callback else ""
    return RecordAbout(
        name=record.name,
        app=record.app,
        parent=record.parent,
        tags=record.tags,
        ended_at=record.ended_at,
        gone_at=record.ended_at + kept_s(record, record.ended_at)
        if is_terminal(record.state)
        else 0.0,
        error_type=error.type if error else "",
        run_ms=record.outcome.run_ms if record.outcome else 0.0,
        letter=is_dead_letter(record),
        replayed_as=record.replayed_as,
        callback="due" if callback_due(record) else callback,
        callback_at=record.callback.due_at if record.callback else 0.0,
        fraction=record.progress.fraction if record.progress else -1.0,
    )


def _about_text(record: InvocationRecord) -> str:
    found = about(record)
    text = msgspec.json.encode(found).decode()
    return text if text.isascii() else json.dumps(msgspec.to_builtins(found))


# Record headers: what the dispatcher reads without ever seeing a payload.
HEADER_STATE = "Glowplug-State"
HEADER_DEPLOYMENT = "Glowplug-Deployment"
HEADER_PRIORITY = "Glowplug-Priority"
HEADER_DUE = "Glowplug-Due"
HEADER_ATTEMPT = "Glowplug-Attempt"
HEADER_WORKER = "Glowplug-Worker"
HEADER_CONTAINER = "Glowplug-Container"
HEADER_LOST = "Glowplug-Lost"
HEADER_EXPIRES = "Glowplug-Expires"
HEADER_ACCEPTED = "Glowplug-Accepted"
HEADER_TRACE = "Glowplug-Trace"
HEADER_ORDER = "Glowplug-Order"
HEADER_STARTED = "Glowplug-Started"
HEADER_KEY = "Glowplug-Key"
HEADER_KEY_LIMIT = "Glowplug-Key-Limit"
HEADER_RATE = "Glowplug-Rate"
HEADER_THEN = "Glowplug-Then"
HEADER_AFTER = "Glowplug-After"
# RecordAbout as JSON in ASCII.
HEADER_ABOUT = "Glowplug-About"


def record_headers(record: InvocationRecord) -> dict[str, str]:
    """Return the headers that every write of a record carries."""
    headers = {
        HEADER_STATE: record.state.value,
        HEADER_DEPLOYMENT: record.deployment_id,
        HEADER_PRIORITY: str(record.priority),
        HEADER_DUE: repr(record.due_at),
        HEADER_ATTEMPT: str(record.attempt),
        HEADER_WORKER: record.worker_id,
        HEADER_CONTAINER: record.container_id,
        HEADER_LOST: str(record.lost_attempts),
        HEADER_EXPIRES: repr(record.expires_at),
        HEADER_ACCEPTED: repr(record.accepted_at),
        HEADER_TRACE: record.trace,
        HEADER_ABOUT: _about_text(record),
    }
    if record.order:
        headers[HEADER_ORDER] = str(record.order)
    if record.key.key:
        # Anybody's text: as a hash it fits a header and says nothing.
        headers[HEADER_KEY] = hashlib.blake2b(record.key.key.encode(), digest_size=16).hexdigest()
        headers[HEADER_KEY_LIMIT] = "ordered" if record.key.ordered else str(record.key.limit)
    if record.rate.count:
        headers[HEADER_RATE] = f"{record.rate.count}/{record.rate.period_s!r}"
        headers[HEADER_STARTED] = repr(record.started_at)
    if record.then:
        headers[HEADER_THEN] = ",".join(record.then)
    if record.after:
        headers[HEADER_AFTER] = f"{len(record.after)}/{record.after_if}"
    return headers


def ordered_by(record: InvocationRecord, sequence: int) -> int:
    """Return the `order` of a record's next word, where its last one was read at `sequence`."""
    return record.order or sequence
