"""Streams and buckets as values. The broker is made to match them; nobody else creates any.

Sharded streams exist once per shard: their declared name carries `{shard}`.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from glowplug_contracts.messages.container import ContainerWanted
from glowplug_contracts.messages.deployment import Deployment, FunctionIndex, Principal
from glowplug_contracts.messages.event import RouterPosition, TriggerCursor
from glowplug_contracts.messages.http import SigningSecret
from glowplug_contracts.messages.image import CachedStep, ImageRecord
from glowplug_contracts.messages.model import ModelRecord
from glowplug_contracts.messages.output import OutputKey
from glowplug_contracts.messages.record import IDEMPOTENCY_WINDOW_S_MAX, IdempotentPut
from glowplug_contracts.messages.sandbox import SandboxRecord
from glowplug_contracts.messages.schedule import ScheduleState
from glowplug_contracts.messages.secret import SecretRecord, WorkspaceKey
from glowplug_contracts.messages.worker import LeaseHeld, Platform, RecordsFloor

CONTRACT_VERSION = 1

V = TypeVar("V")


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream.

    Attributes:
        name: upper case, plural; with `{shard}` where there is one per shard.
        subjects: patterns it captures; with `{shard}` likewise.
        why: what it is for and why it is kept the way it is.
        storage: "memory" for what a waiting caller would send again; "file" otherwise.
        synced: fsync before the ack (file only); False escapes the server's sync_interval (R1 only).
        work: messages vanish when acknowledged.
        per_subject: messages kept per subject; 0 = all.
        max_age_s, max_bytes, max_msgs: bounds; 0 = none. Beyond them the oldest go, except where
            `refuse_when_full`.
        ttl: messages may carry their own time to live.
        timers: messages may wait for a time, then land on another subject of the stream.
        taken: its subscribers take messages out of it, one by one.
        batches: several messages may be stored in one atomic batch (synced streams only).
        message_bytes_max: larger messages are refused; 0 = as large as the broker takes.
    """

    name: str
    subjects: tuple[str, ...]
    why: str
    storage: Literal["memory", "file"]
    synced: bool = True
    work: bool = False
    per_subject: int = 0
    max_age_s: float = 0.0
    max_bytes: int = 0
    max_msgs: int = 0
    refuse_when_full: bool = False
    ttl: bool = False
    timers: bool = False
    batches: bool = False
    message_bytes_max: int = 0
    taken: bool = False

    @property
    def sharded(self) -> bool:
        """Return whether there is one per shard."""
        return "{shard}" in self.name


