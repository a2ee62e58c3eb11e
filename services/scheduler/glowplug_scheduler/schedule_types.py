"""The vocabulary of schedules: what their machine hears and what it decides. Everything here is a value."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_contracts.messages.schedule import ScheduleSpec, ScheduleState


class Key(msgspec.Struct, frozen=True):
    """A schedule: a name in a workspace, whatever version serves it."""

    workspace: WorkspaceId
    name: str


class VersionSeen(msgspec.Struct, frozen=True):
    """A version with a schedule is the one that its name leads to (there may be two for a moment)."""

    key: Key
    deployment_id: DeploymentId
    version: int
    spec: ScheduleSpec


class VersionGone(msgspec.Struct, frozen=True):
    """A version was deleted, or its name leads to another one."""

    key: Key
    deployment_id: DeploymentId


class StateSeen(msgspec.Struct, frozen=True):
    """What is stored for a schedule, heard in passing; None: nothing is."""

    key: Key
    state: ScheduleState | None
    revision: int


class Loaded(msgspec.Struct, frozen=True):
    """Every version and state that was stored at the takeover has been told."""


class WentOff(msgspec.Struct, frozen=True):
    """The broker's timer for this due time went off; perhaps again, perhaps late."""

    key: Key
    due: float


class Tick(msgspec.Struct, frozen=True):
    """Time passed."""


class StateRead(msgspec.Struct, frozen=True):
    """The answer to ReadState."""

    key: Key
    state: ScheduleState | None
    revision: int


class Written(msgspec.Struct, frozen=True):
    """WriteState is done; the state stands at this revision."""

    key: Key
    revision: int


class Fired(msgspec.Struct, frozen=True):
    """Fire is done: the due time's invocation stands, made now or earlier."""

    key: Key
    due: float


class NotThere(msgspec.Struct, frozen=True):
    """Fire was only to look: there is no record of the due time's invocation."""

    key: Key
    due: float


class TimerStands(msgspec.Struct, frozen=True):
    """SetTimer is done."""

    key: Key
    due: float


class Forgotten(msgspec.Struct, frozen=True):
    """ForgetState is done."""

    key: Key


class Failed(msgspec.Struct, frozen=True):
    """The schedule's last decision was not done, or nobody knows whether it was.

    `conflict`: the stored state is another than the machine believed.
    """

    key: Key
    conflict: bool = False


Event: TypeAlias = (
    VersionSeen
    | VersionGone
    | StateSeen
    | Loaded
    | WentOff
    | Tick
    | StateRead
    | Written
    | Fired
    | NotThere
    | TimerStands
    | Forgotten
    | Failed
)


class ReadState(msgspec.Struct, frozen=True):
    """Read what is stored."""

    key: Key


class WriteState(msgspec.Struct, frozen=True):
    """Store this state if `revision` is still the last one (0: if there is none)."""

    key: Key
    state: ScheduleState
    revision: int


class Fire(msgspec.Struct, frozen=True):
    """Make the due time's invocation, unless it is there; or only look whether it is."""

    key: Key
    due: float
    invocation_id: InvocationId
    deployment_id: DeploymentId
    only_look: bool = False


class SetTimer(msgspec.Struct, frozen=True):
    """Have the broker tell when this due time has come, in place of the timer set before."""

    key: Key
    due: float


class ForgetState(msgspec.Struct, frozen=True):
    """Remove what is stored: the name leads to no schedule any more."""

    key: Key
    revision: int


Decision: TypeAlias = ReadState | WriteState | Fire | SetTimer | ForgetState
