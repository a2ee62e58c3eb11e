"""What a flattened manifest may say: `decode_tree` returns a tree only if all of it holds.

Manifests come over a network and may be hostile; what is made of them is parsed by the kernel and read
by containers. So every name, number and size is checked here, once, in one pass over the entries, and
what uses a tree relies on it. There is one way to say a thing (first use first, runs as long as they can be,
names sorted), so equal trees have equal bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from glowplug_contracts.codec import decode
from glowplug_contracts.errors import ContractError, InvalidRequestError
from glowplug_contracts.manifests import (
    DEPTH_MAX,
    ENTRIES_MAX,
    MANIFEST_BYTES_MAX,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
)
from glowplug_contracts.trees import (
    BLOCK_BYTES,
    PACKED_FILE_BYTES_MAX,
    PIECE_BYTES,
    TREE_FORMAT,
    XATTRS_MAX,
    AnyEntry,
    Directory,
    Entry,
    File,
    FlatTree,
    HardLink,
    PackedFile,
    Run,
    StoredObject,
    Symlink,
)

# What ext4 can hold, with this block. It also bounds the maps of files that are nothing but holes.
FILE_BYTES_MAX = 16 * 1024**4
# A map has eight bytes for each piece of a file with holes or strewn pieces; this many are 32 MiB.
MAPPED_PIECES_MAX = 4 * 1024 * 1024
PACK_BYTES_MAX = PIECE_BYTES
DIGEST_BYTES = 32
# Linux says no to longer ones; the last byte is the zero that ends them.
TARGET_BYTES_MAX = PATH_BYTES_MAX - 1
MODE_BITS = 0o7777
LINK_MODE = 0o777
# The highest number of all means "nobody" to chown.
OWNER_MAX = 2**32 - 2
TIME_S_MAX = 2**63 - 1
NANOSECONDS = 1_000_000_000
# Names and values of one entry together; Linux lists no more names than this, and EROFS has 16 bits.
XATTR_BYTES_MAX = 60 * 1024
XATTR_PREFIXES = (b"user.", b"trusted.", b"security.")
XATTR_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")

ROOT_NAME = b""


def decode_tree(data: bytes) -> FlatTree:
    """Return the tree in `data`, checked. Raises: ContractError if it is none, or breaks a rule."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ContractError("platform.contract", f"a tree's manifest of {len(data)} bytes")
    tree = decode(data, FlatTree, "msgpack")
    try:
        check_tree(tree)
    except InvalidRequestError as err:
        raise ContractError("platform.contract", f"no manifest of a tree: {err}") from err
    return tree


def check_tree(tree: FlatTree) -> None:
    """Check every rule. Raises: InvalidRequestError (request.invalid) naming the first path at fault."""
    entries = tree.entries
    if tree.format != TREE_FORMAT:
        raise _bad(b"", f"is a tree of format {tree.format}; this release reads {TREE_FORMAT}")
    if len(entries) > ENTRIES_MAX:
        raise _bad(b"", f"is one of {len(entries)} entries; a tree may have {ENTRIES_MAX}")
    _check_root(entries)
    _check_places(entries)
    _check_objects(tree.packs, PACK_BYTES_MAX)
    _check_objects(tree.pieces, PIECE_BYTES)
    _Contents(tree).check()


def check_name(name: bytes) -> None:
    """Check the name of one entry. Raises: InvalidRequestError."""
    if not 0 < len(name) <= NAME_BYTES_MAX:
        raise _bad(name, f"has a name of {len(name)} bytes; 1 to {NAME_BYTES_MAX} are possible")
    if b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise _bad(name, "is no name of a file")


def path_of(entries: Sequence[AnyEntry], index: int) -> bytes:
    """Return the path of an entry from the root, for a message."""
    names: list[bytes] = []
    while 0 < index < len(entries):
        names.append(entries[index].name)
        parent = entries[index].parent
        index = parent if parent < index else 0
    return b"/".join(reversed(names))


