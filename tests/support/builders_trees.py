"""Trees of every odd kind: drawn by hypothesis, as manifests and as files on a disk.

One drawing serves both: `flat_tree` makes the manifest without a disk, `write_drawing` makes the files that
`flatten` reads and the kernel's answer is compared with.
"""

# ruff: noqa: PTH101, PTH102, PTH114, PTH123, PTH211 - names are bytes here, which are no text

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
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
    Socket,
    StoredObject,
    Symlink,
    Xattr,
)
from hypothesis import strategies as st

from tests.support.erofs_reader import Stretch


class About(msgspec.Struct, frozen=True):
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    mtime_ns: int = 0
    xattrs: tuple[Xattr, ...] = ()


class Leaf(msgspec.Struct, frozen=True):
    """What is no directory. `parts`: seeds of pieces, None is a hole; `last`: bytes of the last one."""

    kind: str
    about: About = About()
    parts: tuple[int | None, ...] = ()
    last: int = 0
    target: bytes = b"x"
    link: int = 0

    @property
    def size(self) -> int:
        return (len(self.parts) - 1) * PIECE_BYTES + self.last if self.parts else 0


class Folder(msgspec.Struct, frozen=True):
    children: dict[bytes, Leaf | Folder]
    about: About = About(mode=0o755)


ODD_NAMES = [
    b"-rf",
    b"...",
    b" ",
    b"\n",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    b"!",
    b"a",
    b"b",
    b"~",
    b"\x01",
]
NAMES = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.binary(min_size=1, max_size=255),
    st.integers(200, 255).map(lambda length: b"n" * length),
).filter(lambda name: name not in {b".", b".."} and not {0, 47} & set(name))
XATTRS = st.dictionaries(
    st.sampled_from([b"user.a", b"user.b", b"trusted.c", b"security.d", b"user.\xff" + b"x" * 240]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([(b"same", 1), (b"", 1), (b"v", 900), (b"w", 9000)]).map(
            lambda drawn: drawn[0] * drawn[1]
        ),
    ),
    max_size=4,
).map(lambda found: tuple(Xattr(name, found[name]) for name in sorted(found)))
ABOUTS = st.builds(
    About,
    mode=st.integers(0, 0o7777),
    uid=st.sampled_from([0, 1, 0xFFFF, 0x10000, 2**32 - 2]),
    gid=st.sampled_from([0, 5, 0xFFFF, 0x10000]),
    mtime_s=st.sampled_from([0, -1, 1_700_000_000, 2**31, 2**33]),
    mtime_ns=st.sampled_from([0, 1, 999_999_999]),
    xattrs=XATTRS,
)
SMALL = st.builds(
    Leaf,
    kind=st.just("file"),
    about=ABOUTS,
    parts=st.integers(0, 3).map(lambda seed: (seed or None,)),
    last=st.sampled_from([1, 4095, 4096, 4097, 20_000, PACKED_FILE_BYTES_MAX]),
)
LARGE = st.builds(
    Leaf,
    kind=st.just("file"),
    about=ABOUTS,
    parts=st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=1, max_size=5).map(tuple),
    last=st.sampled_from([PACKED_FILE_BYTES_MAX + 1, 40_000, PIECE_BYTES]),
)
OTHER = st.builds(
    Leaf,
    kind=st.sampled_from(["file", "link", "fifo", "socket", "hard", "hard"]),
    about=ABOUTS,
    target=st.one_of(
        st.sampled_from([b"/etc/passwd", b"../..", b"t" * 2048, b"t" * 2049, b"t" * 4095]),
        st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"\0", b"\xfe")),
    ),
    link=st.integers(0, 50),
)
LEAVES = st.one_of(SMALL, LARGE, OTHER)


def _folders(inner: st.SearchStrategy[Leaf | Folder]) -> st.SearchStrategy[Folder]:
    few = st.dictionaries(NAMES, inner, max_size=6)
    return st.builds(Folder, children=few, about=ABOUTS)


FOLDERS = _folders(st.recursive(LEAVES, _folders, max_leaves=25))


