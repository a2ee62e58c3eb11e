"""Containers: what is wanted, what was bound, and what happened to it."""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import ContainerId, DeploymentId, ImageDigest, WorkerId, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.deployment import (
    FieldSpec,
    ModelMount,
    Resources,
    SourceRef,
    VolumeMount,
)
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.network import NetworkSpec


class ContainerKind(StrEnum):
    """What runs inside: a deployment's function, a sandbox session, or an image build."""

    FUNCTION = "function"
    SANDBOX = "sandbox"
    BUILD = "build"


class ContainerSpec(Message, frozen=True, kw_only=True):
    """Everything a worker needs to start a container.

    Attributes:
        base_python: "3.11" or "" for the platform's own; the worker finds the interpreter.
        timeout_s: for one invocation; ≤ 0 = none.
        processes: runner processes in the container; slots = processes × concurrency.
        pool: only workers of this pool may run it.
        expires_s: seconds after which the worker ends it by itself; 0 = never (sandbox TTL, builds).
        has_secrets: the worker asks a gateway for their values when it starts the container.
        outputs: what the runner checks a result against, as in the deployment's spec.
        writes_root: of a build on an image of a registry: its steps are root inside and may change the root.
    """

    kind: ContainerKind
    workspace: WorkspaceId
    name: str = ""
    deployment_id: DeploymentId = DeploymentId("")
    image_digest: ImageDigest = ImageDigest("")
    base_python: str = ""
    source: SourceRef | None = None
    env: dict[str, str] = {}
    resources: Resources = Resources()
    timeout_s: float = 3600.0
    processes: int = 1
    concurrency: int = 1
    expires_s: float = 0.0
    is_generator: bool = False
    outputs: dict[str, FieldSpec] | None = None
    pool: str = "default"
    has_secrets: bool = False
    volumes: tuple[VolumeMount, ...] = ()
    models: tuple[ModelMount, ...] = ()
    network: NetworkSpec = NetworkSpec()
    writes_root: bool = False


class ContainerWanted(Message, frozen=True, kw_only=True):
    """A container asked for by name (sandboxes, builds), kept in the `wanted` bucket.

    Its key is the container id; deleting the key stops the container. Function containers are not
    here: they follow from targets.
    """

    container_id: ContainerId
    spec: ContainerSpec
    requested_at: float = 0.0
    owner: str = ""
    trace: str = ""


class BindContainer(Message, frozen=True, kw_only=True):
    """Placement → worker: start this. Refused if `generation` is lower than the worker has seen."""

    container_id: ContainerId
    generation: int
    spec: ContainerSpec
    gpu_ids: tuple[str, ...] = ()
    trace: str = ""
    requested_at: float = 0.0


class BindReply(Message, frozen=True, kw_only=True):
    """Taken, or why not ("stale", "full", "image", "draining")."""

    accepted: bool
    reason: str = ""


class StopContainer(Message, frozen=True, kw_only=True):
    """Placement → worker: finish what runs (at most `grace_s` seconds), then end. 0 = at once."""

    container_id: ContainerId
    generation: int
    grace_s: float = 30.0
    reason: str = ""


class ContainerState(StrEnum):
    """The life of a container; STOPPED and FAILED are the ends."""

    BOUND = "bound"
    PULLING = "pulling"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class ContainerChanged(Message, frozen=True, kw_only=True):
    """A container reached a state. `error` says why it FAILED; `phases` holds seconds per phase."""

    container_id: ContainerId
    deployment_id: DeploymentId
    worker_id: WorkerId
    workspace: WorkspaceId
    kind: ContainerKind
    state: ContainerState
    slots: int = 0
    at: float = 0.0
    reason: str = ""
    error: RemoteError | None = None
    phases: dict[str, float] = {}
    trace: str = ""


class ExecInContainer(Message, frozen=True, kw_only=True):
    """Run something in a sandbox or build container (sandbox or imagecache service → worker).

    Attributes:
        mode: "code" (Python in a named context whose variables persist) or "command" (`argv`).
        reply_to: ExecEvents go to EXEC_REPLY of this token.
        timeout_s: killed (command) or interrupted, then killed (code) after it; 0 = none.
        secrets: of a build: names of secrets whose variables the command gets. The worker asks a gateway for
            the values and takes them out of what the command writes.
        asks: who waits for the build, as gateways call it: any of them opens its secrets.
    """

    container_id: ContainerId
    exec_id: str
    reply_to: str
    mode: str
    code: str = ""
    context: str = "default"
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    timeout_s: float = 0.0
    secrets: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


class ExecReply(Message, frozen=True, kw_only=True):
    """Whether the worker took the exec."""

    accepted: bool
    reason: str = ""


class ExecEvent(Message, frozen=True, kw_only=True):
    """A numbered piece of what an exec does.

    kind: "stdout", "stderr" (data), "result" (data: repr of the last expression), "ended"
    (exit_code; error for code that raised or was stopped); of a CommitLayer "bytes" (`bytes_done` of
    `bytes_total` are stored).
    """

    exec_id: str
    number: int
    kind: str
    data: bytes = b""
    exit_code: int | None = None
    error: RemoteError | None = None
    bytes_done: int = 0
    bytes_total: int = 0


class CommitLayer(Message, frozen=True, kw_only=True):
    """imagecache → worker: store the build container's layer directory as an image manifest.

    How far that is goes to EXEC_REPLY of `reply_to` as events of `exec_id`; "" = nobody asks.
    """

    container_id: ContainerId
    parent: ImageDigest = ImageDigest("")
    exec_id: str = ""
    reply_to: str = ""


class LayerCommitted(Message, frozen=True, kw_only=True):
    """The layer's manifest is stored (digest), or why it could not be."""

    image_digest: ImageDigest = ImageDigest("")
    bytes_total: int = 0
    bytes_pushed: int = 0
    files: int = 0
    error: RemoteError | None = None


class PlacementDecided(Message, frozen=True, kw_only=True):
    """What placement did with a wanted container, and why.

    `decision` is "placed" or "parked"; `reasons` maps worker id → why it was rejected.
    """

    container_id: ContainerId
    deployment_id: DeploymentId
    decision: str
    worker_id: WorkerId = WorkerId("")
    gpu_ids: tuple[str, ...] = ()
    reasons: dict[str, str] = {}
    at: float = 0.0


class LogLine(Message, frozen=True, kw_only=True):
    """One line (or piece) of a user's output."""

    at: float
    stream: str
    text: str
    invocation_id: str = ""


class LogSegment(Message, frozen=True, kw_only=True):
    """Lines of one container, in order. `dropped` counts lines lost to the bound before them."""

    container_id: ContainerId
    deployment_id: DeploymentId
    workspace: WorkspaceId
    name: str
    number: int
    lines: tuple[LogLine, ...]
    dropped: int = 0
