"""THE registry: every subject, the message it carries, who publishes it and who listens.

A subject is a value with a type. Publishing goes to `SUBJECT.at(field=…)`, listening to
`SUBJECT.pattern(field=…)`, where fields left out become wildcards. No other file spells a subject.
Permissions, docs/events.md and the tests of completeness are made from this list.
"""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any, Generic, TypeVar

import msgspec

from glowplug_contracts.codec import Wire
from glowplug_contracts.ids import WorkspaceId, check_token
from glowplug_contracts.messages import (
    container,
    dispatch,
    event,
    image,
    invocation,
    output,
    record,
    sandbox,
    scale,
    schedule,
    state,
    trace,
    worker,
)
from glowplug_contracts.streams import (
    CALLS,
    CONTAINER_EVENTS,
    EVENT_INGRESS,
    EVENTS,
    INVOCATION_EVENTS,
    LOGS,
    MAPS,
    OUTCOMES,
    OUTPUTS,
    PROGRESSES,
    QUEUES,
    RECORDS,
    SCALE_DECISIONS,
    SCHEDULES,
    SPANS,
    Stream,
)

M = TypeVar("M")
R = TypeVar("R")

_FIELD = re.compile(r"\{(\w+)\}")


@functools.cache
def _fields_of(template: str) -> tuple[str, ...]:
    return tuple(_FIELD.findall(template))


@functools.cache
def _form_of(template: str) -> str:
    """Return the template as the % operator wants it."""
    return _FIELD.sub("%s", template.replace("%", "%%"))


@functools.cache
def _names_in(template: str) -> tuple[str, ...]:
    """Return the placeholder that each token is, "" for those that are none."""
    return tuple(part[1:-1] if part.startswith("{") else "" for part in template.split("."))


class Address(msgspec.Struct, Generic[M], frozen=True):
    """One concrete subject, or a pattern with wildcards, and the type that travels on it."""

    subject: str
    spec: Subject[M]


