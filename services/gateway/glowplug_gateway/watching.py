"""When a file of a volume counts as created or changed: a pure machine over looks at a folder.

A file is told of when two looks, at least SETTLED_S apart, saw it the same and it is not what was told last:
whoever writes for longer than that without a pause is told of once, when it is done. What was told is kept by
the caller, so that a restart tells nothing twice and nothing that came meanwhile is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

SETTLED_S: Final = 1.0


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """What makes one content of a path: another inode, time or size is another content."""

    inode: int
    changed_ns: int
    size: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A path whose content has settled."""

    path: str
    kind: Literal["created", "changed"]
    state: FileState


class Watch:
    """One volume's files: what was told, and what has not settled yet."""

    def __init__(self, told: Mapping[str, FileState]) -> None:
        self.told: dict[str, FileState] = dict(told)
        self._pending: dict[str, tuple[FileState, float]] = {}

    def step(self, found: Mapping[str, FileState], now: float) -> list[Change]:
        """Take one look; return what is to be told now, by path. It is due again until `tell`."""
        for gone in self.told.keys() - found.keys():
            del self.told[gone]
        for gone in self._pending.keys() - found.keys():
            del self._pending[gone]
        due = []
        for path in sorted(found):
            state = found[path]
            if self.told.get(path) == state:
                self._pending.pop(path, None)
                continue
            seen, since = self._pending.get(path, (None, now))
            if seen != state:
                self._pending[path] = state, now
            elif now - since >= SETTLED_S:
                kind: Literal["created", "changed"] = "changed" if path in self.told else "created"
                due.append(Change(path=path, kind=kind, state=state))
        return due

    def tell(self, change: Change) -> None:
        """It was told, for good."""
        self.told[change.path] = change.state
        self._pending.pop(change.path, None)
