"""What the store gives up, and in which order, as a pure machine.

    resting → (due) looking → (stock) dropping images → (which are gone) felling trees
            → (which are gone) sweeping → resting

Images nobody used for `unused_s` go. While there is more than `bytes_max`, the least recently used ones go,
until it is below LOW_WATER of that; first what no image names any more. An image whose objects other images that
stay need, too, gives no room and is not dropped for it. Trees go only when the images that stand on them are really
gone, because an image that somebody used meanwhile was put back, and objects when both are, and only those that no
image or tree which is left names.

Invariants: E1 what is held is never dropped; E2 nor is what was used or touched since `grace_s` before the
look; E3 no tree of an image that stays, or of a model, is dropped, and no object of any of these; E4 no tree is
dropped while an image can't be read, and nothing is swept while an image or a tree can't.

Whoever performs this need not be alone, nor live: see `evicting.py` for how a thing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec
from glowplug_contracts.ids import Digest

from glowplug_imagecache.counting import Needed
from glowplug_imagecache.stock import Held, ImageSeen, SourceSeen, Stock, TreeSeen, Why

LOW_WATER = 0.9
# A look that has not ended after this long was lost; the next one begins.
LOST_S = 3600.0

# -- Events -------------------------------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Looked(msgspec.Struct, frozen=True):
    """What there is, and what of it is needed. `held` was asked for after `began`, the look's start."""

    stock: Stock
    held: Held


class ImagesDropped(msgspec.Struct, frozen=True):
    """Which of the images are gone; the others were used at the last moment."""

    gone: frozenset[Digest]


class TreesDropped(msgspec.Struct, frozen=True):
    """Which of the trees are gone."""

    gone: frozenset[Digest]


class Swept(msgspec.Struct, frozen=True):
    """How many objects and sources are gone, and their bytes."""

    count: int
    size: int


class Failed(msgspec.Struct, frozen=True):
    """What was decided could not be done now."""


Event = Tick | Looked | ImagesDropped | TreesDropped | Swept | Failed

# -- Decisions ----------------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True):
    """Find out what there is."""


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """An image that goes, and why."""

    digest: Digest
    why: Why


class DropImages(msgspec.Struct, frozen=True):
    """Remove manifests, unless used since."""

    images: tuple[Dropped, ...]
    unused_since: float


class DropTrees(msgspec.Struct, frozen=True):
    """Remove manifests of trees, unless used since."""

    trees: tuple[Digest, ...]
    unused_since: float