class Subject(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """A family of subjects.

    Attributes:
        template: the subject with `{fields}`.
        payload: the message type.
        publishers, subscribers: services ("*" = every one); each subject has at least one of both,
            or says in `note` why not.
        stream: captures it, or None for core NATS (fire and forget).
        reply: type of the answer where it is a request.
        wire: how the payload is written.
    """

    template: str
    payload: type[M]
    publishers: tuple[str, ...]
    subscribers: tuple[str, ...]
    stream: Stream | None = None
    reply: type[Any] | None = None
    wire: Wire = "json"
    note: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the placeholders, in order."""
        return _fields_of(self.template)

    def at(self, **values: str | int) -> Address[M]:
        """Return the concrete subject. Every field must be given and be one clean token.

        Raises: InvalidRequestError (request.bad_token) for wildcards, dots, spaces …
        """
        tokens = [check_token(str(values.pop(field))) for field in self.fields]
        if values:
            raise TypeError(f"{self.template} has no field {', '.join(values)}")
        return Address(_form_of(self.template) % tuple(tokens), self)

    def pattern(self, **values: str | int) -> Address[M]:
        """Return the pattern in which fields that are not given match anything."""
        subject = self.template
        for field in self.fields:
            token = check_token(str(values.pop(field))) if field in values else "*"
            subject = subject.replace(f"{{{field}}}", token, 1)
        if values:
            raise TypeError(f"{self.template} has no field {', '.join(values)}")
        return Address(subject, self)

    def parse(self, subject: str) -> dict[str, str]:
        """Return the fields' values in a concrete subject of this family."""
        names = _names_in(self.template)
        return {n: v for n, v in zip(names, subject.split("."), strict=True) if n}


def shard_of(workspace: WorkspaceId, shards: int) -> int:
    """Return the shard that keeps a workspace's work (CRC-32, stable across processes)."""
    return zlib.crc32(workspace.encode()) % shards


# -- Work ---------------------------------------------------------------------------------------

CALL = Subject(
    template="v1.call.{shard}.{workspace}.{invocation_id}",
    payload=invocation.InvocationRequested,
    publishers=("gateway",),
    subscribers=("scheduler",),
    stream=CALLS,
    wire="msgpack",
)
RECORD = Subject(
    template="v1.record.{shard}.{workspace}.{invocation_id}",
    payload=record.InvocationRecord,
    publishers=("gateway", "scheduler", "worker"),
    subscribers=("gateway", "scheduler", "worker"),
    stream=RECORDS,
    wire="msgpack",
)
PROGRESS = Subject(
    template="v1.progress.{shard}.{workspace}.{invocation_id}",
    payload=record.ProgressMade,
    publishers=("worker",),
    subscribers=("gateway",),
    stream=PROGRESSES,
)
OUTCOME = Subject(
    template="v1.outcome.{shard}.{workspace}.{invocation_id}",
    payload=invocation.Outcome,
    publishers=("worker",),
    subscribers=("worker",),
    stream=OUTCOMES,
    wire="msgpack",
)
REPLY = Subject(
    template="v1.reply.{instance}.{invocation_id}",
    payload=invocation.Reply,
    publishers=("worker", "scheduler"),
    subscribers=("gateway",),
    wire="msgpack",
)
RUN = Subject(
    template="v1.worker.{worker_id}.run",
    payload=dispatch.RunInvocation,
    publishers=("scheduler",),
    subscribers=("worker",),
    wire="msgpack",
)
ENDED = Subject(
    template="v1.dispatch.{shard}.ended",
    payload=dispatch.AttemptEnded,
    publishers=("worker",),
    subscribers=("scheduler",),
    wire="msgpack",
)
BEGAN = Subject(
    template="v1.dispatch.{shard}.began",
    payload=dispatch.AttemptsBegan,
    publishers=("worker",),
    subscribers=("scheduler",),
    wire="msgpack",
)
REFUSED = Subject(
    template="v1.dispatch.{shard}.refused",
    payload=dispatch.AttemptRefused,
    publishers=("worker",),
    subscribers=("scheduler",),
    wire="msgpack",
)
CANCEL = Subject(
    template="v1.dispatch.{shard}.cancel",
    payload=dispatch.CancelInvocation,
    publishers=("gateway",),
    subscribers=("scheduler",),
)
PROBE = Subject(
    template="v1.dispatch.{shard}.probe",
    payload=dispatch.CallsProbed,
    publishers=("gateway",),
    subscribers=("scheduler",),
    reply=dispatch.CallsKnown,
)
CANCEL_ATTEMPT = Subject(
    template="v1.worker.{worker_id}.cancel",
    payload=dispatch.CancelInvocation,
    publishers=("scheduler",),
    subscribers=("worker",),
)
STREAM_CREDIT = Subject(
    template="v1.credit.{invocation_id}",
    payload=invocation.StreamCredit,
    publishers=("gateway",),
    subscribers=("worker",),
)
SHARD_OWNED = Subject(
    template="v1.shard.{shard}.owned",
    payload=dispatch.ShardOwned,
    publishers=("scheduler",),
    subscribers=("worker",),
)
BACKLOG = Subject(
    template="v1.backlog.{deployment_id}",
    payload=dispatch.BacklogChanged,
    publishers=("scheduler",),
    subscribers=("autoscaler", "gateway"),
)
FACTS = Subject(
    template="v1.fact.{worker_id}",
    payload=dispatch.InvocationFacts,
    publishers=("worker",),
    subscribers=("gateway",),
    stream=INVOCATION_EVENTS,
)

# -- Schedules ----------------------------------------------------------------------------------

TIMER = Subject(
    template="v1.timer.{shard}.{workspace}.{schedule}",
    payload=schedule.TimerSet,
    publishers=("scheduler",),
    subscribers=(),
    stream=SCHEDULES,
    note="the broker holds it until its time has come, and then moves it to DUE",
)
DUE = Subject(
    template="v1.due.{shard}.{workspace}.{schedule}",
    payload=schedule.ScheduleDue,
    publishers=("scheduler",),
    subscribers=("scheduler",),
    stream=SCHEDULES,
    note="the broker itself publishes it, when a TIMER's time has come",
)

# -- Events -------------------------------------------------------------------------------------

EVENT = Subject(
    template="v1.event.{shard}.{workspace}.{event_id}",
    payload=event.StoredEvent,
    publishers=("gateway", "scheduler"),
    subscribers=("scheduler", "gateway"),
    stream=EVENTS,
    wire="msgpack",
)
INGRESS = Subject(
    template="v1.ingress.{workspace}",
    payload=event.RawEvent,
    publishers=("app",),
    subscribers=("scheduler",),
    stream=EVENT_INGRESS,
    wire="raw",
    note="users' own programs publish here, as the broker user `app`: hostile until checked",
)

# -- Scale and placement ------------------------------------------------------------------------

SCALE = Subject(
    template="v1.scale.{deployment_id}",
    payload=scale.ScaleDecided,
    publishers=("autoscaler",),
    subscribers=("scheduler", "autoscaler", "gateway"),
    stream=SCALE_DECISIONS,
)
PLACEMENT = Subject(
    template="v1.placement.{container_id}",
    payload=container.PlacementDecided,
    publishers=("scheduler",),
    subscribers=("gateway", "sandbox"),
    stream=CONTAINER_EVENTS,
)
BIND = Subject(
    template="v1.worker.{worker_id}.bind",
    payload=container.BindContainer,
    publishers=("scheduler",),
    subscribers=("worker",),
    reply=container.BindReply,
)
STOP = Subject(
    template="v1.worker.{worker_id}.stop",
    payload=container.StopContainer,
    publishers=("scheduler",),
    subscribers=("worker",),
)
FORGET = Subject(
    template="v1.worker.{worker_id}.forget",
    payload=worker.ForgetTemplates,
    publishers=("scheduler",),
    subscribers=("worker",),
)
CONTAINER = Subject(
    template="v1.container.{deployment_id}.{container_id}",
    payload=container.ContainerChanged,
    publishers=("worker", "scheduler"),
    subscribers=("scheduler", "autoscaler", "gateway", "sandbox", "imagecache"),
    stream=CONTAINER_EVENTS,
    note="deployment_id is '-' for sandboxes and builds; the scheduler writes FAILED for a dead worker",
)
WORKER_BEAT = Subject(
    template="v1.beat.worker.{worker_id}",
    payload=worker.WorkerBeat,
    publishers=("worker",),
    subscribers=("scheduler", "gateway", "autoscaler", "sandbox", "imagecache"),
)
WORKER_ORDER = Subject(
    template="v1.worker.{worker_id}.order",
    payload=worker.WorkerOrder,
    publishers=("gateway",),
    subscribers=("worker",),
    reply=worker.WorkerOrdered,
)

# -- Inside containers --------------------------------------------------------------------------

EXEC = Subject(
    template="v1.worker.{worker_id}.exec",
    payload=container.ExecInContainer,
    publishers=("sandbox", "imagecache"),
    subscribers=("worker",),
    reply=container.ExecReply,
)
EXEC_REPLY = Subject(
    template="v1.execreply.{instance}.{exec_id}",
    payload=container.ExecEvent,
    publishers=("worker",),
    subscribers=("gateway", "imagecache"),
    wire="msgpack",
)
COMMIT = Subject(
    template="v1.worker.{worker_id}.commit",
    payload=container.CommitLayer,
    publishers=("imagecache",),
    subscribers=("worker",),
    reply=container.LayerCommitted,
)
LOG = Subject(
    template="v1.log.{workspace}.{deployment_id}.{container_id}",
    payload=container.LogSegment,
    publishers=("worker",),
    subscribers=("gateway",),
    stream=LOGS,
)

# -- Images and sandboxes -----------------------------------------------------------------------

ENSURE_IMAGE = Subject(
    template="v1.image.ensure",
    payload=image.EnsureImage,
    publishers=("gateway",),
    subscribers=("imagecache",),
    reply=image.EnsureAccepted,
)
IMAGE_PROGRESS = Subject(
    template="v1.imagereply.{instance}.{build_id}",
    payload=image.BuildProgress,
    publishers=("imagecache",),
    subscribers=("gateway",),
)
SANDBOX_CREATE = Subject(
    template="v1.sandbox.create",
    payload=sandbox.CreateSandbox,
    publishers=("gateway",),
    subscribers=("sandbox",),
    reply=sandbox.SandboxReply,
)
SANDBOX_COMMAND = Subject(
    template="v1.sandbox.command",
    payload=sandbox.SandboxCommand,
    publishers=("gateway",),
    subscribers=("sandbox",),
    reply=sandbox.SandboxReply,
)

# -- State that user code shares ----------------------------------------------------------------

MAP_ITEM = Subject(
    template="v1.map.{workspace}.{map}.{key}",
    payload=state.MapItem,
    publishers=("gateway",),
    subscribers=("gateway",),
    stream=MAPS,
    wire="msgpack",
)
QUEUE_ITEM = Subject(
    template="v1.queue.{workspace}.{queue}.{partition}",
    payload=state.QueueItem,
    publishers=("gateway",),
    subscribers=("gateway",),
    stream=QUEUES,
    wire="msgpack",
)
OUTPUT = Subject(
    template="v1.output.{workspace}.{invocation_id}.{output_id}",
    payload=output.OutputRecord,
    publishers=("gateway",),
    subscribers=("gateway",),
    stream=OUTPUTS,
    wire="msgpack",
)

# -- Every service ------------------------------------------------------------------------------

SERVICE_BEAT = Subject(
    template="v1.beat.service.{service}.{instance}",
    payload=worker.ServiceBeat,
    publishers=("*",),
    subscribers=("*",),
)
SERVICES_PROBED = Subject(
    template="v1.probe.services",
    payload=worker.ServicesProbed,
    publishers=("*",),
    subscribers=("*",),
)
SPAN = Subject(
    template="v1.span.{service}",
    payload=trace.SpanSegment,
    publishers=("*",),
    subscribers=("gateway",),
    stream=SPANS,
)

SUBJECTS: tuple[Subject[Any], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Subject)
)

# What the words in braces stand for; they are addresses, so not every one is also in the payload.
PLACEHOLDERS: dict[str, str] = {
    "build_id": "one build of an image, named by who asked for it",
    "container_id": "a container",
    "event_id": "an event, by its source and id",
    "deployment_id": "a deployment; '-' where a container belongs to none",
    "exec_id": "one command inside a container",
    "output_id": "a file that a task has saved",
    "instance": "one replica of a service, the only one that listens there",
    "invocation_id": "an invocation",
    "schedule": "the name of a function with a schedule",
    "key": "the digest of a map's key",
    "map": "a map's name",
    "partition": "a queue's partition, after 'p-'",
    "queue": "a queue's name",
    "service": "a service's name",
    "shard": "a number below the platform's count of shards, by the workspace's hash",
    "worker_id": "a worker",
    "workspace": "a workspace",
}
