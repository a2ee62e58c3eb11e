"""Placement's vocabulary: what it hears and what it decides.

Everything here is a value. `place.py` re-exports all of it. Times are on the machine's clock.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkerId
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerChanged,
    ContainerWanted,
    PlacementDecided,
    StopContainer,
)
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.messages.worker import ForgetTemplates

from glowplug_scheduler.events import (
    AskWorker,
    BeatHeard,
    BrokerReached,
    ContainerMoved,
    Tick,
    WorkerAnswered,
    WorkerUnreachable,
)


class LeaseTaken(msgspec.Struct, frozen=True):
    """This machine leads from now on; before this event it only listens.

    `salt` (16 bytes, random) and `generation` make its container ids unique. Deployments and wanted
    containers that exist must have been told before. `first`: nobody has ever led this platform, so that
    no worker holds a container that we have not heard of.
    """

    generation: int
    salt: bytes
    first: bool = False


class LeaseLost(msgspec.Struct, frozen=True):
    """Another leads: this machine goes on listening and decides nothing."""


class DeploymentSeen(msgspec.Struct, frozen=True):
    """A deployment as stored; None: its key is gone."""

    deployment_id: DeploymentId
    deployment: Deployment | None


class TargetDecided(msgspec.Struct, frozen=True):
    """The autoscaler's word; lower generations than one seen are ignored."""

    decided: ScaleDecided


class WantedSeen(msgspec.Struct, frozen=True):
    """A container wanted by name; None: nobody wants it any more."""

    container_id: ContainerId
    wanted: ContainerWanted | None


class BindAnswered(msgspec.Struct, frozen=True):
    """What became of a Bind. "unknown": no answer in time; it may have been taken."""

    container_id: ContainerId
    worker_id: WorkerId
    result: Literal["accepted", "refused", "unknown"]
    reason: str = ""


class LoadsSeen(msgspec.Struct, frozen=True):
    """What runs in containers right now, from dispatchers of the same process; fresher than beats."""

    in_flight: dict[ContainerId, int]


Event: TypeAlias = (
    LeaseTaken
    | LeaseLost
    | DeploymentSeen
    | TargetDecided
    | WantedSeen
    | BindAnswered
    | LoadsSeen
    | BeatHeard
    | ContainerMoved
    | BrokerReached
    | WorkerAnswered
    | WorkerUnreachable
    | Tick
)


class Bind(msgspec.Struct, frozen=True):
    """Ask a worker to start a container; tell the machine with BindAnswered.

    `waited_s`: how long the container was wanted before a worker was found.
    """

    worker_id: WorkerId
    bind: BindContainer
    waited_s: float = 0.0


class Stop(msgspec.Struct, frozen=True):
    """Tell a worker to end a container; repeated until it is seen to end."""

    worker_id: WorkerId
    stop: StopContainer


class Forget(msgspec.Struct, frozen=True):
    """Tell a worker to drop templates; repeated with each beat that names them."""

    worker_id: WorkerId
    forget: ForgetTemplates


class Publish(msgspec.Struct, frozen=True):
    """Make a placement, or why there is none, known."""

    decided: PlacementDecided


class Bury(msgspec.Struct, frozen=True):
    """A container's worker is dead: publish that the container FAILED, since nobody else can."""

    change: ContainerChanged


Decision: TypeAlias = Bind | Stop | Forget | Publish | Bury | AskWorker
