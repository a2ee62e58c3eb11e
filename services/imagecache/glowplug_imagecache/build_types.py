"""What a build hears and what it decides, as values: the words of the machine in `build.py`. Pure."""

from __future__ import annotations

import msgspec
from glowplug_contracts.ids import ContainerId, Digest, ImageDigest, WorkerId
from glowplug_contracts.messages.container import LayerCommitted
from glowplug_contracts.messages.invocation import RemoteError

from glowplug_imagecache.plan import PlannedStep

# -- Events -------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True):
    """The build may start."""


class ContainerReady(msgspec.Struct, frozen=True):
    """A container takes commands (said once by its worker, and again by every beat)."""

    container_id: ContainerId
    worker_id: WorkerId


class ContainerEnded(msgspec.Struct, frozen=True):
    """A container is gone; `error` says why, if it was not stopped on purpose."""

    container_id: ContainerId
    reason: str
    error: RemoteError | None = None


class StepOutput(msgspec.Struct, frozen=True):
    """The running step wrote something."""

    exec_id: str
    text: str


class StepEnded(msgspec.Struct, frozen=True):
    """The running step's process ended. `error` says why it was ended, if it was."""

    exec_id: str
    exit_code: int | None
    error: RemoteError | None = None


class LayerStored(msgspec.Struct, frozen=True):
    """A worker answered CommitLayer."""

    container_id: ContainerId
    committed: LayerCommitted


class FilesMerged(msgspec.Struct, frozen=True):
    """A file step is done: what image it made, or why there is none."""

    image_digest: ImageDigest
    error: RemoteError | None = None


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    Begin
    | ContainerReady
    | ContainerEnded
    | StepOutput
    | StepEnded
    | LayerStored
    | FilesMerged
    | Tick
)

# -- Decisions ----------------------------------------------------------------------------------


class WantContainer(msgspec.Struct, frozen=True):
    """Have a build container that begins with this image ("" = nothing)."""

    container_id: ContainerId
    parent: ImageDigest


class DropContainer(msgspec.Struct, frozen=True):
    """The container is needed no longer."""

    container_id: ContainerId


class RunStep(msgspec.Struct, frozen=True):
    """Run the step's command in the container."""

    container_id: ContainerId
    worker_id: WorkerId
    exec_id: str
    step: PlannedStep


class StoreLayer(msgspec.Struct, frozen=True):
    """Have the container's layer stored as an image."""

    container_id: ContainerId
    worker_id: WorkerId
    parent: ImageDigest


class MergeFiles(msgspec.Struct, frozen=True):
    """Do a step that needs no container: pull a base, or add a file step's content to an image."""

    parent: ImageDigest
    step: PlannedStep


class RecordStep(msgspec.Struct, frozen=True):
    """Remember what a chain of steps ended in."""

    chain: Digest
    image_digest: ImageDigest


class Tell(msgspec.Struct, frozen=True):
    """Tell everybody who waits: a step begins ("step"), or some of its output ("output")."""

    kind: str
    text: str
    cached: bool = False


class Succeed(msgspec.Struct, frozen=True):
    """The image is there."""

    image_digest: ImageDigest


class Fail(msgspec.Struct, frozen=True):
    """There will be no image."""

    error: RemoteError


Decision = (
    WantContainer
    | DropContainer
    | RunStep
    | StoreLayer
    | MergeFiles
    | RecordStep
    | Tell
    | Succeed
    | Fail
)