class Bucket(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """A key-value bucket with compare-and-set; `value` is the type of its values (as JSON).

    `ttl_s`: keys expire unless put again (≥ 1 s, the broker refuses less); 0 = never.
    """

    name: str
    value: type[V]
    why: str
    ttl_s: float = 0.0
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    storage: Literal["memory", "file"] = "file"


# A shard's dispatcher keeps this many invocations in order; accepting more answers 429.
SHARD_BACKLOG_MAX = 500_000
OUTCOME_KEPT_S = 300.0
PROGRESS_KEPT_S = 86_400.0
MIB = 1024 * 1024

CALLS = Stream(
    name="CALLS_{shard}",
    subjects=("v1.call.{shard}.>",),
    why="Interactive requests until a slot takes them. Memory: the gateway that holds the caller "
    "sends again whatever is lost, so a disk would only add latency.",
    storage="memory",
    work=True,
    max_msgs=SHARD_BACKLOG_MAX,
    max_bytes=512 * MIB,
    refuse_when_full=True,
)
OUTCOMES = Stream(
    name="OUTCOMES_{shard}",
    subjects=("v1.outcome.{shard}.>",),
    why="What interactive attempts ended in, appended by compare-and-set so that two attempts can't "
    "both finish an input; kept minutes, for repeats.",
    storage="memory",
    max_age_s=OUTCOME_KEPT_S,
    max_bytes=512 * MIB,
)
RECORDS = Stream(
    name="RECORDS_{shard}",
    subjects=("v1.record.{shard}.>",),
    why="Durable invocations: the last message on a subject is the invocation.",
    storage="file",
    per_subject=1,
    ttl=True,
    batches=True,
    refuse_when_full=True,
    max_bytes=16 * 1024 * MIB,
)
SCHEDULES = Stream(
    name="SCHEDULES_{shard}",
    subjects=("v1.timer.{shard}.>", "v1.due.{shard}.>"),
    why="One timer per schedule, for its next due time, and the last one that went off. Only a wake-up "
    "call: the bucket `schedules` is the truth, and what is lost here is noticed a second later.",
    storage="file",
    per_subject=1,
    ttl=True,
    timers=True,
    max_bytes=256 * MIB,
)
# How long an event can be replayed, and the same source and id mean the same event.
EVENTS_KEPT_S = 7 * 86_400.0
EVENTS = Stream(
    name="EVENTS",
    subjects=("v1.event.>",),
    why="Events as they were accepted: synced before the sender hears of it, read by the routers in "
    "order, kept for replays as long as there is room. One message per source and id, so that a repeat "
    "is refused.",
    storage="file",
    per_subject=1,
    max_age_s=EVENTS_KEPT_S,
    max_bytes=16 * 1024 * MIB,
    refuse_when_full=True,
)
EVENT_INGRESS = Stream(
    name="EVENT_INGRESS",
    subjects=("v1.ingress.>",),
    why="What applications publish straight to the broker, as they wrote it: on disk before the broker "
    "acknowledges, until the scheduler has checked it and made events of it.",
    storage="file",
    work=True,
    max_bytes=1024 * MIB,
    message_bytes_max=512 * 1024,
    refuse_when_full=True,
)
PROGRESSES = Stream(
    name="PROGRESSES_{shard}",
    subjects=("v1.progress.{shard}.>",),
    why="How far durable attempts say they are, the last word of each. Not synced: what a crash loses, "
    "running code says again; the record has the last word of what has ended.",
    storage="file",
    synced=False,
    per_subject=1,
    max_age_s=PROGRESS_KEPT_S,
    max_bytes=64 * MIB,
)
INVOCATION_EVENTS = Stream(
    name="INVOCATION_EVENTS",
    subjects=("v1.fact.>",),
    why="History for lists; feeds the read model only, so its writes need not be synced.",
    storage="file",
    synced=False,
    max_age_s=7 * 86_400.0,
    max_bytes=512 * MIB,
)
CONTAINER_EVENTS = Stream(
    name="CONTAINER_EVENTS",
    subjects=("v1.container.>", "v1.placement.>"),
    why="What happened to containers and why; the read model's, heartbeats carry the truth.",
    storage="file",
    synced=False,
    max_age_s=7 * 86_400.0,
    max_bytes=128 * MIB,
)
SCALE_DECISIONS = Stream(
    name="SCALE_DECISIONS",
    subjects=("v1.scale.>",),
    why="Targets with their reasons. A new placement leader reads the last one per deployment.",
    storage="file",
    synced=False,
    per_subject=64,
    max_bytes=64 * MIB,
)
LOGS = Stream(
    name="LOGS",
    subjects=("v1.log.>",),
    why="Users' output in segments: the file store costs per message, not per line.",
    storage="file",
    synced=False,
    max_age_s=7 * 86_400.0,
    max_bytes=512 * MIB,
)
SPANS = Stream(
    name="SPANS",
    subjects=("v1.span.>",),
    why="Finished spans in segments, for `glowplug trace`.",
    storage="file",
    synced=False,
    max_age_s=86_400.0,
    max_bytes=256 * MIB,
)

MAPS = Stream(
    name="MAPS",
    subjects=("v1.map.>",),
    why="All maps of all workspaces: the last message on a subject is what a key holds.",
    storage="file",
    per_subject=1,
    ttl=True,
    refuse_when_full=True,
    max_bytes=4 * 1024 * MIB,
)
QUEUES = Stream(
    name="QUEUES",
    subjects=("v1.queue.>",),
    why="All queues of all workspaces: a partition's items are the messages on its subject, in order; "
    "whoever removes one has it.",
    storage="file",
    taken=True,
    refuse_when_full=True,
    max_bytes=4 * 1024 * MIB,
)

OUTPUTS = Stream(
    name="OUTPUTS",
    subjects=("v1.output.>",),
    why="Which files tasks have saved, each until its time is over: synced before the code that saves hears of "
    "it. The bytes are blobs.",
    storage="file",
    per_subject=1,
    ttl=True,
    refuse_when_full=True,
    max_bytes=1024 * MIB,
)

STREAMS: tuple[Stream, ...] = (
    MAPS,
    QUEUES,
    OUTPUTS,
    CALLS,
    OUTCOMES,
    RECORDS,
    SCHEDULES,
    EVENTS,
    EVENT_INGRESS,
    PROGRESSES,
    INVOCATION_EVENTS,
    CONTAINER_EVENTS,
    SCALE_DECISIONS,
    LOGS,
    SPANS,
)

DEPLOYMENTS = Bucket(
    name="deployments",
    value=Deployment,
    why="Every version. Key: workspace.deployment_id.",
    writers=("gateway",),
    readers=("gateway", "scheduler", "autoscaler", "imagecache"),
)
FUNCTIONS = Bucket(
    name="functions",
    value=FunctionIndex,
    why="Names and their versions; compare-and-set gives out version numbers. Key: workspace.name.",
    writers=("gateway",),
    readers=("gateway", "scheduler"),
)
TOKENS = Bucket(
    name="tokens",
    value=Principal,
    why="Who may call. Key: SHA-256 of the token, so that the store holds no token.",
    writers=("gateway",),
    readers=("gateway",),
)
WANTED = Bucket(
    name="wanted",
    value=ContainerWanted,
    why="Containers asked for by name (sandboxes, builds); placement makes it so. Key: container id.",
    writers=("sandbox", "imagecache"),
    readers=("scheduler", "sandbox", "imagecache"),
)
IDEMPOTENCY = Bucket(
    name="idempotency",
    value=IdempotentPut,
    why="Which invocation a caller's idempotency key stands for, and until when. Key: workspace.hash of "
    "function and key. Windows are shorter than the entries live.",
    ttl_s=IDEMPOTENCY_WINDOW_S_MAX + 3600.0,
    writers=("gateway",),
    readers=("gateway",),
)
SANDBOXES = Bucket(
    name="sandboxes",
    value=SandboxRecord,
    why="Sandbox sessions. Key: workspace.sandbox_id.",
    writers=("sandbox",),
    readers=("sandbox", "gateway", "imagecache"),
)
SCHEDULE_STATES = Bucket(
    name="schedules",
    value=ScheduleState,
    why="How far each schedule is decided, and whether it is paused. Key: workspace.name.",
    writers=("gateway", "scheduler"),
    readers=("gateway", "scheduler"),
)
BUILD_STEPS = Bucket(
    name="build_steps",
    value=CachedStep,
    why="Which image a chain of build steps ended in. Key: digest of the chain.",
    writers=("imagecache",),
    readers=("imagecache",),
)
IMAGES = Bucket(
    name="images",
    value=ImageRecord,
    why="Which images a workspace has had built and the store still has. Key: workspace.digest.",
    writers=("imagecache",),
    readers=("imagecache",),
)
MODELS = Bucket(
    name="models",
    value=ModelRecord,
    why="Weights under their names, and their pulls. Key: workspace.name.",
    writers=("gateway", "imagecache"),
    readers=("gateway", "imagecache", "worker"),
)
ROUTERS = Bucket(
    name="routers",
    value=RouterPosition,
    why="How far each shard's event router has come. Key: shard-N.",
    writers=("scheduler",),
    readers=("scheduler", "gateway"),
)
TRIGGERS = Bucket(
    name="triggers",
    value=TriggerCursor,
    why="The last batch that a trigger's events were put into, so that no other owner cuts them "
    "differently. Key: workspace.name.",
    writers=("scheduler",),
    readers=("scheduler",),
)
SECRETS = Bucket(
    name="secrets",
    value=SecretRecord,
    why="Secrets, sealed. Key: workspace.name.",
    writers=("gateway",),
    readers=("gateway",),
)
WORKSPACE_KEYS = Bucket(
    name="workspace_keys",
    value=WorkspaceKey,
    why="The key that seals a workspace's secrets, wrapped by the master key. Key: workspace.",
    writers=("gateway",),
    readers=("gateway",),
)
LEASE_TTL_S = 2.0
LEASE_RENEW_S = 0.5
LEASES = Bucket(
    name="leases",
    value=LeaseHeld,
    why="Who owns a shard or leads a task. Expires unless renewed. Key: what is owned.",
    ttl_s=LEASE_TTL_S,
    writers=("gateway", "scheduler", "autoscaler", "sandbox", "imagecache"),
    readers=("gateway", "scheduler", "autoscaler", "sandbox", "imagecache"),
)
GENERATIONS = Bucket(
    name="generations",
    value=LeaseHeld,
    why="The last generation given out per lease; never expires, so that generations only grow.",
    writers=("gateway", "scheduler", "autoscaler", "sandbox", "imagecache"),
    readers=("gateway", "scheduler", "autoscaler", "sandbox", "imagecache"),
)
FLOORS = Bucket(
    name="floors",
    value=RecordsFloor,
    why="From where on a shard's records are of interest to a new owner; ended ones below are retained "
    "for those who ask. Only saves time: without it, all are read. Key: shard-N.",
    writers=("scheduler",),
    readers=("scheduler",),
)

SIGNING = Bucket(
    name="signing",
    value=SigningSecret,
    why="With what a workspace's callbacks are signed, made at the first use. Key: workspace.",
    writers=("gateway",),
    readers=("gateway",),
)

OUTPUT_KEYS = Bucket(
    name="output_keys",
    value=OutputKey,
    why="With what public addresses of outputs are signed, made at the first use. Key: platform.",
    writers=("gateway",),
    readers=("gateway",),
)

PLATFORM = Bucket(
    name="platform",
    value=Platform,
    why="Contract version and number of shards; services wait for it before they start.",
    writers=("scheduler",),
    readers=("*",),
)

BUCKETS: tuple[Bucket[Any], ...] = (
    DEPLOYMENTS,
    FUNCTIONS,
    TOKENS,
    IDEMPOTENCY,
    WANTED,
    SANDBOXES,
    SCHEDULE_STATES,
    BUILD_STEPS,
    IMAGES,
    MODELS,
    ROUTERS,
    TRIGGERS,
    SECRETS,
    WORKSPACE_KEYS,
    LEASES,
    GENERATIONS,
    FLOORS,
    SIGNING,
    OUTPUT_KEYS,
    PLATFORM,
)
