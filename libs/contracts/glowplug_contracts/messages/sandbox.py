"""Sandboxes: environments that a user drives step by step."""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import ContainerId, SandboxId, WorkerId, WorkspaceId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.deployment import (
    ImageSpec,
    ModelMount,
    Resources,
    SecretRef,
    VolumeMount,
)
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.network import NetworkSpec


class SandboxState(StrEnum):
    """The life of a session; TERMINATED and FAILED are the ends."""

    STARTING = "starting"
    RUNNING = "running"
    TERMINATED = "terminated"
    FAILED = "failed"


class SandboxSpec(Message, frozen=True, kw_only=True):
    """What was asked for. `ttl_s` counts from the last use; −1 = forever."""

    image: ImageSpec = ImageSpec()
    resources: Resources = Resources()
    env: dict[str, str] = {}
    ttl_s: float = 600.0
    network: NetworkSpec = NetworkSpec()
    secrets: tuple[SecretRef, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    models: tuple[ModelMount, ...] = ()


class SandboxRecord(Message, frozen=True, kw_only=True):
    """A session as stored in the `sandboxes` bucket (key: workspace.sandbox_id).

    Attributes:
        image_digest, base_python, trace: as asked, so that any replica can ask for the container again.
        reason: why it ended: "asked", "idle", "start_timeout", "lost", or the container's reason.
    """

    sandbox_id: SandboxId
    workspace: WorkspaceId
    spec: SandboxSpec
    container_id: ContainerId
    state: SandboxState
    worker_id: WorkerId = WorkerId("")
    created_at: float = 0.0
    used_at: float = 0.0
    error: RemoteError | None = None
    image_digest: str = ""
    base_python: str = ""
    trace: str = ""
    reason: str = ""


class CreateSandbox(Message, frozen=True, kw_only=True):
    """Gateway → sandbox service. Answered when the session runs, or has failed.

    `image_digest` is known already: the gateway had the image built first.
    """

    sandbox_id: SandboxId
    workspace: WorkspaceId
    spec: SandboxSpec
    image_digest: str = ""
    base_python: str = ""
    trace: str = ""


class SandboxCommand(Message, frozen=True, kw_only=True):
    """Gateway → sandbox service. `verb` is "status", "terminate" or "exec".

    For "exec" the output goes to EXEC_REPLY of `reply_to`.
    """

    sandbox_id: SandboxId
    workspace: WorkspaceId
    verb: str
    exec_id: str = ""
    reply_to: str = ""
    mode: str = "code"
    code: str = ""
    context: str = "default"
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    timeout_s: float = 0.0


class SandboxReply(Message, frozen=True, kw_only=True):
    """The session after the command, or the error."""

    record: SandboxRecord | None = None
    error: RemoteError | None = None
