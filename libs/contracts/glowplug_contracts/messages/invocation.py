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


def is_terminal(state: State) -> bool:
    """Return whether a record in this state never changes again."""
    return state in TERMINAL


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
        no_retry_for: names of exception classes that are never tried again; stronger than retry_for.
        jitter: the share of a pause that chance may take away, 0 … 1; the same invocation and attempt
            always pause equally long.
    """

    max_retries: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    max_delay_s: float = 600.0
    retry_for: tuple[str, ...] = ()
    no_retry_for: tuple[str, ...] = ()
    jitter: float = 0.0


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
