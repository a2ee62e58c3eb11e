"""Whatever is stored, used and held: eviction drops nothing that is needed, and the oldest first.

The second half lets the machine work on a real directory, while images come, are used and asked for between
any two of its steps, and the process dies at any of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import encode_manifest
from glowplug_imagecache.evicting import Evictor
from glowplug_imagecache.eviction import (
    LOW_WATER,
    Decision,
    DropImages,
    Dropped,
    Eviction,
    Failed,
    ImagesDropped,
    Look,
    Looked,
    Phase,
    Sweep,
    Swept,
    Tell,
    Tick,
)
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.stock import Held, ImageSeen, ObjectSeen, SourceSeen, Stock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.builders_images import a_file, a_manifest, a_store

NOW = 1_000_000.0
GRACE_S = 100.0
UNUSED_S = 5_000.0
OWNER = WorkspaceId("w")
# Before, around and after the two bounds of time, and leased into the future.
TIMES = st.sampled_from([NOW - 9_000, NOW - 6_000, NOW - 2_000, NOW - 1_000, NOW - 50, NOW + 500])


def digest_of_number(number: int) -> Digest:
    return Digest(f"{number:064x}")


@st.composite
def stocks(draw: st.DrawFn) -> Stock:
    objects = draw(
        st.lists(st.tuples(st.integers(0, 100), TIMES), max_size=8).map(
            lambda found: [
                ObjectSeen(bytes([place]) * 32, size, at) for place, (size, at) in enumerate(found)
            ]
        )
    )
    places = st.lists(st.integers(0, len(objects) - 1), unique=True) if objects else st.just([])
    images = draw(
        st.lists(st.tuples(TIMES, st.integers(1, 9), st.none() | places), max_size=6).map(
            lambda found: tuple(
                ImageSeen(digest=digest_of_number(n), used_at=at, size=size, objects=named)
                for n, (at, size, named) in enumerate(found)
            )
        )
    )
    sources = draw(
        st.lists(st.tuples(TIMES, st.integers(0, 50)), max_size=3).map(
            lambda found: tuple(
                SourceSeen(owner=OWNER, digest=digest_of_number(n), used_at=at, size=size)
                for n, (at, size) in enumerate(found)
            )
        )
    )
    return Stock(images=images, objects=objects, sources=sources)


@given(stocks(), st.sets(st.integers(0, 5)), st.integers(1, 400), st.data())
def test_one_round(stock: Stock, held: set[int], bytes_max: int, data: st.DataObject) -> None:
    needed = Held(
        images=frozenset(digest_of_number(n) for n in held),
        sources=frozenset((OWNER, digest_of_number(n)) for n in held),
    )
    machine = Eviction(bytes_max=bytes_max, unused_s=UNUSED_S, grace_s=GRACE_S, period_s=1.0)
    assert machine.step(Tick(), NOW - 1) == []
    assert machine.step(Tick(), NOW) == [Look()]
    (drop,) = machine.step(Looked(stock, needed), NOW)
    assert isinstance(drop, DropImages)
    check_choice(stock, needed, bytes_max, drop)
    gone = data.draw(st.sets(st.sampled_from(drop.images)) if drop.images else st.just(set()))
    (sweep,) = machine.step(ImagesDropped(frozenset(one.digest for one in gone)), NOW)
    assert isinstance(sweep, Sweep)
    check_sweep(stock, needed, gone, sweep)
    sizes = {one.digest: one.size for one in stock.objects}
    size = sum(sizes[digest] for digest in sweep.objects) + sum(one.size for one in sweep.sources)
    (told,) = machine.step(Swept(len(sweep.objects), size), NOW)
    assert isinstance(told, Tell)
    assert machine.phase is Phase.RESTING
    readable = all(image.objects is not None for image in stock.images)
    fresh = any(one.touched_at >= NOW - GRACE_S for one in stock.objects)
    if gone == set(drop.images) and readable and not fresh and told.report.over:
        # Nothing was left that would have made room.
        kept = [
            one for one in stock.images if one.digest not in {gone.digest for gone in drop.images}
        ]
        stuck = {place for one in kept if not is_idle(one, needed) for place in one.objects or ()}
        assert all(set(one.objects or ()) <= stuck for one in kept)


def is_idle(image: ImageSeen, held: Held) -> bool:
    return image.digest not in held.images and image.used_at < NOW - GRACE_S


def check_choice(stock: Stock, held: Held, bytes_max: int, drop: DropImages) -> None:
    images = {image.digest: image for image in stock.images}
    chosen = {one.digest for one in drop.images}
    assert len(chosen) == len(drop.images)
    assert all(is_idle(images[digest], held) for digest in chosen)
    for image in stock.images:
        if is_idle(image, held) and image.used_at < NOW - UNUSED_S:
            assert Dropped(digest=image.digest, why="unused") in drop.images
    for_room = [images[one.digest] for one in drop.images if one.why == "room"]
    assert not for_room or stock.size > bytes_max
    assert for_room == sorted(for_room, key=lambda image: image.used_at)
    if for_room:
        stuck = {p for one in stock.images if not is_idle(one, held) for p in one.objects or ()}
        for image in stock.images:
            if is_idle(image, held) and image.used_at < for_room[-1].used_at:
                useless = image.objects is not None and set(image.objects) <= stuck
                assert image.digest in chosen or useless
        # One less would not have done.
        kept = [one for one in stock.images if one.digest not in chosen] + for_room[-1:]
        assert size_with(stock, held, kept) > bytes_max * LOW_WATER


def size_with(stock: Stock, held: Held, kept: list[ImageSeen]) -> int:
    named = {place for image in kept for place in image.objects or ()}
    fresh = NOW - GRACE_S
    return (
        sum(image.size for image in kept)
        + sum(
            one.size
            for place, one in enumerate(stock.objects)
            if place in named or one.touched_at >= fresh
        )
        + sum(
            one.size
            for one in stock.sources
            if one.used_at >= fresh or (one.owner, one.digest) in held.sources
        )
    )


def check_sweep(stock: Stock, held: Held, gone: set[Dropped], sweep: Sweep) -> None:
    left = [one for one in stock.images if one.digest not in {dropped.digest for dropped in gone}]
    named = {stock.objects[place].digest for image in left for place in image.objects or ()}
    expected = {
        one.digest
        for one in stock.objects
        if one.digest not in named and one.touched_at < NOW - GRACE_S
    }
    if any(image.objects is None for image in left):
        expected = set()
    assert set(sweep.objects) == expected
    assert {one.digest for one in sweep.sources} == {
        one.digest
        for one in stock.sources
        if one.used_at < NOW - GRACE_S and (one.owner, one.digest) not in held.sources
    }


# -- On a directory -----------------------------------------------------------------------------

# Where a sync costs nothing, if there is such a place.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CONTENTS = [bytes([65 + n]) * 10 for n in range(5)]
FRAMES = [frame_of(content) for content in CONTENTS]
NEEDS = st.sets(st.integers(0, 4), min_size=1, max_size=3)
AGES = st.sampled_from([50.0, 150.0, 6_000.0])


class Died(BaseException):
    """The process was killed."""


class DyingEvictor(Evictor):
    """Dies before it removes its `dies_at`-th file, or when it has only just taken it into its hands."""

    dies_at = -1
    in_hand = False

    def _remove(self, path: Path, before: float) -> int | None:
        self.dies_at -= 1
        if self.dies_at == 0:
            if self.in_hand and path.exists():
                path.rename(self._root / "doomed" / ".".join(path.relative_to(self._root).parts))
            raise Died
        return super()._remove(path, before)


class Directory(RuleBasedStateMachine):
    """Builders put images in two steps; every image that is there has all its chunks, always."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.root = Path(self.folder.name)
        self.store = a_store(self.root)
        self.hands = DyingEvictor(self.store)
        self.held: set[Digest] = set()
        self.known: dict[Digest, set[int]] = {}
        self.building: list[set[int]] = []
        self.pending: list[Decision] = []
        self.evicted = 0
        self.begin()

    def teardown(self) -> None:
        self.folder.cleanup()

    def begin(self) -> None:
        self.machine = Eviction(bytes_max=1, unused_s=UNUSED_S, grace_s=GRACE_S, period_s=0.0)
        self.now = max(path.stat().st_mtime for path in [self.root, *self.root.rglob("*")])

    @rule(needs=NEEDS)
    def asks_and_puts_chunks(self, needs: set[int]) -> None:
        if len(self.building) < 2:
            missing = self.store.missing([FRAMES[n].digest for n in needs])
            self.store.put_chunks([FRAMES[n] for n in needs if FRAMES[n].digest in missing])
            self.building.append(needs)

    @precondition(lambda self: self.building)
    @rule()
    def puts_the_manifest(self) -> None:
        needs = self.building.pop()
        manifest = a_manifest(*(a_file(f"f{n}", CONTENTS[n]) for n in sorted(needs)))
        self.known[self.store.add_blob(encode_manifest(manifest))] = needs

    @rule(left=st.sets(st.integers(0, 4)))
    def a_builder_leaves_chunks_behind(self, left: set[int]) -> None:
        self.store.put_chunks([FRAMES[n] for n in left])
        named = {n for needs in [*self.known.values(), *self.building] for n in needs}
        self.make_older([("chunks", FRAMES[n].digest) for n in left - named], 6_000.0)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), age=AGES)
    def time_passes_over_an_image(self, data: st.DataObject, age: float) -> None:
        self.age(data.draw(st.sampled_from(sorted(self.known))), age)

    def age(self, digest: Digest, age: float) -> None:
        busy = {n for needs in self.building for n in needs}
        chunks = [("chunks", FRAMES[n].digest) for n in self.known[digest] - busy]
        self.make_older([("blobs", digest), *chunks], age)

    def make_older(self, files: list[tuple[str, Digest]], age: float) -> None:
        for room, name in files:
            path = self.root / room / name[:2] / name
            if path.exists():
                at = self.now - age
                os.utime(path, (at, at))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def is_held(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.known)))
        if self.store.blob_size(digest) is not None and self.machine.phase is Phase.RESTING:
            self.held ^= {digest}

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def is_used(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.known)))
        if self.store.blob_size(digest) is not None:
            self.store.blob(digest)

    @rule(dies_at=st.sampled_from([-1, -1, -1, 1, 2, 3]), in_hand=st.booleans())
    def evicts_one_step_further(self, dies_at: int, *, in_hand: bool) -> None:
        self.hands.dies_at, self.hands.in_hand = dies_at, in_hand
        if not self.pending:
            if self.machine.phase is Phase.RESTING:
                self.begin()
            self.pending = self.machine.step(Tick(), self.now)
            return
        try:
            event = self.perform(self.pending.pop(0))
        except Died:
            self.pending = []
            self.machine.step(Failed(), self.now)
            self.hands = DyingEvictor(a_store(self.root))
            self.hands.recover()
            return
        if event is not None:
            self.pending = self.machine.step(event, self.now)

    def perform(self, decision: Decision) -> Looked | ImagesDropped | Swept | None:
        match decision:
            case Look():
                self.hands.recover()
                held = Held(images=frozenset(self.held), sources=frozenset())
                return Looked(self.hands.look(), held)
            case DropImages():
                gone = self.hands.drop_images(decision)
                self.evicted += len(gone)
                return ImagesDropped(gone)
            case Sweep():
                return self.hands.sweep(decision)
            case Tell():
                return None

    @invariant()
    def every_image_is_whole(self) -> None:
        for digest, needs in self.known.items():
            if self.store.blob_size(digest) is not None:
                for n in needs:
                    path = self.root / "chunks" / FRAMES[n].digest[:2] / FRAMES[n].digest
                    assert path.exists(), (digest, n)

    @invariant()
    def what_is_held_is_there(self) -> None:
        assert all(self.store.blob_size(digest) is not None for digest in self.held)


def test_no_image_loses_a_chunk_whoever_builds_reads_or_dies() -> None:
    run_state_machine_as_test(
        Directory, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
