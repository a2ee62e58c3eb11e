"""One call: what was asked, each try at it, and its one outcome.

An *interactive* invocation travels as `InvocationRequested` and has no record; a caller waits for its
`Outcome`. A *durable* one is an `InvocationRecord`: the last message on its own subject, changed only
by compare-and-set. Both carry inputs in the same form, so that the worker has one path.
"""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import (
    ContainerId,
    DeploymentId,
    Digest,
    InvocationId,
    WorkerId,
    WorkspaceId,
)
from glowplug_contracts.messages import Message


class State(StrEnum):
    """Where an invocation is. The last six are terminal and never change again."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"


TERMINAL = frozenset(
    {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.EXPIRED, State.DEAD}
)


class Format(StrEnum):
    """How arguments and results are written. Services move the bytes and never unpickle them."""

    JSON = "json"
    PICKLE = "pickle"


class Payload(Message, frozen=True, kw_only=True):
    """Some user bytes: inline, or the digest of a blob that imagecache keeps.

    Exactly one of `data` and `blob` is set. Beyond `INLINE_BYTES_MAX` it must be a blob.
    """

    format: Format
    data: bytes | None = None
    blob: Digest | None = None
    size: int = 0


INLINE_BYTES_MAX = 256 * 1024


class Input(Message, frozen=True, kw_only=True):
    """One set of arguments. `index` is its place in the caller's order (0 for a single call)."""

    index: int = 0
    args: Payload


class RemoteError(Message, frozen=True, kw_only=True):
    """Why an attempt did not succeed.

    `pickled` is the user's exception by cloudpickle (only the SDK unpickles it, and only for its own
    calls); `traceback` shows the user's frames with source lines and none of ours; `code` is a key of
    errors.CODES; `details` holds figures (limit_bytes, peak_bytes, exit_code, signal, last_lines).
    """

    code: str
    type: str
    message: str
    traceback: str = ""
    pickled: bytes | None = None
    details: dict[str, object] = {}


class RetryPolicy(Message, frozen=True, kw_only=True):
    """When a failed attempt is tried again.

    Attributes:
        max_retries: tries beyond the first for errors of the user's code.
        delay_s: pause before the first retry; later ones multiply by `backoff` up to `max_delay_s`.
        retry_for: names of exception classes; empty means every exception (if max_retries > 0).
    """

    max_retries: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    max_delay_s: float = 600.0
    retry_for: tuple[str, ...] = ()


class InvocationRequested(Message, frozen=True, kw_only=True):
    """Interactive work, accepted by a gateway whose caller waits (one input, or a batch of a map).

    Attributes:
        attempt: from 1; the gateway counts up when the platform lost the work.
        reply_to: the gateway instance that holds the caller; it listens on REPLY.
        deadline_s: seconds from acceptance after which nobody waits; 0 = none.
        stream: the caller takes a generator's items as they come (numbered frames).
        first: this id was never sent before, so no other outcome of it can exist. Its worker may tell the
            outcome while it is being stored, instead of after.
        retry: tries for errors of the user's code; the worker makes them before it writes an outcome.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    deployment_id: DeploymentId
    inputs: tuple[Input, ...]
    reply_to: str
    attempt: int = 1
    priority: int = 0
    deadline_s: float = 0.0
    stream: bool = False
    accepted_at: float = 0.0
    trace: str = ""
    method: str = ""
    retry: RetryPolicy = RetryPolicy()
    first: bool = False


class InputOutcome(Message, frozen=True, kw_only=True):
    """How one input ended. `state` is one of SUCCEEDED, FAILED, TIMED_OUT, CANCELLED."""

    index: int = 0
    state: State
    result: Payload | None = None
    error: RemoteError | None = None
    run_ms: float = 0.0


class Outcome(Message, frozen=True, kw_only=True):
    """One link in the chain of outcomes of an interactive invocation.

    All links of an invocation stand on one subject. Each is appended with the sequence of the link
    before it as the expected last (0 for the first), so of two attempts only one can write the next.
    A single call has one link; a batch may have several. `last` marks the final one. `frames` counts
    the items of a streamed call (−1: not streamed), so that a lost tail is noticed.
    """

    invocation_id: InvocationId
    attempt: int
    outcomes: tuple[InputOutcome, ...]
    container_id: ContainerId = ContainerId("")
    worker_id: WorkerId = WorkerId("")
    last: bool = True
    frames: int = -1


class StreamFrame(Message, frozen=True, kw_only=True):
    """Frame `number` (from 0) of a generator's output; a gap ends the stream with an error."""

    invocation_id: InvocationId
    attempt: int
    number: int
    item: Payload


class AttemptLost(Message, frozen=True, kw_only=True):
    """The dispatcher knows that an attempt's worker or container is gone; the gateway may retry.

    `cause` is "worker", "container" or "refused": try again, up to PLATFORM_RETRIES_MAX; or
    "start_failed": no container could start, trying again does not help, and `error` is the caller's
    answer. `error` otherwise is what the worker could tell, if it could.
    """

    invocation_id: InvocationId
    attempt: int
    cause: str
    error: RemoteError | None = None


