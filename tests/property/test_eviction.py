"""Whatever is stored, used and held: eviction drops nothing that is needed, and the oldest first.

The second half lets the machine work on a real directory, while images come, are used and asked for between
any two of its steps, and the process dies at any of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.manifests import encode_manifest
from glowplug_contracts.messages.image import BaseImage
from glowplug_contracts.trees import FlatTree, StoredObject, encode_tree
from glowplug_imagecache.evicting import Evictor
from glowplug_imagecache.eviction import (
    LOW_WATER,
    Decision,
    DropImages,
    Dropped,
    DropTrees,
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
    TreesDropped,
)
from glowplug_imagecache.files import has_image
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.stock import Held, ImageSeen, ObjectSeen, SourceSeen, Stock, TreeSeen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
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
    # One of a few can't be read: where one can't, nothing is swept.
    readable = st.sampled_from([True] * 9 + [False])
    named_by = st.tuples(places, readable).map(lambda drawn: drawn[0] if drawn[1] else None)
    seen = st.tuples(TIMES, st.integers(1, 9), named_by)
    trees = tuple(
        TreeSeen(digest=digest_of_number(100 + n), used_at=at, size=size, objects=named)
        for n, (at, size, named) in enumerate(draw(st.lists(seen, max_size=3)))
    )
    # A tree that is not in the stock was lost, or came during the look.
    bases = st.sampled_from([None, *(tree.digest for tree in trees), digest_of_number(103)])
    images = tuple(
        ImageSeen(digest=digest_of_number(n), used_at=at, size=size, objects=named, base=base)
        for n, ((at, size, named), base) in enumerate(
            draw(st.lists(st.tuples(seen, bases), max_size=6))
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
    return Stock(images=images, objects=objects, sources=sources, trees=trees)


@settings(max_examples=80, deadline=None)
@given(stocks(), st.sets(st.integers(0, 5)), st.integers(1, 400), st.data())
def test_one_round(stock: Stock, held: set[int], bytes_max: int, data: st.DataObject) -> None:
    models = data.draw(st.sets(st.integers(100, 103)))
    needed = Held(
        images=frozenset(digest_of_number(n) for n in held),
        sources=frozenset((OWNER, digest_of_number(n)) for n in held),
        trees=frozenset(map(digest_of_number, models)),
    )
    machine = Eviction(bytes_max=bytes_max, unused_s=UNUSED_S, grace_s=GRACE_S, period_s=1.0)
    assert machine.step(Tick(), NOW - 1) == []
    assert machine.step(Tick(), NOW) == [Look()]
    (drop,) = machine.step(Looked(stock, needed), NOW)
    assert isinstance(drop, DropImages)
    check_choice(stock, needed, bytes_max, drop)
    gone = data.draw(st.sets(st.sampled_from(drop.images)) if drop.images else st.just(set()))
    (fell,) = machine.step(ImagesDropped(frozenset(one.digest for one in gone)), NOW)
    assert isinstance(fell, DropTrees)
    left = [one for one in stock.images if one.digest not in {dropped.digest for dropped in gone}]
    check_trees(stock, needed, left, fell)
    felled = data.draw(st.sets(st.sampled_from(fell.trees)) if fell.trees else st.just(set()))
    (sweep,) = machine.step(TreesDropped(frozenset(felled)), NOW)
    assert isinstance(sweep, Sweep)
    check_sweep(stock, needed, left, felled, sweep)
    sizes = {one.digest: one.size for one in stock.objects}
    size = sum(sizes[digest] for digest in sweep.objects) + sum(one.size for one in sweep.sources)
    (told,) = machine.step(Swept(len(sweep.objects), size), NOW)
    assert isinstance(told, Tell)
    assert machine.phase is Phase.RESTING
    readable = all(one.objects is not None for one in (*stock.images, *stock.trees))
    fresh = any(one.touched_at >= NOW - GRACE_S for one in stock.objects)
    everything = gone == set(drop.images) and felled == set(fell.trees)
    if everything and readable and not fresh and told.report.over:
        # Nothing was left that would have made room.
        busy = [one for one in left if not is_idle(one, needed)]
        objects, trees = stuck(stock, busy, needed)
        assert all(gives_nothing(one, stock, objects, trees) for one in left)


def trees_with(stock: Stock, images: list[ImageSeen], held: Held) -> list[TreeSeen]:
    """Return the trees that stay while these images do."""
    bases = {image.base for image in images} | held.trees
    return [one for one in stock.trees if one.digest in bases or one.used_at >= NOW - GRACE_S]


def stuck(stock: Stock, images: list[ImageSeen], held: Held) -> tuple[set[int], set[Digest]]:
    """Return the objects and trees that stay with these images."""
    trees = trees_with(stock, images, held)
    objects = {place for one in (*images, *trees) for place in one.objects or ()}
    return objects, {one.digest for one in trees}


def gives_nothing(image: ImageSeen, stock: Stock, objects: set[int], trees: set[Digest]) -> bool:
    there = {one.digest for one in stock.trees}
    below = image.base not in there or image.base in trees
    return image.objects is not None and set(image.objects) <= objects and below


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
        busy = [one for one in stock.images if not is_idle(one, held)]
        objects, trees = stuck(stock, busy, held)
        for image in stock.images:
            if is_idle(image, held) and image.used_at < for_room[-1].used_at:
                useless = gives_nothing(image, stock, objects, trees)
                assert image.digest in chosen or useless
        # One less would not have done.
        kept = [one for one in stock.images if one.digest not in chosen] + for_room[-1:]
        assert size_with(stock, held, kept) > bytes_max * LOW_WATER


def size_with(stock: Stock, held: Held, kept: list[ImageSeen]) -> int:
    trees = trees_with(stock, kept, held)
    named = {place for one in (*kept, *trees) for place in one.objects or ()}
    fresh = NOW - GRACE_S
    return (
        sum(one.size for one in (*kept, *trees))
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


def check_trees(stock: Stock, held: Held, left: list[ImageSeen], fell: DropTrees) -> None:
    staying = {one.digest for one in trees_with(stock, left, held)}
    expected = {one.digest for one in stock.trees} - staying
    if any(image.objects is None for image in left):
        expected = set()
    assert set(fell.trees) == expected


def check_sweep(
    stock: Stock, held: Held, images: list[ImageSeen], felled: set[Digest], sweep: Sweep
) -> None:
    left = [*images, *(one for one in stock.trees if one.digest not in felled)]
    named = {stock.objects[place].digest for one in left for place in one.objects or ()}
    expected = {
        one.digest
        for one in stock.objects
        if one.digest not in named and one.touched_at < NOW - GRACE_S
    }
    if any(one.objects is None for one in left):
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
# Two trees, which share an object with each other and with layers.
TREE_NEEDS = [{2, 3}, {3, 4}]
TREES = [
    encode_tree(
        FlatTree(
            entries=(),
            pieces=tuple(StoredObject(bytes.fromhex(FRAMES[n].digest), 10) for n in sorted(needs)),
        )
    )
    for needs in TREE_NEEDS
]
TREE_DIGESTS = [digest_of(data) for data in TREES]
NEEDS = st.sets(st.integers(0, 4), min_size=1, max_size=3)
AGES = st.sampled_from([50.0, 150.0, 6_000.0])


def a_base(tree: Digest) -> BaseImage:
    return BaseImage(reference="r/x:1", platform="linux/amd64", tree=tree, python="/bin/python3")


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


class Pull(msgspec.Struct):
    """A base on its way: its objects are put, asked for once more, then its tree is stored."""

    tree: int
    asked: bool = False


class Made(msgspec.Struct):
    """An image, or what will be one: numbers of its layer's contents, and of its base."""

    needs: set[int]
    base: int | None = None

    @property
    def objects(self) -> set[int]:
        return self.needs | (set() if self.base is None else TREE_NEEDS[self.base])


