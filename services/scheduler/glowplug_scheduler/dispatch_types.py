"""The dispatcher's vocabulary: what it hears and what it decides.

Everything here is a value. `dispatch.py` re-exports all of it, so that shells, tests and the simulation
import from one place. Times are on the machine's clock, never Unix time.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId, WorkspaceId
from glowplug_contracts.messages.dispatch import (
    AttemptEnded,
    AttemptRefused,
    AttemptsBegan,
    BacklogChanged,
    CallsKnown,
)
from glowplug_contracts.messages.invocation import InvocationRequested, RemoteError, State

from glowplug_scheduler.events import (
    AskWorker,
    BeatHeard,
    BrokerReached,
    ContainerMoved,
    Tick,
    WorkerAnswered,
    WorkerUnreachable,
)


class ShardTaken(msgspec.Struct, frozen=True):
    """This machine owns the shard from now on. The first event of every machine."""

    generation: int


class RequestArrived(msgspec.Struct, frozen=True):
    """An interactive call stands in the shard's work stream.

    `sequence` is its place there (> 0); `size` its bytes, for the bounded cache.
    """

    request: InvocationRequested
    sequence: int
    size: int = 0


class RecordSeen(msgspec.Struct, frozen=True):
    """A durable invocation's record, by its headers, as its stream tells it.

    Records come in the order of their sequences; repeats of older ones are ignored.

    Attributes:
        due_at: not before; 0 = at once.
        expires_at: EXPIRED if not handed by then; 0 = never.
        accepted_at: for the trace and the age; Unix seconds, decides nothing.
        order: its place in the order of acceptance; 0 = its own sequence.
        key, key_limit: of one key at most so many run at once; 0 = one at a time, in order.
        rate_count, rate_period_s: its queue may start so many in such a time; a count of 0 = any.
        then: who waits for its end.
        after_count, after_if: it waits for so many ends, that must be such.
        started_at: when its last attempt began; 0 = none did, or nobody needs to know.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    deployment_id: DeploymentId
    state: State
    sequence: int
    attempt: int = 0
    lost_attempts: int = 0
    priority: int = 0
    due_at: float = 0.0
    expires_at: float = 0.0
    worker_id: WorkerId = WorkerId("")
    container_id: ContainerId = ContainerId("")
    trace: str = ""
    accepted_at: float = 0.0
    order: int = 0
    key: str = ""
    key_limit: int = 0
    rate_count: int = 0
    rate_period_s: float = 1.0
    started_at: float = 0.0
    then: tuple[InvocationId, ...] = ()
    after_count: int = 0
    after_if: str = "succeeded"


class RecordsRead(msgspec.Struct, frozen=True):
    """Everything that stood in the records' stream, from `start` on, has been told.

    `start` is a floor that an owner before us has kept, and what it kept from below was told first.
    """

    start: int = 1


class RecordAudited(msgspec.Struct, frozen=True):
    """A record, as a second reading beside the first one has it."""

    record: RecordSeen


class AuditEnded(msgspec.Struct, frozen=True):
    """The second reading (AuditRecords) is over; `whole`: it has come to the end of the stream."""

    whole: bool = True


class RecordVerified(msgspec.Struct, frozen=True):
    """A doubtful record (VerifyRecord), as it stands in its stream now."""

    record: RecordSeen


class RecordRemoved(msgspec.Struct, frozen=True):
    """A record left its stream (its time to live ended, or it was purged)."""

    invocation_id: InvocationId
    sequence: int


class DeploymentMoved(msgspec.Struct, frozen=True):
    """A deployment serves, or was deleted. One that was never heard of may serve."""

    deployment_id: DeploymentId
    deleted: bool


class Began(msgspec.Struct, frozen=True):
    """A worker took attempts straight from a gateway; they may have ended meanwhile."""

    began: AttemptsBegan


class Ended(msgspec.Struct, frozen=True):
    """A worker finished attempts; their slots are free."""

    ended: AttemptEnded


class Refused(msgspec.Struct, frozen=True):
    """A worker gives work back unrun."""

    refused: AttemptRefused
    size: int = 0


