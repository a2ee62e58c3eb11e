"""Which templates a worker makes and keeps, as a pure machine: events in, decisions out.

A template is made when it will probably pay: at once where the code takes long to import, else when a deployment
starts its second container here; the one of an image (a bare runner) after the first. They are kept as
long as they are used, within a budget of memory, least recently used first. Containers that were forked
from a template live in its pid namespace, so one that has any is never dropped, only used no more. What belongs
to a deployment that is over, or to a worker that takes nothing, goes at once.

Invariants: K1 what has children is not dropped; K2 what may be dropped stays within the budget; K3 what was
found unsafe is not made again; K4 only one of each sort is being made at a time; K5 of one owner only the
newest is forked from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar, assert_never

import msgspec

T = TypeVar("T")

# Importing takes this long: worth a template after the first start.
WORTH_S: Final = 0.25
STARTS_MIN: Final = 2
FAILURES_MAX: Final = 3
# The kernel charges what a fork takes (page tables, its own records) to who forks: half a MiB each from a small
# template. A template that is killed for it takes its containers along, so that it gets room for so many.
CHILDREN_MAX: Final = 256
CHILD_BYTES: Final = 1 << 20
# Remembered about deployments that have no template; beyond it the oldest are forgotten.
KNOWN_MAX: Final = 4096


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What a template was made for. Two containers may be forked from one only if their keys are equal.

    Attributes:
        owner: whose it is: a deployment, or "" with a workspace's image in `digest` for a bare runner.
        digest: of everything that the process is made of.
    """

    owner: str
    digest: str

    @property
    def bare(self) -> bool:
        """Return whether it has no user code in it."""
        return not self.owner


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    key: Key


class Served(_Event, frozen=True, kw_only=True):
    """A container got ready that was not forked from a template of this key; importing took so long."""

    import_s: float = 0.0


class Made(_Event, frozen=True, kw_only=True):
    """The template sleeps, and uses so much memory."""

    memory_bytes: int


class Unsafe(_Event, frozen=True, kw_only=True):
    """It must not be forked from; `reason` is for the user."""

    reason: str


class Failed(_Event, frozen=True, kw_only=True):
    """It could not be made, for a `reason` that may be another's: it is tried again at a later start."""

    reason: str


class Forked(_Event, frozen=True, kw_only=True):
    """A container was forked from it."""