def _check_root(entries: Sequence[AnyEntry]) -> None:
    root = entries[0] if entries else None
    if not isinstance(root, Directory) or root.parent != 0 or root.name != ROOT_NAME:
        raise _bad(b"", "is not the root directory, and has to be the first entry")
    _check_attributes(root)


def _check_places(entries: Sequence[AnyEntry]) -> None:
    """Check names, parents, order and attributes of everything but the root."""
    depths = [0] * len(entries)
    lengths = [0] * len(entries)
    before, before_name = 0, b""
    for index, entry in enumerate(entries):
        if index == 0:
            continue
        parent, name = entry.parent, entry.name
        try:
            check_name(name)
            if not before <= parent < index:
                raise _bad(name, "stands before its directory, or out of order")
            if parent == before and name <= before_name:
                raise _bad(name, "is there twice, or out of order")
            if type(entries[parent]) is not Directory:
                raise _bad(name, "is not inside a directory")
            depths[index] = depth = depths[parent] + 1
            lengths[index] = length = lengths[parent] + 1 + len(name)
            if depth > DEPTH_MAX or length > PATH_BYTES_MAX:
                raise _bad(
                    name, f"lies over {DEPTH_MAX} directories or {PATH_BYTES_MAX} bytes deep"
                )
            if isinstance(entry, HardLink):
                _check_hard_link(entries, index, entry)
            else:
                _check_attributes(entry)
        except InvalidRequestError as err:
            path = path_of(entries, index)
            raise InvalidRequestError(err.code, f"{err} ({path[:200]!r})") from err
        before, before_name = parent, name


def _check_hard_link(entries: Sequence[AnyEntry], index: int, entry: HardLink) -> None:
    if not 0 <= entry.target < index:
        raise _bad(entry.name, "is a hard link to nothing before it")
    if isinstance(entries[entry.target], Directory | HardLink):
        raise _bad(entry.name, "is a hard link to a directory, or to a hard link")


def _check_attributes(entry: Entry) -> None:
    if not 0 <= entry.mode <= MODE_BITS:
        raise _bad(entry.name, f"has mode {entry.mode:o}")
    if not (0 <= entry.uid <= OWNER_MAX and 0 <= entry.gid <= OWNER_MAX):
        raise _bad(entry.name, f"belongs to user {entry.uid}, group {entry.gid}")
    if not (-TIME_S_MAX <= entry.mtime_s <= TIME_S_MAX and 0 <= entry.mtime_ns < NANOSECONDS):
        raise _bad(entry.name, f"was written at {entry.mtime_s} s and {entry.mtime_ns} ns")
    if entry.xattrs:
        _check_xattrs(entry)
    if isinstance(entry, Symlink):
        if entry.mode != LINK_MODE:
            raise _bad(entry.name, f"is a symbolic link of mode {entry.mode:o}; all have 777")
        if not 0 < len(entry.target) <= TARGET_BYTES_MAX or b"\0" in entry.target:
            raise _bad(entry.name, f"links to {entry.target[:200]!r}")


def _check_xattrs(entry: Entry) -> None:
    if len(entry.xattrs) > XATTRS_MAX:
        raise _bad(entry.name, f"has over {XATTRS_MAX} extended attributes")
    if sum(len(each.name) + len(each.value) for each in entry.xattrs) > XATTR_BYTES_MAX:
        raise _bad(entry.name, f"has over {XATTR_BYTES_MAX} bytes of extended attributes")
    for each in entry.xattrs:
        known = each.name in XATTR_ACLS or (
            each.name.startswith(XATTR_PREFIXES) and each.name not in XATTR_PREFIXES
        )
        if not known or b"\0" in each.name or len(each.name) > NAME_BYTES_MAX:
            raise _bad(entry.name, f"has an extended attribute {each.name[:200]!r}")
    for each, after in itertools.pairwise(entry.xattrs):
        if each.name >= after.name:
            raise _bad(entry.name, f"has {after.name!r} twice, or out of order")