def piece_bytes(seed: int, size: int) -> bytes:
    """Return bytes of which none looks like another seed's."""
    return hashlib.shake_128(b"%d" % seed).digest(997) * (size // 997) + b"\1" * (size % 997)


class Laid(msgspec.Struct):
    """A manifest, and where each file's content must lie (block, blocks, device, start)."""

    tree: FlatTree
    contents: dict[bytes, tuple[Stretch, ...]]
    paths: list[bytes]


def flat_tree(root: Folder, first_block: int = 0) -> Laid:
    """Return the manifest of a drawing. Each small content is a pack of its own."""
    return _Layer(first_block).lay(root)


class _Layer:
    def __init__(self, first_block: int) -> None:
        self.entries: list[AnyEntry] = []
        self.paths: list[bytes] = []
        self.packs: dict[StoredObject, int] = {}
        self.pieces: dict[StoredObject, int] = {}
        self.contents: dict[bytes, tuple[Stretch, ...]] = {}
        self.first_block = first_block

    def lay(self, root: Folder) -> Laid:
        queue: list[tuple[int, bytes, bytes, Leaf | Folder]] = [(0, b"", b"", root)]
        while queue:
            parent, path, name, node = queue.pop(0)
            index = len(self.entries)
            self.paths.append(path)
            about = tuple(getattr(node.about, field) for field in node.about.__struct_fields__)
            if isinstance(node, Folder):
                self.entries.append(Directory(parent, name, *about))
                queue += [
                    (index, path + b"/" + child if path else child, child, node.children[child])
                    for child in sorted(node.children)
                ]
            else:
                self.entries.append(self.leaf(parent, path, name, node, about))
        tree = FlatTree(
            entries=tuple(self.entries), packs=tuple(self.packs), pieces=tuple(self.pieces)
        )
        return Laid(tree, self.contents, self.paths)

    def leaf(self, parent: int, path: bytes, name: bytes, leaf: Leaf, about: tuple) -> AnyEntry:
        if leaf.kind == "hard":
            linked = [
                number
                for number, entry in enumerate(self.entries)
                if not isinstance(entry, Directory | HardLink)
            ]
            if linked:
                return HardLink(parent, name, linked[leaf.link % len(linked)])
        if leaf.kind == "link":
            return Symlink(parent, name, 0o777, *about[1:], leaf.target)
        if leaf.kind == "socket":
            return Socket(parent, name, *about)
        if leaf.kind != "file":
            return Fifo(parent, name, *about)
        if 0 < leaf.size <= PACKED_FILE_BYTES_MAX and leaf.parts[0]:
            stored = stored_object(leaf.parts[0], leaf.size)
            number = self.packs.setdefault(stored, len(self.packs))
            start = self.first_block + sum(blocks(each.size) for each in list(self.packs)[:number])
            self.contents[path] = (Stretch(0, blocks(leaf.size), 1, start),)
            return PackedFile(parent, name, *about, leaf.size, number, 0)
        return File(parent, name, *about, leaf.size, self.runs(path, leaf))

    def runs(self, path: bytes, leaf: Leaf) -> tuple[Run, ...]:
        runs: list[Run] = []
        stretches: list[Stretch] = []
        for at, seed in enumerate(leaf.parts):
            if not seed:
                continue
            size = leaf.last if at == len(leaf.parts) - 1 else PIECE_BYTES
            number = self.pieces.setdefault(stored_object(seed, size), len(self.pieces))
            start = self.first_block + sum(blocks(each.size) for each in list(self.pieces)[:number])
            last = runs[-1] if runs else Run(-1, -1, 0)
            if (last.at + last.count, last.first + last.count) == (at, number):
                runs[-1] = Run(last.at, last.first, last.count + 1)
                stretches[-1] = msgspec.structs.replace(
                    stretches[-1], blocks=stretches[-1].blocks + blocks(size)
                )
            else:
                runs.append(Run(at, number, 1))
                stretches.append(Stretch(at * PIECE_BYTES // BLOCK_BYTES, blocks(size), 2, start))
        if stretches:
            self.contents[path] = tuple(stretches)
        return tuple(runs)


def stored_object(seed: int, size: int) -> StoredObject:
    return StoredObject(hashlib.sha256(b"%d %d" % (seed, size)).digest(), size)


def blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def write_drawing(root: Folder, top: Path) -> None:
    """Make the drawing's files. What a file system refuses (attributes of a pipe) is left out."""
    files: list[bytes] = []
    folders: list[tuple[bytes, About]] = []
    _write_folder(root, os.fsencode(top), files, folders)
    for path, about in reversed(folders):
        _dress(path, about)


def _write_folder(
    folder: Folder, path: bytes, files: list[bytes], folders: list[tuple[bytes, About]]
) -> None:
    os.mkdir(path)
    folders.append((path, folder.about))
    for name, node in folder.children.items():
        inner = path + b"/" + name
        if isinstance(node, Folder):
            _write_folder(node, inner, files, folders)
        elif node.kind == "hard" and files:
            os.link(files[node.link % len(files)], inner, follow_symlinks=False)
        else:
            _write_leaf(node, inner)
            _dress(inner, node.about)
            files.append(inner)


def _write_leaf(leaf: Leaf, path: bytes) -> None:
    if leaf.kind == "link":
        os.symlink(leaf.target, path)
    elif leaf.kind == "socket":
        bind_socket(path)
    elif leaf.kind != "file":
        os.mkfifo(path)
    else:
        with open(path, "wb") as file:
            for at, seed in enumerate(leaf.parts):
                if seed:
                    size = leaf.last if at == len(leaf.parts) - 1 else PIECE_BYTES
                    os.pwrite(file.fileno(), piece_bytes(seed, size), at * PIECE_BYTES)
            file.truncate(leaf.size)


def bind_socket(path: bytes) -> None:
    """Make a socket at a path of any length: the address of one may have 107 bytes."""
    directory, name = os.path.split(path)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
            made.bind(b"/proc/self/fd/%d/new socket" % folder)
        os.rename(b"new socket", name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _dress(path: bytes, about: About) -> None:
    for xattr in about.xattrs:
        with contextlib.suppress(OSError):
            os.setxattr(path, xattr.name, xattr.value, follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(path, about.uid, about.gid, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, about.mode | (0 if os.geteuid() == 0 else 0o700))
    mtime_ns = about.mtime_s * 1_000_000_000 + about.mtime_ns
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def entries_of(*entries: AnyEntry) -> tuple[AnyEntry, ...]:
    """Return entries after a root of their own."""
    return (Directory(0, b"", 0o755, 0, 0, 0, 0, ()), *entries)


def a_tree(
    *entries: AnyEntry, packs: Iterable[StoredObject] = (), pieces: Iterable[StoredObject] = ()
) -> FlatTree:
    return FlatTree(entries=entries_of(*entries), packs=tuple(packs), pieces=tuple(pieces))