class Directory(RuleBasedStateMachine):
    """Builders put images in steps; every image that is there has all that it needs, always."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.root = Path(self.folder.name)
        self.store = a_store(self.root)
        self.hands = DyingEvictor(self.store)
        self.held: set[Digest] = set()
        self.known: dict[Digest, Made] = {}
        self.building: list[Made] = []
        self.pulling: list[Pull] = []
        self.pending: list[Decision] = []
        self.evicted = 0
        self.begin()

    def teardown(self) -> None:
        self.folder.cleanup()

    def begin(self) -> None:
        self.machine = Eviction(bytes_max=1, unused_s=UNUSED_S, grace_s=GRACE_S, period_s=0.0)
        self.now = max(path.stat().st_mtime for path in [self.root, *self.root.rglob("*")])

    @initialize(plain=NEEDS, bases=st.sets(st.integers(0, 1)))
    def images_are_there(self, plain: set[int], bases: set[int]) -> None:
        self.asks_and_puts(plain)
        self.puts_the_manifest()
        for tree in sorted(bases):
            self.a_pull_puts_objects(tree)
            for _ in range(2):
                self.a_pull_goes_on()
            self.puts_the_manifest()
        self.time_passes_over_all(6_000.0)

    @rule(needs=NEEDS)
    def asks_and_puts_chunks(self, needs: set[int]) -> None:
        if len(self.building) < 2:
            self.asks_and_puts(needs)

    def asks_and_puts(self, needs: set[int]) -> None:
        self.put_missing(needs)
        self.building.append(Made(needs))

    def put_missing(self, needs: set[int]) -> None:
        missing = self.store.missing([FRAMES[n].digest for n in needs])
        self.store.put_chunks([FRAMES[n] for n in needs if FRAMES[n].digest in missing])

    @precondition(lambda self: self.building)
    @rule()
    def puts_the_manifest(self) -> None:
        made = self.building.pop()
        manifest = a_manifest(*(a_file(f"f{n}", CONTENTS[n]) for n in sorted(made.needs)))
        if made.base is not None:
            manifest = msgspec.structs.replace(manifest, base=a_base(TREE_DIGESTS[made.base]))
        self.known[self.store.add_blob(encode_manifest(manifest))] = made

    @rule(tree=st.integers(0, 1))
    def a_pull_puts_objects(self, tree: int) -> None:
        if not self.pulling:
            self.put_missing(TREE_NEEDS[tree])
            self.pulling.append(Pull(tree))

    @precondition(lambda self: self.pulling)
    @rule()
    def a_pull_takes_long(self) -> None:
        (pull,) = self.pulling
        if not pull.asked:
            busy = {n for made in self.building for n in made.objects}
            objects = TREE_NEEDS[pull.tree] - busy
            self.make_older([("chunks", FRAMES[n].digest) for n in objects], 150.0)

    @precondition(lambda self: self.pulling)
    @rule()
    def a_pull_goes_on(self) -> None:
        (pull,) = self.pulling
        if not pull.asked:
            self.put_missing(TREE_NEEDS[pull.tree])
            pull.asked = True
        else:
            self.pulling.clear()
            self.store.add_blob(TREES[pull.tree])
            self.building.append(Made(set(), pull.tree))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), needs=NEEDS)
    def builds_on_an_image(self, data: st.DataObject, needs: set[int]) -> None:
        below = ImageDigest(data.draw(st.sampled_from(sorted(self.known))))
        if len(self.building) < 2 and has_image(self.store, below):
            self.put_missing(needs)
            made = self.known[Digest(below)]
            self.building.append(Made(made.needs | needs, made.base))

    @rule(left=st.sets(st.integers(0, 4)))
    def a_builder_leaves_chunks_behind(self, left: set[int]) -> None:
        self.store.put_chunks([FRAMES[n] for n in left])
        named = {n for made in [*self.known.values(), *self.building] for n in made.objects}
        named |= {n for pull in self.pulling for n in TREE_NEEDS[pull.tree]}
        self.make_older([("chunks", FRAMES[n].digest) for n in left - named], 6_000.0)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), age=AGES)
    def time_passes_over_an_image(self, data: st.DataObject, age: float) -> None:
        self.age(data.draw(st.sampled_from(sorted(self.known))), age)

    @rule(age=AGES)
    def time_passes_over_all(self, age: float) -> None:
        for digest in sorted(self.known):
            self.age(digest, age)

    @rule()
    def evicts_to_the_end(self) -> None:
        for _ in range(2 * len(Phase)):
            self.evicts_one_step_further(dies_at=-1, in_hand=False)
            if self.machine.phase is Phase.RESTING:
                return

    def age(self, digest: Digest, age: float) -> None:
        made = self.known[digest]
        busy = {n for other in self.building for n in other.objects}
        busy |= {n for pull in self.pulling for n in TREE_NEEDS[pull.tree]}
        files = [("blobs", digest)]
        files += [("chunks", FRAMES[n].digest) for n in made.objects - busy]
        if made.base is not None and made.base not in {other.base for other in self.building}:
            files.append(("blobs", TREE_DIGESTS[made.base]))
        self.make_older(files, age)

    def make_older(self, files: list[tuple[str, Digest]], age: float) -> None:
        for room, name in files:
            path = self.root / room / name[:2] / name
            # A round goes by the time at which it began: what was used since does not grow old for it.
            during = self.machine.phase is not Phase.RESTING
            if path.exists() and not (during and path.stat().st_mtime > self.now):
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
    def evicts(self, dies_at: int, *, in_hand: bool) -> None:
        self.evicts_one_step_further(dies_at, in_hand=in_hand)

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

    def perform(self, decision: Decision) -> Looked | ImagesDropped | TreesDropped | Swept | None:
        match decision:
            case Look():
                self.hands.recover()
                held = Held(images=frozenset(self.held), sources=frozenset())
                return Looked(self.hands.look(), held)
            case DropImages():
                gone = self.hands.drop_images(decision)
                self.evicted += len(gone)
                return ImagesDropped(gone)
            case DropTrees():
                return TreesDropped(self.hands.drop_trees(decision))
            case Sweep():
                return self.hands.sweep(decision)
            case Tell():
                return None

    @invariant()
    def every_image_is_whole(self) -> None:
        for digest, made in self.known.items():
            if self.store.blob_size(digest) is not None:
                if made.base is not None:
                    assert self.store.blob_size(TREE_DIGESTS[made.base]) is not None, digest
                for n in made.objects:
                    path = self.root / "chunks" / FRAMES[n].digest[:2] / FRAMES[n].digest
                    assert path.exists(), (digest, n)

    @invariant()
    def what_is_held_is_there(self) -> None:
        assert all(self.store.blob_size(digest) is not None for digest in self.held)


def test_no_image_loses_a_chunk_whoever_builds_reads_or_dies() -> None:
    run_state_machine_as_test(
        Directory, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )
