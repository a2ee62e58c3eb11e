"""What dispatchers, workers and gateways tell each other about work: handed, begun, ended, waiting."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import InvocationRequested, State


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

    `held` inputs wait for something else than a container (their time, their key, other invocations).
    `arrivals` counts inputs since the dispatcher took over; `trace` is that of the oldest waiting one,
    so that the cold start it causes shows up in its trace. `generation` (of the shard's lease) and
    `number` (of the announcement) order what one dispatcher says, and what two say: the older is not news.
    """

    deployment_id: DeploymentId
    queued: int
    in_flight: int
    oldest_age_s: float = 0.0
    arrivals: int = 0
    shard: int = 0
    trace: str = ""
    held: int = 0
    generation: int = 0
    number: int = 0

    def is_older_than(self, other: BacklogChanged) -> bool:
        """Return whether what `other` says was said after this."""
        return (self.generation, self.number) < (other.generation, other.number)


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
