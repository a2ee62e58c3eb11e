"""When to read again what the store keeps, and how much at a time, as a pure machine.

    resting → (due) checking → … checking → (the last file) assessing → resting

A pass checks every file once, in the order of their paths, and goes on after a restart where it was. What it
reads stays within `bytes_per_s` over time; a file is read whole, and what that was too much is waited for.

Invariants: S1 at most one check is under way; S2 over any time, at most `bytes_per_s` times that time are read,
and BURST_S more, and one file.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from glowplug_contracts.ids import Digest

# What was not read while the machine was busy may be made up for so long.
BURST_S = 2.0
# Of each list: what is kept and told. A disk that dies has millions.
LISTED_MAX = 200


class Hurt(msgspec.Struct, frozen=True, kw_only=True):
    """An image that lacks something of its own or of its base, or whose manifest is gone (`missing` 0)."""

    digest: Digest
    missing: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pass is: every file up to the path `after` was checked. Survives restarts.

    `corrupt` are paths, LISTED_MAX at most; `corrupt_count` is how many there were.
    """

    began_at: float = 0.0
    ended_at: float = 0.0
    after: str = ""
    files: int = 0
    bytes: int = 0
    corrupt_count: int = 0
    corrupt: tuple[str, ...] = ()
    hurt: tuple[Hurt, ...] = ()
    hurt_count: int = 0


# -- Events -------------------------------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Checked(msgspec.Struct, frozen=True):
    """Files were read, the last one `after`; `ended`: there is none behind it."""

    after: str
    files: int
    bytes: int
    corrupt: tuple[str, ...]
    ended: bool


class Assessed(msgspec.Struct, frozen=True):
    """Which images lack something."""

    hurt: tuple[Hurt, ...]


class Failed(msgspec.Struct, frozen=True):
    """What was decided could not be done; it is decided again."""


Event = Tick | Checked | Assessed | Failed

# -- Decisions ----------------------------------------------------------------------------------


class Check(msgspec.Struct, frozen=True):
    """Read the files behind `after`, until `bytes_max` are read or passed."""

    after: str
    bytes_max: int


class Assess(msgspec.Struct, frozen=True):
    """Find out which images lack something."""


class Save(msgspec.Struct, frozen=True):
    """Remember how far the pass is."""

    progress: Progress


class Tell(msgspec.Struct, frozen=True):
    """A pass has ended: say what it found."""

    progress: Progress


Decision = Check | Assess | Save | Tell


class Phase(StrEnum):
    """What the machine does. WAITING: between two checks of a pass."""

    RESTING = "resting"
    WAITING = "waiting"
    CHECKING = "checking"
    ASSESSING = "assessing"


class Scrub:
    """The passes over one store.

    Args:
        progress: where the last process was; `Progress()` if there was none.
        bytes_per_s: read at most, over time.
        period_s: from the start of one pass to the start of the next.
    """

    def __init__(self, progress: Progress, *, bytes_per_s: int, period_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._period_s = period_s
        self._balance = 0.0
        self._at: float | None = None
        self.progress = progress
        under_way = progress.began_at > progress.ended_at
        self.phase = Phase.WAITING if under_way else Phase.RESTING

    def step(self, event: Event, now: float) -> list[Decision]:
        """Return what to do about an event; `now` is Unix time."""
        match event:
            case Tick():
                return self._on_tick(now)
            case Checked() if self.phase is Phase.CHECKING:
                return self._on_checked(event)
            case Assessed() if self.phase is Phase.ASSESSING:
                return self._on_assessed(event, now)
            case Failed():
                if self.phase is not Phase.RESTING:
                    self.phase = Phase.WAITING
        return []

    def _on_tick(self, now: float) -> list[Decision]:
        elapsed_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        most = self._bytes_per_s * BURST_S
        self._balance = min(self._balance + elapsed_s * self._bytes_per_s, most)
        if self.phase is Phase.RESTING:
            if now - self.progress.began_at < self._period_s:
                return []
            # What is hurt stays said until this pass has found out anew.
            before = self.progress
            self.progress = Progress(began_at=now, hurt=before.hurt, hurt_count=before.hurt_count)
            self.phase = Phase.WAITING
        if self.phase is not Phase.WAITING or self._balance < 1:
            return []
        self.phase = Phase.CHECKING
        return [Check(self.progress.after, int(self._balance))]

    def _on_checked(self, event: Checked) -> list[Decision]:
        before = self.progress
        self._balance -= event.bytes
        self.progress = msgspec.structs.replace(
            before,
            after=event.after,
            files=before.files + event.files,
            bytes=before.bytes + event.bytes,
            corrupt_count=before.corrupt_count + len(event.corrupt),
            corrupt=(*before.corrupt, *event.corrupt)[:LISTED_MAX],
        )
        if event.ended:
            self.phase = Phase.ASSESSING
            return [Assess()]
        self.phase = Phase.WAITING
        return [Save(self.progress)]

    def _on_assessed(self, event: Assessed, now: float) -> list[Decision]:
        self.progress = msgspec.structs.replace(
            self.progress,
            ended_at=max(now, self.progress.began_at),
            after="",
            hurt=event.hurt[:LISTED_MAX],
            hurt_count=len(event.hurt),
        )
        self.phase = Phase.RESTING
        return [Save(self.progress), Tell(self.progress)]
