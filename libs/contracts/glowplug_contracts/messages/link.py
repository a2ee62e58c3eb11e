"""Frames of the direct path: one WebSocket between a worker and each gateway, dialled by the worker.

A gateway that knows a warm slot sends an interactive call straight to its worker; where it knows none, or is
refused, the call goes through the shard's stream and its dispatcher. Facts and outcomes reach JetStream either
way. Durable work that is sent so is stored before, as running there. Every frame is one binary message,
msgpack, tagged by its kind.
"""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, DeploymentId, InvocationId, WorkerId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import InvocationRequested, Reply
from glowplug_contracts.messages.record import InvocationRecord

LINK_PATH = "/internal/v1/link"
# A peer whose host vanished without a word is noticed within about one and a half of these.
LINK_HEARTBEAT_S = 4.0
# A chain's link (512 KiB at most) or a call with its arguments inline, and what stands around them.
LINK_FRAME_BYTES_MAX = 1024 * 1024


class WorkerLinked(Message, frozen=True, kw_only=True, tag="linked"):
    """The worker's first frame: who it is. `tasks`: durable work may be sent, too."""

    worker_id: WorkerId
    tasks: bool = False


class SlotsTold(Message, frozen=True, kw_only=True, tag="slots"):
    """How many invocations a container would take now.

    Attributes:
        seen: calls for this container that have come through this link so far. What the gateway has sent
            beyond them is on its way and not yet counted in `free`.
        closed: the container takes nothing any more, ever.
    """

    container_id: ContainerId
    deployment_id: DeploymentId
    free: int
    seen: int = 0
    closed: bool = False


class CallSent(Message, frozen=True, kw_only=True, tag="call"):
    """Gateway → worker: run this in that container, or refuse it at once."""

    container_id: ContainerId
    shard: int
    request: InvocationRequested


class TaskSent(Message, frozen=True, kw_only=True, tag="task"):
    """Gateway → worker: run this durable invocation in that container, or refuse it at once.

    Its record is stored already, as RUNNING there; `sequence` is the token of its next word.
    """

    container_id: ContainerId
    shard: int
    sequence: int
    record: InvocationRecord


class CallCancelled(Message, frozen=True, kw_only=True, tag="cancel"):
    """Gateway → worker: nobody waits for it any more."""

    invocation_id: InvocationId


class CallAnswered(Message, frozen=True, kw_only=True, tag="answer"):
    """Worker → gateway: what REPLY would carry; `slots` where the container's room changed with it."""

    reply: Reply
    slots: SlotsTold | None = None


class TaskEnded(Message, frozen=True, kw_only=True, tag="task_ended"):
    """Worker → gateway: the attempt that was sent is over, and what became of it is stored.

    Attributes:
        record: as it was stored at `sequence`, if it has ended by that and fits into a frame.
    """

    invocation_id: InvocationId
    sequence: int = 0
    record: InvocationRecord | None = None
    slots: SlotsTold | None = None


class CallRefused(Message, frozen=True, kw_only=True, tag="refused"):
    """Worker → gateway: not run here; no attempt was spent. Of calls and of tasks."""

    invocation_id: InvocationId
    reason: str
    slots: SlotsTold


ToWorker = CallSent | CallCancelled | TaskSent
ToGateway = WorkerLinked | SlotsTold | CallAnswered | CallRefused | TaskEnded