class Reply(Message, frozen=True, kw_only=True):
    """What a gateway hears for an invocation it holds; one of `outcome`, `frame` and `lost` is set.

    `stored` is false for an outcome that is still on its way into the chain: it answers only the attempt it
    is of, and only while no later one was sent.
    """

    outcome: Outcome | None = None
    frame: StreamFrame | None = None
    lost: AttemptLost | None = None
    stored: bool = True


class StreamCredit(Message, frozen=True, kw_only=True):
    """The gateway tells the worker up to which frame number (exclusive) it may send."""

    invocation_id: InvocationId
    until: int


PLATFORM_RETRIES_MAX = 3


class InvocationRecord(Message, frozen=True, kw_only=True):
    """A durable invocation: this *is* the truth about it.

    Attributes:
        attempt: the try that runs or ran last; 0 before the first claim.
        user_attempts / lost_attempts: how many tries ended by user code / by the platform.
        due_at: not before this Unix time (retry delay, ETA); 0 = at once.
        expires_at: EXPIRED if not started by then; 0 = never.
        worker_id, container_id: of the current attempt; its fencing token is this record's sequence.
        keep_result_s: how long the terminal record is kept.
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
    keep_result_s: float = 86_400.0
    worker_id: WorkerId = WorkerId("")
    container_id: ContainerId = ContainerId("")
    outcome: InputOutcome | None = None
    trace: str = ""
    parent: str = ""


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


def record_headers(record: InvocationRecord) -> dict[str, str]:
    """Return the headers that every write of a record carries."""
    return {
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
    }


class RunInvocation(Message, frozen=True, kw_only=True):
    """The dispatcher hands work to a slot of a container of this worker.

    Exactly one of `request` (interactive, the whole message) and `record` (durable: read the record
    by id, claim it by compare-and-set on `record_sequence`) is set.

    Attributes:
        generation: of the shard's lease; a worker refuses one lower than it has seen for the shard.
    """

    shard: int
    generation: int
    container_id: ContainerId
    deployment_id: DeploymentId
    request: InvocationRequested | None = None
    record: InvocationId | None = None
    record_sequence: int = 0
    workspace: WorkspaceId = WorkspaceId("")


class AttemptsBegan(Message, frozen=True, kw_only=True):
    """The worker tells the shard's owner what it took straight from gateways, a few milliseconds late.

    Attributes:
        invocation_ids: those that still run; an AttemptEnded names them later.
        passed: how many more came and went since the last such message.
        peak: how many ran at once since then, at most.
    """

    container_id: ContainerId
    invocation_ids: tuple[InvocationId, ...] = ()
    passed: int = 0
    peak: int = 0


class AttemptEnded(Message, frozen=True, kw_only=True):
    """The worker tells the shard's owner that slots are free again (and that the work is done)."""

    container_id: ContainerId
    invocation_ids: tuple[InvocationId, ...]
    run_s: float = 0.0
    inputs: int = 1


class AttemptRefused(Message, frozen=True, kw_only=True):
    """The worker gives work back unrun: draining, full, unknown container or stale generation."""

    container_id: ContainerId
    invocation_id: InvocationId
    reason: str
    request: InvocationRequested | None = None


class CancelInvocation(Message, frozen=True, kw_only=True):
    """Stop it, queued or running: gateway → shard owner → worker."""

    invocation_id: InvocationId
    container_id: ContainerId = ContainerId("")


class CallsProbed(Message, frozen=True, kw_only=True):
    """A gateway asks a shard's owner which of its old calls it still knows."""

    invocation_ids: tuple[InvocationId, ...]


class CallsKnown(Message, frozen=True, kw_only=True):
    """The answer. While `settled` is false (just taken over) an unknown call proves nothing."""

    unknown: tuple[InvocationId, ...]
    settled: bool
    generation: int


class ShardOwned(Message, frozen=True, kw_only=True):
    """A dispatcher took over a shard; workers answer at once with a heartbeat."""

    shard: int
    generation: int
    instance: str


class BacklogChanged(Message, frozen=True, kw_only=True):
    """How much waits and runs for a deployment, in inputs. At most one per deployment per 50 ms.

    `arrivals` counts inputs since the dispatcher took over; `trace` is that of the oldest waiting one,
    so that the cold start it causes shows up in its trace.
    """

    deployment_id: DeploymentId
    queued: int
    in_flight: int
    oldest_age_s: float = 0.0
    arrivals: int = 0
    shard: int = 0
    trace: str = ""


class InvocationFact(Message, frozen=True, kw_only=True):
    """One line of history, for lists; never read by a decision."""

    invocation_id: InvocationId
    deployment_id: DeploymentId
    workspace: WorkspaceId
    state: State
    attempt: int
    at: float
    run_ms: float = 0.0
    inputs: int = 1
    container_id: ContainerId = ContainerId("")
    trace: str = ""
    error_type: str = ""


class InvocationFacts(Message, frozen=True, kw_only=True):
    """A batch of them."""

    facts: tuple[InvocationFact, ...]


def is_terminal(state: State) -> bool:
    """Return whether a record in this state never changes again."""
    return state in TERMINAL