class Sweep(msgspec.Struct, frozen=True):
    """Remove objects and sources, unless touched since."""

    objects: tuple[bytes, ...]
    sources: tuple[SourceSeen, ...]
    untouched_since: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did. `size` is what is left, as far as was seen; `unreadable` manifests stop sweeps."""

    images: tuple[Dropped, ...] = ()
    trees: tuple[Digest, ...] = ()
    swept: int = 0
    swept_bytes: int = 0
    size: int = 0
    over: bool = False
    unreadable: tuple[Digest, ...] = ()
    at: float = 0.0


class Tell(msgspec.Struct, frozen=True):
    """Say what was done."""

    report: Report


Decision = Look | DropImages | DropTrees | Sweep | Tell


class Phase(StrEnum):
    """What the machine waits for."""

    RESTING = "resting"
    LOOKING = "looking"
    DROPPING = "dropping"
    FELLING = "felling"
    SWEEPING = "sweeping"


class Eviction:
    """One store's rounds of eviction.

    Args:
        bytes_max: of all that is kept; 0 = no bound but the disk's.
        unused_s: images that nobody used for so long go.
        grace_s: what was used or touched within it stays; longer than anything that takes place
            between asking whether an object is there and storing the manifest that names it.
        period_s: from the end of one round to the next.
    """

    def __init__(self, *, bytes_max: int, unused_s: float, grace_s: float, period_s: float) -> None:
        self._bytes_max = bytes_max
        self._unused_s = max(unused_s, grace_s)
        self._grace_s = grace_s
        self._period_s = period_s
        self.phase = Phase.RESTING
        self._since: float | None = None
        self._cutoff = 0.0
        self._stock = Stock(images=(), objects=(), sources=())
        self._held = Held(images=frozenset(), sources=frozenset())
        self._dropped: tuple[Dropped, ...] = ()
        self._felled: frozenset[Digest] = frozenset()

    def step(self, event: Event, now: float) -> list[Decision]:
        """Return what to do about an event; `now` is Unix time."""
        match event:
            case Tick():
                return self._on_tick(now)
            case Looked() if self.phase is Phase.LOOKING:
                return self._on_looked(event, now)
            case ImagesDropped() if self.phase is Phase.DROPPING:
                return self._on_dropped(event)
            case TreesDropped() if self.phase is Phase.FELLING:
                return self._on_felled(event)
            case Swept() if self.phase is Phase.SWEEPING:
                return self._on_swept(event, now)
            case Failed():
                self._rest(now)
        return []

    def _on_tick(self, now: float) -> list[Decision]:
        if self._since is None:  # the first round waits, too: workers' beats are not all heard yet
            self._since = now
        wait_s = self._period_s if self.phase is Phase.RESTING else LOST_S
        if now - self._since < wait_s:
            return []
        self.phase = Phase.LOOKING
        self._since = now
        self._cutoff = now - self._grace_s
        return [Look()]

    def _on_looked(self, event: Looked, now: float) -> list[Decision]:
        self._stock, self._held = event.stock, event.held
        self.phase = Phase.DROPPING
        self._dropped = tuple(self._choose(now))
        return [DropImages(self._dropped, self._cutoff)]

    def _on_dropped(self, event: ImagesDropped) -> list[Decision]:
        self._dropped = tuple(one for one in self._dropped if one.digest in event.gone)
        left = [image for image in self._stock.images if image.digest not in event.gone]
        self._stock = msgspec.structs.replace(self._stock, images=tuple(left))
        self.phase = Phase.FELLING
        needed = self._needed(left)
        readable = all(image.objects is not None for image in left)
        trees = tuple(
            tree.digest for tree in self._stock.trees if readable and needed.is_free_tree(tree)
        )
        return [DropTrees(trees, self._cutoff)]

    def _on_felled(self, event: TreesDropped) -> list[Decision]:
        stock = self._stock
        left = [tree for tree in stock.trees if tree.digest not in event.gone]
        self._felled = event.gone
        self._stock = stock = msgspec.structs.replace(stock, trees=tuple(left))
        self.phase = Phase.SWEEPING
        # One that somebody used at the last moment was put back: its objects stay, too.
        needed = Needed(stock, stock.images, self._cutoff, trees_stay=True)
        readable = not self._unreadable()
        objects = tuple(
            one.digest
            for place, one in enumerate(stock.objects)
            if readable and needed.is_free(place)
        )
        return [Sweep(objects, tuple(self._idle_sources()), self._cutoff)]

    def _on_swept(self, event: Swept, now: float) -> list[Decision]:
        size = self._stock.size - event.size
        report = Report(
            images=self._dropped,
            trees=tuple(sorted(self._felled)),
            swept=event.count,
            swept_bytes=event.size,
            size=size,
            over=0 < self._bytes_max < size,
            unreadable=self._unreadable(),
            at=now,
        )
        self._rest(now)
        return [Tell(report)]

    def _rest(self, now: float) -> None:
        self.phase = Phase.RESTING
        self._since = now
        self._stock = Stock(images=(), objects=(), sources=())

    # -- Choosing -------------------------------------------------------------------------------

    def _choose(self, now: float) -> Iterable[Dropped]:
        stock = self._stock
        idle = sorted(
            (image for image in stock.images if self._is_idle(image)),
            key=lambda image: (image.used_at, image.digest),
        )
        aged = [image for image in idle if image.used_at < now - self._unused_s]
        needed = self._needed(stock.images)
        size = stock.size - sum(source.size for source in self._idle_sources())
        size -= sum(tree.size for tree in stock.trees if needed.is_free_tree(tree))
        size -= sum(one.size for place, one in enumerate(stock.objects) if needed.is_free(place))
        for image in aged:
            size -= needed.take(image)
            yield Dropped(digest=image.digest, why="unused")
        if not 0 < self._bytes_max < size:
            return
        idle_digests = {image.digest for image in idle}
        pinned = self._needed([one for one in stock.images if one.digest not in idle_digests])
        for image in idle[len(aged) :]:
            if size <= self._bytes_max * LOW_WATER:
                return
            if pinned.has_all_of(image):
                continue
            size -= needed.take(image)
            yield Dropped(digest=image.digest, why="room")

    def _needed(self, images: Iterable[ImageSeen]) -> Needed:
        return Needed(self._stock, images, self._cutoff, held_trees=self._held.trees)

    def _unreadable(self) -> tuple[Digest, ...]:
        manifests: tuple[ImageSeen | TreeSeen, ...] = (*self._stock.images, *self._stock.trees)
        return tuple(one.digest for one in manifests if one.objects is None)

    def _is_idle(self, image: ImageSeen) -> bool:
        return image.digest not in self._held.images and image.used_at < self._cutoff

    def _idle_sources(self) -> list[SourceSeen]:
        return [
            source
            for source in self._stock.sources
            if source.used_at < self._cutoff
            and (source.owner, source.digest) not in self._held.sources
        ]