class CancelAsked(msgspec.Struct, frozen=True):
    """A gateway wants an invocation stopped, wherever it is."""

    invocation_id: InvocationId


class Probed(msgspec.Struct, frozen=True):
    """A gateway asks which of its calls are known; `token` names the question in the answer."""

    token: int
    invocation_ids: tuple[InvocationId, ...]


class PayloadGone(msgspec.Struct, frozen=True):
    """A call that was to be handed could not be read again: it left the stream."""

    invocation_id: InvocationId
    sequence: int


Event: TypeAlias = (
    ShardTaken
    | RequestArrived
    | RecordSeen
    | RecordRemoved
    | RecordsRead
    | RecordAudited
    | AuditEnded
    | RecordVerified
    | DeploymentMoved
    | Began
    | Ended
    | Refused
    | CancelAsked
    | Probed
    | PayloadGone
    | BeatHeard
    | ContainerMoved
    | BrokerReached
    | WorkerAnswered
    | WorkerUnreachable
    | Tick
)


class Hand(msgspec.Struct, frozen=True):
    """Send the work to this slot (RunInvocation), then acknowledge `sequence` if interactive.

    Interactive: `request` is the call, or None where the cache was full: read it again at `sequence`
    (PayloadGone if it is not there). Durable: `durable` is true and `sequence` the record's.
    A `sequence` of 0 means that no stream holds it (a worker gave it back).
    """

    worker_id: WorkerId
    container_id: ContainerId
    deployment_id: DeploymentId
    invocation_id: InvocationId
    workspace: WorkspaceId
    sequence: int
    durable: bool = False
    request: InvocationRequested | None = None
    attempt: int = 1
    trace: str = ""
    accepted_at: float = 0.0
    waited_s: float = 0.0


class Ack(msgspec.Struct, frozen=True):
    """Remove a call from the work stream without handing it: repeated, cancelled or failed."""

    sequence: int


class SendLost(msgspec.Struct, frozen=True):
    """Tell the gateway that holds the caller: this attempt is lost (or can't ever start)."""

    invocation_id: InvocationId
    attempt: int
    reply_to: str
    cause: str
    error: RemoteError | None = None


class WriteRecord(msgspec.Struct, frozen=True):
    """Change a durable record by compare-and-set from `sequence`; a conflict means others were first.

    `state` is RETRY_WAIT (due at once, lost_attempts + 1), DEAD, FAILED (with `error`), CANCELLED (likewise)
    or EXPIRED.
    Repeated until the record is seen to have moved.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    sequence: int
    state: State
    cause: str = ""
    error: RemoteError | None = None


class ForwardCancel(msgspec.Struct, frozen=True):
    """Ask the worker to stop an attempt that runs."""

    worker_id: WorkerId
    container_id: ContainerId
    invocation_id: InvocationId


class AnnounceBacklog(msgspec.Struct, frozen=True):
    """Tell autoscaler and gateways how much waits and runs for a deployment."""

    backlog: BacklogChanged


class AnswerProbe(msgspec.Struct, frozen=True):
    """Answer the question `token`."""

    token: int
    known: CallsKnown


class ScanRecords(msgspec.Struct, frozen=True):
    """Read the shard's records again: the queue was full and has room, or a reader failed us."""

    start: int = 1


class AuditRecords(msgspec.Struct, frozen=True):
    """Read the records beside the reading that goes on; tell RecordAudited of each, then AuditEnded."""

    start: int


class VerifyRecord(msgspec.Struct, frozen=True):
    """Read this record by itself; tell RecordVerified, or RecordRemoved at `sequence`."""

    invocation_id: InvocationId
    workspace: WorkspaceId
    sequence: int


class KeepFloor(msgspec.Struct, frozen=True):
    """Keep for the next owner: only the records at `below`, and from `floor` on, are of interest."""

    floor: int
    below: tuple[int, ...]


Decision: TypeAlias = (
    Hand
    | Ack
    | SendLost
    | WriteRecord
    | ForwardCancel
    | AnnounceBacklog
    | AnswerProbe
    | ScanRecords
    | AuditRecords
    | VerifyRecord
    | KeepFloor
    | AskWorker
)
