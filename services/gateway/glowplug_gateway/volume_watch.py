"""Files that appear or change in volumes, as events. Pure: listings in, events out.

A listing is compared with the one before it. A file is told of once it has stayed as it is from one listing
to the next, so that nobody reads half of one. The event's id follows from path, time and size of the file:
whoever tells of it again, after a restart or from another gateway, tells of the same event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from glowplug_contracts.messages.event import CloudEvent, DataForm

SOURCE: Final = "glowplug:volumes"
CREATED: Final = "glowplug.volume.file.created"
CHANGED: Final = "glowplug.volume.file.changed"
# What the first look finds is told of only if it is younger: older files were told of in their time, and the
# stream may have forgotten.
FIRST_LOOK_S: Final = 6 * 86_400.0


class SeenFile(msgspec.Struct, frozen=True):
    """One file of a listing."""

    path: str
    size: int
    changed_at: float


class VolumeWatch:
    """What is known of one volume's files."""

    def __init__(self, volume: str) -> None:
        self._volume = volume
        self._told: dict[str, SeenFile] = {}
        self._seen: dict[str, SeenFile] = {}
        self._first = True

    def look(self, files: Iterable[SeenFile], now_unix: float) -> Sequence[CloudEvent]:
        """Take a listing; return the events of files that have settled."""
        listing = {one.path: one for one in files}
        events = []
        for path, one in listing.items():
            told = self._told.get(path)
            if told == one or (not self._first and self._seen.get(path) != one):
                continue
            if self._first:
                if one.changed_at < now_unix - FIRST_LOOK_S:
                    self._told[path] = one
                continue
            events.append(self._event(one, CREATED if told is None else CHANGED))
            self._told[path] = one
        self._told = {path: one for path, one in self._told.items() if path in listing}
        self._seen, self._first = listing, False
        return events

    def _event(self, one: SeenFile, kind: str) -> CloudEvent:
        data = {"volume": self._volume, "path": one.path, "size": one.size}
        return CloudEvent(
            id=f"{one.path}@{one.changed_at!r}+{one.size}"[-2_000:],
            source=f"{SOURCE}/{self._volume}",
            type=kind,
            subject=f"{self._volume}/{one.path}",
            datacontenttype="application/json",
            form=DataForm.JSON,
            data=msgspec.json.encode(data),
        )
