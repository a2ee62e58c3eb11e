"""What a flattened manifest may not say, and that there is one way to say a thing."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts import tree_rules, trees
from glowplug_contracts.errors import ContractError, InvalidRequestError
from glowplug_contracts.tree_rules import check_name, check_tree, decode_tree
from glowplug_contracts.trees import (
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

from tests.support.builders_trees import a_tree

ABOUT = (0o644, 0, 0, 0, 0, ())
PACK = StoredObject(b"p" * 32, 8192)
PIECE = StoredObject(b"1" * 32, PIECE_BYTES)
NEXT = StoredObject(b"2" * 32, PIECE_BYTES)
SHORT = StoredObject(b"3" * 32, 100)


def a_pipe(name: bytes = b"a", parent: int = 0, **about: object) -> Fifo:
    return msgspec.structs.replace(Fifo(parent, name, *ABOUT), **about)


def a_folder(name: bytes, parent: int = 0) -> Directory:
    return Directory(parent, name, *ABOUT)


def packed(name: bytes = b"a", size: int = 100, pack: int = 0, block: int = 0) -> PackedFile:
    return PackedFile(0, name, *ABOUT, size, pack, block)


def cut(size: int, *runs: Run, name: bytes = b"a") -> File:
    return File(0, name, *ABOUT, size, runs)


def link(name: bytes = b"l", target: bytes = b"t", mode: int = 0o777) -> Symlink:
    return Symlink(0, name, mode, 0, 0, 0, 0, (), target)


GOOD = a_tree(
    cut(2 * PIECE_BYTES + 100, Run(0, 0, 3)),
    packed(b"b"),
    a_folder(b"c"),
    link(b"d", b"/anywhere"),
    cut(5 * PIECE_BYTES, Run(0, 1, 1), Run(3, 0, 2), name=b"e"),
    packed(b"f", block=1),
    HardLink(0, b"g", 4),
    a_pipe(b"h", parent=3),
    packs=[PACK],
    pieces=[PIECE, NEXT, SHORT],
)


# As the first release wrote it. Manifests are kept for years: this stays, whatever comes.
FIRST_BYTES = bytes.fromhex(
    "84a6666f726d617401a7656e74726965739999a16400c400cd01ed00000000909ba16600c40161cd01a4000000"
    "0090ce0020006491930000039ca17000c40162cd01a4000000009064000099a16400c40163cd01a40000000090"
    "9aa16c00c40164cd01ff0000000090c4092f616e7977686572659ba16600c40165cd01a40000000090ce005000"
    "009293000101930300029ca17000c40166cd01a4000000009064000194a16800c401670499a16e03c40168cd01"
    "a40000000090a57061636b739192c4207070707070707070707070707070707070707070707070707070707070"
    "707070cd2000a67069656365739392c42031313131313131313131313131313131313131313131313131313131"
    "31313131ce0010000092c4203232323232323232323232323232323232323232323232323232323232323232ce"
    "0010000092c420333333333333333333333333333333333333333333333333333333333333333364"
)


def test_takes_a_tree_that_keeps_the_rules() -> None:
    assert decode_tree(encode_tree(GOOD)) == GOOD


def test_reads_and_writes_what_the_first_release_wrote() -> None:
    """Other bytes for the same tree would be another digest: every image would be stored again."""
    assert decode_tree(FIRST_BYTES) == GOOD
    assert encode_tree(GOOD) == FIRST_BYTES


BAD_TREES: dict[str, FlatTree] = {
    "has to be the first": FlatTree(entries=()),
    "root directory": FlatTree(entries=(a_folder(b"x"),)),
    "format 2": msgspec.structs.replace(GOOD, format=2),
    "twice": a_tree(a_pipe(), a_pipe()),
    "out of order": a_tree(a_pipe(b"b"), a_pipe(b"a")),
    "not inside a directory": a_tree(a_pipe(), a_pipe(parent=1)),
    "before its directory": a_tree(a_pipe(parent=1)),
    "nothing before it": a_tree(HardLink(0, b"a", 1)),
    "link to a directory": a_tree(HardLink(0, b"a", 0)),
    "to a hard link": a_tree(a_pipe(), HardLink(0, b"b", 1), HardLink(0, b"c", 2)),
    "mode": a_tree(a_pipe(mode=0o10000)),
    "belongs to user -1": a_tree(a_pipe(uid=-1)),
    "group 4294967295": a_tree(a_pipe(gid=2**32 - 1)),
    "1000000000 ns": a_tree(a_pipe(mtime_ns=1_000_000_000)),
    "all have 777": a_tree(link(mode=0o755)),
    "links to b''": a_tree(link(target=b"")),
    "links to b'a.x00'": a_tree(link(target=b"a\0")),
    "links to b'tttt": a_tree(link(target=b"t" * 4096)),
    "over 200 directories": a_tree(*(a_folder(b"d", number) for number in range(201))),
    "4096 bytes deep": a_tree(*(a_folder(b"d" * 255, number) for number in range(17))),
    "attribute b'system.x'": a_tree(a_pipe(xattrs=(Xattr(b"system.x", b""),))),
    "attribute b'user.'": a_tree(a_pipe(xattrs=(Xattr(b"user.", b""),))),
    "'user.a' twice": a_tree(a_pipe(xattrs=(Xattr(b"user.a", b"1"), Xattr(b"user.a", b"2")))),
    "bytes of extended": a_tree(a_pipe(xattrs=(Xattr(b"user.a", bytes(60 * 1024)),))),
    "over 128 extended": a_tree(
        a_pipe(xattrs=tuple(Xattr(b"user.%03d" % number, b"") for number in range(129)))
    ),
    "names an object twice": a_tree(packed(), packs=[PACK, PACK]),
    "named by 31": a_tree(packed(), packs=[StoredObject(b"p" * 31, 100)]),
    "object of 0 bytes": a_tree(packed(), packs=[StoredObject(b"p" * 32, 0)]),
    "that no file uses": a_tree(packs=[PACK]),
    "nothing for a pack": a_tree(packed(size=32 * 1024 + 1), packs=[PACK]),
    "in pack 1": a_tree(packed(pack=1), packs=[PACK, SHORT]),
    "outside its pack": a_tree(packed(block=1, size=4097), packs=[PACK]),
    "at block -1": a_tree(packed(block=-1), packs=[PACK]),
    "has -1 bytes": a_tree(cut(-1)),
    "has 17592186044417 bytes": a_tree(cut(2**44 + 1)),
    "is small": a_tree(cut(100, Run(0, 0, 1)), pieces=[SHORT]),
    "overlap": a_tree(cut(3 * PIECE_BYTES, Run(1, 0, 1), Run(0, 1, 1)), pieces=[PIECE, NEXT]),
    "reach outside, at piece 1": a_tree(cut(PIECE_BYTES, Run(1, 0, 1)), pieces=[PIECE]),
    "goes on": a_tree(cut(2 * PIECE_BYTES, Run(0, 0, 1), Run(1, 1, 1)), pieces=[PIECE, NEXT]),
    "needs object 1": a_tree(cut(PIECE_BYTES, Run(0, 1, 1)), pieces=[PIECE, NEXT]),
    "needs object -1": a_tree(cut(PIECE_BYTES, Run(0, -1, 1)), pieces=[PIECE]),
    "bytes for piece 0": a_tree(cut(PIECE_BYTES, Run(0, 0, 1)), pieces=[SHORT]),
    "short piece": a_tree(cut(2 * PIECE_BYTES, Run(0, 0, 2)), pieces=[SHORT, NEXT]),
}  # fmt: skip


@pytest.mark.parametrize("words", BAD_TREES)
def test_refuses_what_breaks_a_rule(words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        check_tree(BAD_TREES[words])
    with pytest.raises(ContractError, match=f"{words}|length"):
        decode_tree(encode_tree(BAD_TREES[words]))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0", b"n" * 256])
def test_refuses_names_that_no_directory_can_hold(name: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        check_name(name)


@pytest.mark.parametrize("name", [b"\xff", b"\n", b"...", b"-rf", b"n" * 255])
def test_takes_names_that_are_odd(name: bytes) -> None:
    check_name(name)


def test_says_the_path_of_what_is_wrong() -> None:
    tree = a_tree(a_folder(b"usr"), a_folder(b"bin", 1), a_pipe(b"\xff", parent=2, uid=-1))
    with pytest.raises(InvalidRequestError, match=r"usr/bin/\\xff"):
        check_tree(tree)


def test_bounds_how_many_entries_and_maps_a_tree_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = cut(6 * PIECE_BYTES, Run(1, 0, 1))
    tree = a_tree(sparse, msgspec.structs.replace(sparse, name=b"b"), pieces=[PIECE])
    check_tree(tree)
    monkeypatch.setattr(tree_rules, "MAPPED_PIECES_MAX", 11)
    with pytest.raises(InvalidRequestError, match="one too many with holes"):
        check_tree(tree)
    monkeypatch.setattr(tree_rules, "ENTRIES_MAX", 2)
    with pytest.raises(InvalidRequestError, match="one of 3 entries"):
        check_tree(tree)
    monkeypatch.setattr(tree_rules, "MANIFEST_BYTES_MAX", 10)
    with pytest.raises(ContractError, match="bytes"):
        decode_tree(encode_tree(tree))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc0", b"{}", encode_tree(GOOD)[:-1], encode_tree(GOOD).replace(b"\xa1h", b"\xa1x")],
)
def test_refuses_bytes_that_are_no_tree(data: bytes) -> None:
    """The last one says "x" where an entry says what kind it is: a device, or whatever may come."""
    with pytest.raises(ContractError):
        decode_tree(data)


def test_refuses_tables_that_are_too_long_before_it_reads_them() -> None:
    """The entries are announced and not there: whoever looked for them would complain about that."""
    announced = b"\x81\xa7entries\xdd" + (2_000_000).to_bytes(4, "big")
    with pytest.raises(ContractError, match="length <= 1000000"):
        decode_tree(announced)


def test_holds_nothing_that_has_no_rule() -> None:
    """A field or a kind that somebody adds needs its check: this list is what has been thought of."""
    kinds = {kind: kind.__struct_fields__ for kind in AnyEntry.__args__}
    about = ("parent", "name", "mode", "uid", "gid", "mtime_s", "mtime_ns", "xattrs")
    assert kinds == {
        trees.Directory: about,
        trees.PackedFile: (*about, "size", "pack", "block"),
        trees.File: (*about, "size", "runs"),
        trees.Symlink: (*about, "target"),
        trees.Fifo: about,
        trees.Socket: about,
        trees.HardLink: ("parent", "name", "target"),
    }