def _check_objects(objects: Sequence[StoredObject], size_max: int) -> None:
    for each in objects:
        if len(each.digest) != DIGEST_BYTES or not 0 < each.size <= size_max:
            raise _bad(b"", f"has an object of {each.size} bytes named by {len(each.digest)}")
    if len({each.digest for each in objects}) != len(objects):
        raise _bad(b"", "names an object twice")


class _Contents:
    """Checks that files and objects fit each other, in the order of first use."""

    def __init__(self, tree: FlatTree) -> None:
        self._tree = tree
        self._packs_seen = 0
        self._pieces_seen = 0
        self._mapped = 0
        short = (each.size != PIECE_BYTES for each in tree.pieces)
        # How many of the pieces before a number are shorter than a piece of the middle of a file.
        self._short_before = [0, *itertools.accumulate(short)]

    def check(self) -> None:
        for index, entry in enumerate(self._tree.entries):
            if type(entry) is PackedFile:
                fault = self._fault_of_packed(entry)
            elif type(entry) is File:
                fault = self._fault_of_file(entry)
            else:
                continue
            if fault:
                raise _bad(path_of(self._tree.entries, index), fault)
        if (self._packs_seen, self._pieces_seen) != (len(self._tree.packs), len(self._tree.pieces)):
            raise _bad(b"", "names objects that no file uses")

    def _fault_of_packed(self, entry: PackedFile) -> str:
        if not 0 < entry.size <= PACKED_FILE_BYTES_MAX:
            return f"has {entry.size} bytes, which is nothing for a pack"
        if not 0 <= entry.pack <= self._packs_seen or entry.pack >= len(self._tree.packs):
            return f"is in pack {entry.pack}, which is not there or out of order"
        self._packs_seen = max(self._packs_seen, entry.pack + 1)
        room = self._tree.packs[entry.pack].size - entry.block * BLOCK_BYTES
        if entry.block < 0 or entry.size > room:
            return f"lies outside its pack, at block {entry.block}"
        return ""

    def _fault_of_file(self, entry: File) -> str:
        if not 0 <= entry.size <= FILE_BYTES_MAX:
            return f"has {entry.size} bytes"
        if entry.runs and entry.size <= PACKED_FILE_BYTES_MAX:
            return "is small, and not in a pack"
        before = Run(at=0, first=-2, count=0)
        for run in entry.runs:
            fault = _fault_of_place(entry, before, run) or self._fault_of_objects(entry, run)
            if fault:
                return fault
            before = run
        pieces = _pieces_of(entry)
        if entry.runs and entry.runs[0].count != pieces:
            self._mapped += pieces
        if self._mapped > MAPPED_PIECES_MAX:
            return f"is one too many with holes: over {MAPPED_PIECES_MAX} pieces are to be mapped"
        return ""

    def _fault_of_objects(self, entry: File, run: Run) -> str:
        end = run.first + run.count
        if not 0 <= run.first <= self._pieces_seen or end > len(self._tree.pieces):
            return f"needs object {run.first}, which is not there or out of order"
        self._pieces_seen = max(self._pieces_seen, end)
        last = run.at + run.count - 1
        size = self._tree.pieces[end - 1].size
        if size != min(PIECE_BYTES, entry.size - last * PIECE_BYTES):
            return f"has {size} bytes for piece {last}"
        if self._short_before[end - 1] != self._short_before[run.first]:
            return f"has a short piece in its middle, after piece {run.at}"
        return ""


def _fault_of_place(entry: File, before: Run, run: Run) -> str:
    end = before.at + before.count
    if run.count < 1 or run.at < end or run.at + run.count > _pieces_of(entry):
        return f"has runs that overlap or reach outside, at piece {run.at}"
    if run.at == end and run.first == before.first + before.count:
        return f"has a run that goes on as another one, at piece {run.at}"
    return ""


def _pieces_of(entry: File) -> int:
    return -(-entry.size // PIECE_BYTES)


def _bad(path: bytes, why: str) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"path {path[:200]!r} {why}")