class Retired(_Event, frozen=True, kw_only=True):
    """It does not do what a template should: it is forked from no more, and made again only when it has gone."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """The deployment is deleted or superseded: nothing of it is of any use."""

    owner: str


class Emptied(msgspec.Struct, frozen=True, kw_only=True):
    """The worker takes no containers: none of them is of any use."""


class ChildEnded(_Event, frozen=True, kw_only=True):
    """One of its containers has ended."""


class Died(_Event, frozen=True, kw_only=True):
    """It ended by itself, with everything that was forked from it."""


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """Time passed."""


Event = (
    Served
    | Made
    | Unsafe
    | Failed
    | Forked
    | Retired
    | Forgotten
    | Emptied
    | ChildEnded
    | Died
    | Passed
)


class Make(msgspec.Struct, frozen=True):
    """Make it; say Made, Unsafe or Failed."""

    key: Key


class Drop(msgspec.Struct, frozen=True):
    """End it."""

    key: Key


Decision = Make | Drop


class _Template(msgspec.Struct, kw_only=True):
    made: bool = False
    memory_bytes: int = 0
    used_at: float
    children: int = 0
    retired: bool = False


class Keeping:
    """The machine. `now` is monotonic seconds."""

    def __init__(self, *, budget_bytes: int, keep_s: float) -> None:
        self.budget_bytes = budget_bytes
        self.keep_s = keep_s
        self.unsafe: dict[Key, str] = {}
        self._templates: dict[Key, _Template] = {}
        self._starts: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}

    def usable(self, key: Key) -> bool:
        """Return whether containers are forked from this one now."""
        found = self._templates.get(key)
        if found is None or not found.made or found.retired:
            return False
        return found.children < CHILDREN_MAX

    def use(self, key: Key) -> tuple[int, int]:
        """Return what one uses: bytes of memory, and containers that live."""
        found = self._templates.get(key)
        return (found.memory_bytes, found.children) if found is not None else (0, 0)

    @property
    def memory_bytes(self) -> int:
        """Return what all of them use."""
        return sum(each.memory_bytes for each in self._templates.values())

    def step(self, event: Event, now: float) -> Sequence[Decision]:  # noqa: C901, PLR0911, PLR0912 - a table
        """Take one event; return what to do, in order."""
        match event:
            case Served():
                return self._on_served(event, now)
            case Made():
                return self._on_made(event, now)
            case Unsafe():
                self._templates.pop(event.key, None)
                self._remember(self.unsafe, event.key, event.reason)
                return ()
            case Failed():
                return self._on_failed(event)
            case Forked():
                self._templates[event.key].used_at = now
                self._templates[event.key].children += 1
                return ()
            case Retired():
                return self._on_retired(event.key, now)
            case Forgotten():
                return self._on_forgotten(event.owner, now)
            case Emptied():
                return self._retire(list(self._templates), now)
            case ChildEnded():
                found = self._templates.get(event.key)
                if found is not None and found.children:
                    found.children -= 1
                    found.used_at = now
                return self._tidy(now)
            case Died():
                return self._on_died(event.key)
            case Passed():
                return self._tidy(now)
            case _:
                assert_never(event)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        free = [each for each in self._templates.values() if each.made and not each.children]
        assert sum(each.memory_bytes for each in free) <= self.budget_bytes, "K2"  # noqa: S101
        assert not set(self._templates) & set(self.unsafe), "K3"  # noqa: S101
        making = [key.bare for key, each in self._templates.items() if not each.made]
        assert len(making) == len(set(making)), "K4"  # noqa: S101
        owners = [key.owner for key in self._templates if self.usable(key) and not key.bare]
        assert len(owners) == len(set(owners)), "K5"  # noqa: S101

    def _on_served(self, event: Served, now: float) -> Sequence[Decision]:
        key = event.key
        if key in self._templates or key in self.unsafe or self.budget_bytes <= 0:
            return ()
        if self._failures.get(key, 0) >= FAILURES_MAX:
            self._remember(
                self.unsafe, key, "it did not stay asleep, or ended by itself, too often"
            )
            return ()
        self._remember(self._starts, key, self._starts.get(key, 0) + 1)
        pays = key.bare or event.import_s >= WORTH_S or self._starts[key] >= STARTS_MIN
        making = (other for other, each in self._templates.items() if not each.made)
        busy = any(other.bare == key.bare for other in making)
        if not pays or busy:
            return ()
        self._templates[key] = _Template(used_at=now)
        return (Make(key),)

    def _on_made(self, event: Made, now: float) -> Sequence[Decision]:
        key = event.key
        if event.memory_bytes > self.budget_bytes:
            del self._templates[key]
            self._remember(self.unsafe, key, "it needs more memory than templates may use here")
            return (Drop(key),)
        made = self._templates[key]
        made.made, made.memory_bytes, made.used_at = True, event.memory_bytes, now
        for other, template in self._templates.items():
            if not key.bare and other.owner == key.owner and other != key:
                template.retired = True  # an older version of the same deployment
        return self._tidy(now)

    def _on_failed(self, event: Failed) -> Sequence[Decision]:
        self._templates.pop(event.key, None)
        self._count_failure(event.key)
        if self._failures[event.key] >= FAILURES_MAX:
            self._remember(self.unsafe, event.key, event.reason)
        return ()

    def _on_retired(self, key: Key, now: float) -> Sequence[Decision]:
        found = self._templates.get(key)
        if found is None or found.retired:
            return ()
        found.retired = True
        self._count_failure(key)
        return self._tidy(now)

    def _on_forgotten(self, owner: str, now: float) -> Sequence[Decision]:
        known: tuple[dict[Key, Any], ...] = (self.unsafe, self._starts, self._failures)
        for each in known:
            for key in [key for key in each if key.owner == owner]:
                del each[key]
        return self._retire([key for key in self._templates if key.owner == owner], now)

    def _retire(self, keys: Sequence[Key], now: float) -> Sequence[Decision]:
        """Use them no more, through no fault of theirs; one that is being made is told of again."""
        for key in keys:
            if self._templates[key].made:
                self._templates[key].retired = True
        return self._tidy(now)

    def _on_died(self, key: Key) -> Sequence[Decision]:
        self._templates.pop(key, None)
        self._count_failure(key)
        return ()

    def _count_failure(self, key: Key) -> None:
        self._remember(self._failures, key, self._failures.get(key, 0) + 1)

    def _tidy(self, now: float) -> Sequence[Decision]:
        """Drop what is of no more use, then the least recently used beyond the budget."""
        free = sorted(
            (
                (key, each)
                for key, each in self._templates.items()
                if each.made and not each.children
            ),
            key=lambda item: item[1].used_at,
        )
        left = sum(each.memory_bytes for _, each in free)
        dropped: list[Decision] = []
        for key, each in free:
            if each.retired or now - each.used_at >= self.keep_s or left > self.budget_bytes:
                left -= each.memory_bytes
                del self._templates[key]
                dropped.append(Drop(key))
        return dropped

    @staticmethod
    def _remember(known: dict[Key, T], key: Key, value: T) -> None:
        known.pop(key, None)
        known[key] = value
        if len(known) > KNOWN_MAX:
            del known[next(iter(known))]
