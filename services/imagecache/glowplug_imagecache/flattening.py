"""An image's layers, read into one tree, become a flattened manifest whose objects are in the store.

Only what the finished tree shows is stored: content that later layers hide is dropped with the spool. The
same layers give the same manifest, whoever reads them, unless packs of another image are used again.
Blocks: callers run it in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Final

import blake3
import msgspec
from glowplug_contracts.errors import InvalidRequestError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import BATCH_BYTES_MAX, BATCH_CHUNKS_MAX
from glowplug_contracts.packing import Pack, SmallFile, plan_packs
from glowplug_contracts.tree_rules import check_tree
from glowplug_contracts.trees import (
    BLOCK_BYTES,
    PACKED_FILE_BYTES_MAX,
    PIECE_BYTES,
    AnyEntry,
    Directory,
    Fifo,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Run,
    StoredObject,
    Symlink,
    Xattr,
    encode_tree,
)

from glowplug_imagecache.known_packs import known_packs
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.layers.members import Path, Put
from glowplug_imagecache.layers.reading import read_layers
from glowplug_imagecache.layers.tree import Entry, Tree
from glowplug_imagecache.metering import Contents, Counted, Meter, bytes_of
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.spool import Spool
from glowplug_imagecache.store import Store

TRIES_MAX: Final = 3
_NANOSECONDS: Final = 1_000_000_000
_ZEROS: Final = bytes(PIECE_BYTES)


class Flat(msgspec.Struct, frozen=True, kw_only=True):
    """A stored tree. Attributes: left_out: what layers have and no container gets, and how often."""

    tree: FlatTree
    digest: Digest
    left_out: dict[str, int]


def flatten_layers(
    store: Store,
    layers: Sequence[tuple[FilePath, str]],
    bounds: Bounds | None = None,
    check: Callable[[], None] = lambda: None,
    like: Sequence[Digest] = (),
    meter: Meter | None = None,
) -> Flat:
    """Return the tree that layers make, with everything that it names in the store.

    Args:
        layers: file and digest of the uncompressed tar, lowest first.
        check: called now and then; what it raises ends the work.
        like: trees whose packs may be used again, so that what is stored is what is new.
        meter: is kept at how much of the tree's content was read.

    Raises: InvalidRequestError (layer.corrupt, layer.refused, layer.too_large), UnavailableError (the
        disk is full, or evicts all the time).
    """
    with Spool(store, check) as spool:
        tree = read_layers(layers, spool, bounds)
        if meter is None:
            return flatten_tree(store, spool, tree, check, like)
        meter.total = bytes_of(tree)
        return flatten_tree(store, Counted(spool, meter.at), tree, check, like)


def flatten_tree(
    store: Store,
    contents: Contents,
    tree: Tree,
    check: Callable[[], None] = lambda: None,
    like: Sequence[Digest] = (),
) -> Flat:
    """Return a tree as a manifest, with everything that it names in the store.

    `like`, what it raises: as `flatten_layers`.
    """
    flat = _flatten(store, contents, tree, check, like)
    try:
        check_tree(flat)
    except InvalidRequestError as err:
        raise InvalidRequestError("layer.refused", f"the image can't be kept: {err}") from err
    return Flat(tree=flat, digest=store.add_blob(encode_tree(flat)), left_out=dict(tree.left_out))


def _flatten(
    store: Store, contents: Contents, tree: Tree, check: Callable[[], None], like: Sequence[Digest]
) -> FlatTree:
    """Store everything that a tree shows.

    That may take longer than eviction's grace, and no manifest names it yet. So all of it is asked for once more
    at the end, which keeps it for a grace from then on, and what was evicted meanwhile is stored again.
    """
    for _ in range(TRIES_MAX):
        flattener = _Flattener(store, contents, check)
        flattener.place(tree)
        flat = flattener.finish(known_packs(store, like, check))
        names = [Digest(each.digest.hex()) for each in (*flat.packs, *flat.pieces)]
        if not store.missing(names):
            return flat
    raise UnavailableError(
        "platform.unavailable",
        "what a pull stores is evicted while it is stored; set GLOWPLUG_IMAGECACHE_EVICT_GRACE_S higher",
    )


class _Flattener:
    """Puts entries into the order of a manifest and stores their contents."""

    def __init__(self, store: Store, contents: Contents, check: Callable[[], None]) -> None:
        self._contents = contents
        self._check = check
        self._shelf = _Shelf(store)
        self._entries: list[AnyEntry] = []
        # Of small files, which get their packs when all of them are known: entry -> content.
        self._small: dict[int, SmallFile] = {}
        self._small_contents: dict[bytes, int] = {}
        self._pieces: dict[bytes, int] = {}
        self._piece_list: list[StoredObject] = []

    def place(self, tree: Tree) -> None:
        """Take every entry, directory by directory."""
        inside: dict[Path, list[Entry]] = {}
        for entry in tree.entries():
            inside.setdefault(entry.path[:-1], []).append(entry)
        # Several paths of one file: the first in a manifest's order is the file, the others lead to it.
        first: dict[Path, int] = {}
        waiting: list[tuple[int, Path]] = [(0, ())]
        self._entries.append(Directory(0, b"", *_attributes(tree.root)))
        for parent, folder in waiting:
            for entry in inside.pop(folder, ()):
                self._check()
                number = len(self._entries)
                if entry.links > 1:
                    target = first.setdefault(entry.same_as or entry.path, number)
                    if target != number:
                        self._entries.append(HardLink(parent, entry.path[-1], target))
                        continue
                self._entries.append(self._entry(number, parent, entry.path[-1], entry.about))
                if entry.about.kind == "dir":
                    waiting.append((number, entry.path))

    def finish(self, known: Sequence[Pack]) -> FlatTree:
        """Store what is left, and return the tree.

        Args:
            known: packs that are in the store, with their digests.
        """
        packs: dict[bytes, StoredObject] = {}
        numbers: dict[bytes, int] = {}
        places: dict[bytes, tuple[StoredObject, int]] = {}
        for pack in plan_packs(list(self._small.values()), known):
            self._check()
            stored = self._store_pack(pack)
            for member, block in pack.blocks():
                places.setdefault(member.digest, (stored, block))
        for index, small in self._small.items():
            stored, block = places[small.digest]
            number = numbers.setdefault(stored.digest, len(numbers))
            packs.setdefault(stored.digest, stored)
            entry = self._entries[index]
            assert isinstance(entry, PackedFile)  # noqa: S101 - what `_small` is for
            self._entries[index] = msgspec.structs.replace(entry, pack=number, block=block)
        self._shelf.flush()
        return FlatTree(
            entries=tuple(self._entries),
            packs=tuple(packs.values()),
            pieces=tuple(self._piece_list),
        )

    def _entry(self, number: int, parent: int, name: bytes, about: Put) -> AnyEntry:
        attributes = _attributes(about)
        if about.kind == "dir":
            return Directory(parent, name, *attributes)
        if about.kind == "link":
            return Symlink(parent, name, *attributes, about.target)
        if about.kind == "fifo":
            return Fifo(parent, name, *attributes)
        assert about.kind == "file", about.kind  # noqa: S101 - a tree has nothing else
        size = about.size
        if size > PACKED_FILE_BYTES_MAX:
            return File(parent, name, *attributes, size, self._runs(about))
        data = self._contents.read(about.content, 0, size)
        if data == _ZEROS[:size]:
            return File(parent, name, *attributes, size, ())
        small = SmallFile(blake3.blake3(data).digest(), size)
        self._small[number] = small
        self._small_contents.setdefault(small.digest, about.content)
        return PackedFile(parent, name, *attributes, size, 0, 0)

    def _runs(self, about: Put) -> tuple[Run, ...]:
        runs: list[Run] = []
        for number in _pieces_with_data(about):
            self._check()
            offset = number * PIECE_BYTES
            data = self._contents.read(about.content, offset, min(PIECE_BYTES, about.size - offset))
            if data == (_ZEROS if len(data) == PIECE_BYTES else bytes(len(data))):
                continue
            first = self._piece(data)
            last = runs[-1] if runs else Run(0, 0, 0)
            if runs and last.at + last.count == number and last.first + last.count == first:
                runs[-1] = Run(last.at, last.first, last.count + 1)
            else:
                runs.append(Run(number, first, 1))
        return tuple(runs)

    def _piece(self, data: bytes) -> int:
        stored = self._shelf.add(data)
        number = self._pieces.setdefault(stored.digest, len(self._piece_list))
        if number == len(self._piece_list):
            self._piece_list.append(stored)
        return number

    def _store_pack(self, pack: Pack) -> StoredObject:
        if pack.digest:  # it is stored already
            return StoredObject(pack.digest, pack.size)
        return self._shelf.add(self._pack_bytes(pack))

    def _pack_bytes(self, pack: Pack) -> bytes:
        data = bytearray()
        for member in pack.members:
            data += bytes(-len(data) % BLOCK_BYTES)
            data += self._contents.read(self._small_contents[member.digest], 0, member.size)
        return bytes(data)


class _Shelf:
    """Stores objects in batches; what the store has is neither compressed nor written again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[Digest, bytes] = {}
        self._bytes = 0

    def add(self, data: bytes) -> StoredObject:
        """Take an object; it is stored at the latest after `flush`."""
        digest = blake3.blake3(data).digest()
        name = Digest(digest.hex())
        if name not in self._waiting:
            self._waiting[name] = data
            self._bytes += len(data)
        if self._bytes >= BATCH_BYTES_MAX or len(self._waiting) >= BATCH_CHUNKS_MAX:
            self.flush()
        return StoredObject(digest, len(data))

    def flush(self) -> None:
        """Store what waits."""
        missing = self._store.missing(list(self._waiting))
        self._store.put_chunks([frame_of(self._waiting[name]) for name in missing])
        self._waiting.clear()
        self._bytes = 0


def _pieces_with_data(about: Put) -> Iterator[int]:
    """Yield the numbers of the pieces that are not wholly in holes, in order."""
    regions = ((0, about.size),) if about.regions is None else about.regions
    after = 0
    for offset, size in regions:
        if size == 0:
            continue
        begin, end = max(after, offset // PIECE_BYTES), -(-(offset + size) // PIECE_BYTES)
        yield from range(begin, end)
        after = max(after, end)


def _attributes(about: Put) -> tuple[int, int, int, int, int, tuple[Xattr, ...]]:
    seconds, nanoseconds = divmod(about.mtime_ns, _NANOSECONDS)
    xattrs = tuple(Xattr(name, value) for name, value in sorted(about.xattrs.items()))
    return (about.mode, about.uid, about.gid, seconds, nanoseconds, xattrs)
