"""Workers and services: who lives, what they offer, what they hold."""

from __future__ import annotations

from glowplug_contracts.ids import (
    ContainerId,
    DeploymentId,
    Digest,
    ImageDigest,
    InvocationId,
    WorkerId,
    WorkspaceId,
)
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.deployment import Resources


class GpuDevice(Message, frozen=True, kw_only=True):
    """One GPU. `simulated` devices exist in accounting only and are always labelled."""

    gpu_id: str
    kind: str
    memory_bytes: int
    simulated: bool = False


class GpuState(Message, frozen=True, kw_only=True):
    """How a GPU of a worker is. One that is `broken` (why) is not on offer any more.

    `used_bytes` and `busy` (a share of time, 0 … 1) are the driver's last words on the whole device.
    """

    gpu_id: str
    kind: str
    memory_bytes: int
    used_bytes: int = 0
    busy: float = 0.0
    broken: str = ""


class ContainerView(Message, frozen=True, kw_only=True):
    """A live container as its worker sees it. `in_flight` of a sandbox holds its running execs' ids.

    `gpu_bytes` and `gpu_busy` (0 … 1): what its processes use of its GPUs, as far as the driver tells.
    `trees`: those of its models, which it keeps whatever their names stand for now.
    """

    container_id: ContainerId
    deployment_id: DeploymentId
    workspace: WorkspaceId
    kind: ContainerKind
    state: ContainerState
    resources: Resources
    slots: int = 0
    gpu_ids: tuple[str, ...] = ()
    in_flight: tuple[InvocationId, ...] = ()
    image_digest: ImageDigest = ImageDigest("")
    name: str = ""
    gpu_bytes: int = 0
    gpu_busy: float = 0.0
    trees: tuple[Digest, ...] = ()


class TemplateView(Message, frozen=True, kw_only=True):
    """A sleeping process that a worker forks containers from.

    `deployment_id` is "" for a bare runner, which serves all of an image's functions in its workspace;
    `containers` were forked from it and live.
    """

    workspace: WorkspaceId
    deployment_id: DeploymentId = DeploymentId("")
    name: str = ""
    image_digest: ImageDigest = ImageDigest("")
    memory_bytes: int = 0
    containers: int = 0


class ForgetTemplates(Message, frozen=True, kw_only=True):
    """Scheduler → worker: these deployments are deleted or superseded; nothing of them is kept.

    Said again as long as the worker's beats name one of them.
    """

    deployment_ids: tuple[DeploymentId, ...]


class WorkerBeat(Message, frozen=True, kw_only=True):
    """A worker's heartbeat, once a second and at once after a ShardOwned: its whole truth.

    `beat` counts up by one; `started_at` tells a restarted worker of the same name apart. `host` is
    the machine's name; `image_host` what its images are built for (see ImageManifest.host). `gpus` are
    on offer, `gpu_states` all there are. `cordoned`: somebody told it to take nothing new.
    `templates` are the deployments whose containers it forks; `plain_starts` says why others' it can't.
    `kept` are all templates that live, with what they use. `trees` are all here, and it gives their objects
    to other workers, at its service's URL.
    """

    worker_id: WorkerId
    beat: int
    started_at: float
    host: str
    cpu_millis: int
    memory_bytes: int
    gpus: tuple[GpuDevice, ...] = ()
    containers: tuple[ContainerView, ...] = ()
    images: tuple[ImageDigest, ...] = ()
    pythons: tuple[str, ...] = ()
    draining: bool = False
    backend: str = ""
    pool: str = "default"
    image_host: str = ""
    templates: tuple[DeploymentId, ...] = ()
    plain_starts: dict[DeploymentId, str] = {}
    cordoned: bool = False
    gpu_states: tuple[GpuState, ...] = ()
    driver: str = ""
    kept: tuple[TemplateView, ...] = ()
    trees: tuple[Digest, ...] = ()


class WorkerOrder(Message, frozen=True, kw_only=True):
    """Gateway → worker: "cordon" (take nothing new), "drain" (and end what is here), or "uncordon".

    What runs may go on for `grace_s` when it drains. A worker remembers being cordoned over its restarts.
    """

    order: str
    grace_s: float = 0.0


class WorkerOrdered(Message, frozen=True, kw_only=True):
    """The worker's answer: whether it is cordoned now, and how many containers it holds."""

    cordoned: bool
    containers: int = 0
    why_not: str = ""


# In a beat's notes: streams that leave this replica's writes unanswered, with commas between them.
SILENT_STREAMS = "silent_streams"


class ServiceBeat(Message, frozen=True, kw_only=True):
    """Any service's sign of life, once a second and when ServicesProbed.

    `url` is where its HTTP port answers other services, if it has one.
    """

    service: str
    instance: str
    ready: bool
    url: str = ""
    at: float = 0.0
    version: str = ""
    notes: dict[str, str] = {}
    leading: tuple[str, ...] = ()


class ServicesProbed(Message, frozen=True, kw_only=True):
    """Everybody is asked for a ServiceBeat now."""

    asker: str


class Platform(Message, frozen=True, kw_only=True):
    """Value of the `platform` bucket's key "platform": written by whoever made the topology."""

    contract_version: int
    shards: int


class LeaseHeld(Message, frozen=True, kw_only=True):
    """Value of a lease's key: who holds it, and the generation that fences its decisions."""

    holder: str
    generation: int


class RecordsFloor(Message, frozen=True, kw_only=True):
    """How much of a shard's records a new owner has to read: those from `floor` on, and those at `below`.

    True for good, because what has ended is never written again where it stands; but only of the stream that
    was made then (`stream_created`, in microseconds).
    """

    floor: int
    below: tuple[int, ...] = ()
    stream_created: int = 0
