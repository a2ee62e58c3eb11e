"""Layers over one another: what hides what, what a path leads to, and what is refused."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.layers.members import read_member
from glowplug_imagecache.layers.tar import Member
from glowplug_imagecache.layers.tree import Tree

from tests.support.layers import BOUNDS, a_dir, a_hard_link, a_link, a_member, lay, paths

LOWER = [a_dir(b"d/"), a_member(b"d/x"), a_dir(b"d/e"), a_member(b"d/e/y"), a_member(b"f")]


def modes(tree: Tree) -> dict[bytes, int]:
    return {b"/".join(entry.path): entry.about.mode for entry in tree.entries()}


def refusal(*layers: list[Member], bounds: Bounds = BOUNDS) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        lay(*layers, bounds=bounds)
    assert raised.value.code in ("layer.refused", "layer.too_large")
    return str(raised.value)


def test_directories_that_nobody_names_are_implied() -> None:
    tree = lay([a_member(b"./a//b/./c")])
    assert paths(tree) == ["a/", "a/b/", "a/b/c"]
    assert modes(tree)[b"a"] == 0o755


def test_a_directory_over_a_directory_keeps_what_is_in_it() -> None:
    tree = lay(LOWER, [a_dir(b"d", mode=0o711, uid=7)])
    assert paths(tree) == ["d/", "d/e/", "d/e/y", "d/x", "f"]
    about = next(tree.entries()).about
    assert (about.mode, about.uid) == (0o711, 7)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_anything_else_over_a_directory_replaces_it(kind: str) -> None:
    tree = lay(LOWER, [a_member(b"d", kind, linkname=b"f")])
    assert paths(tree) == ["d", "f"]
    assert paths(lay(LOWER, [a_dir(b"f")])) == ["d/", "d/e/", "d/e/y", "d/x", "f/"]


def test_a_whiteout_removes_what_lower_layers_have_only() -> None:
    assert paths(lay(LOWER, [a_member(b".wh.d")])) == ["f"]
    assert paths(lay(LOWER, [a_member(b"d/.wh.x")])) == ["d/", "d/e/", "d/e/y", "f"]
    for layer in (
        [a_member(b"d/new"), a_member(b".wh.d")],
        [a_member(b".wh.d"), a_member(b"d/new")],
    ):
        tree = lay(LOWER, layer)
        assert paths(tree) == ["d/", "d/new", "f"]
        assert modes(tree)[b"d"] == 0o755  # nothing is left of the one that was removed
    assert paths(lay(LOWER, [a_member(b"f"), a_member(b".wh.f")]))[-1] == "f"
    assert paths(lay(LOWER, [a_member(b".wh.nothing"), a_member(b"no/where/.wh.x")])) == paths(
        lay(LOWER)
    )


def test_an_opaque_directory_hides_what_lower_layers_have_in_it() -> None:
    opaque = a_member(b"d/.wh..wh..opq")
    for layer in (
        [opaque, a_member(b"d/new")],
        [a_member(b"d/new"), opaque],
        [a_member(b"d/new"), opaque, opaque],
    ):
        tree = lay(LOWER, layer)
        assert paths(tree) == ["d/", "d/new", "f"]
        assert modes(tree)[b"d"] == 0o700  # the directory itself stays
    inner = lay(LOWER, [a_member(b"d/e/z"), opaque])
    assert paths(inner) == ["d/", "d/e/", "d/e/z", "f"]
    assert paths(lay(LOWER, [a_member(b".wh..wh..opq"), a_member(b"n")])) == ["n"]


def test_a_later_layer_sees_what_is_left() -> None:
    tree = lay(LOWER, [a_member(b".wh.d")], [a_member(b"d/again")], [a_member(b"d/.wh.again")])
    assert paths(tree) == ["d/", "f"]


def test_what_aufs_kept_for_itself_is_left_out() -> None:
    tree = lay([a_member(b".wh..wh.aufs"), a_dir(b".wh..wh.plnk"), a_member(b".wh..wh.plnk/1.2")])
    assert paths(tree) == []
    assert tree.left_out == {"belongs to aufs": 3}


def test_hard_links_are_one_file_until_one_is_replaced() -> None:
    lower = [a_member(b"b", mode=0o4755), a_hard_link(b"a", b"./b"), a_hard_link(b"z/c", b"/a")]
    tree = lay(lower)
    found = {entry.path: entry for entry in tree.entries()}
    assert [entry.links for entry in found.values()] == [3, 3, 1, 3]
    assert found[(b"b",)].same_as == found[(b"z", b"c")].same_as == (b"a",)
    assert found[(b"a",)].about.mode == 0o4755
    replaced = {entry.path: entry for entry in lay(lower, [a_member(b"a")]).entries()}
    assert replaced[(b"a",)].links == 1
    assert replaced[(b"b",)].links == 2
    assert replaced[(b"b",)].about.mode == 0o4755
    gone = {entry.path: entry for entry in lay(lower, [a_member(b".wh.b")]).entries()}
    assert gone[(b"a",)].links == 2


def test_a_hard_link_reaches_lower_layers_and_symbolic_links() -> None:
    tree = lay(
        [a_member(b"f", mode=0o600), a_link(b"s", b"f")],
        [a_hard_link(b"g", b"f"), a_hard_link(b"t", b"s")],
    )
    found = {entry.path: entry for entry in tree.entries()}
    assert found[(b"g",)].same_as == (b"f",)
    assert found[(b"t",)].about.kind == "link"


def test_a_path_through_a_link_of_its_layer_goes_where_that_leads() -> None:
    tree = lay(
        [
            a_dir(b"usr"),
            a_link(b"bin", b"usr/bin"),
            a_member(b"bin/ls"),
            a_link(b"usr/r", b"/run/./x"),
        ]
    )
    assert paths(tree) == ["bin", "usr/", "usr/bin/", "usr/bin/ls", "usr/r"]
    through = lay([a_link(b"a/b", b"../c"), a_member(b"a/b/f"), a_hard_link(b"g", b"a/b/f")])
    assert paths(through) == ["a/", "a/b", "c/", "c/f", "g"]
    opaque = [a_link(b"here", b"d/e"), a_dir(b"d"), a_dir(b"d/e"), a_member(b"here/.wh..wh..opq")]
    assert paths(lay(LOWER, opaque)) == ["d/", "d/e/", "d/x", "f", "here"]


def test_a_link_of_a_lower_layer_is_hidden_by_a_directory_as_in_an_overlay() -> None:
    tree = lay([a_link(b"bin", b"usr/bin"), a_member(b"usr/bin/ls")], [a_member(b"bin/new")])
    assert paths(tree) == ["bin/", "bin/new", "usr/", "usr/bin/", "usr/bin/ls"]
    assert paths(lay([a_member(b"x")], [a_member(b"x/y")])) == ["x/", "x/y"]


def test_the_root_takes_attributes() -> None:
    tree = lay([a_dir(b"./", mode=0o711, uid=9)])
    assert (tree.root.mode, tree.root.uid) == (0o711, 9)
    assert paths(tree) == []


def test_devices_in_dev_are_left_out() -> None:
    tree = lay(
        [a_dir(b"dev"), a_member(b"dev/null", "char", major=1, minor=3), a_member(b"dev/p", "fifo")]
    )
    assert paths(tree) == ["dev/", "dev/p"]
    assert tree.left_out == {"is a device; containers get their own /dev": 1}


def test_attributes_that_speak_to_the_host_are_left_out() -> None:
    xattrs = {
        b"user.note": b"\x00\xff",
        b"security.capability": b"c",
        b"system.posix_acl_access": b"a",
        b"trusted.overlay.opaque": b"y",
        b"user.overlay.opaque": b"y",
        b"security.selinux": b"s",
        b"security.ima": b"i",
    }
    (entry,) = lay([a_member(b"f", xattrs=xattrs)]).entries()
    assert sorted(entry.about.xattrs) == [
        b"security.capability", b"system.posix_acl_access", b"user.note",
    ]  # fmt: skip


HOSTILE = {
    "upwards": ([a_member(b"a/../../etc/passwd")], "upwards"),
    "upwards inside": ([a_member(b"a/../b")], "upwards"),
    "absolute": ([a_member(b"/etc/passwd")], "begins with '/'"),
    "zero byte": ([a_member(b"a\x00b")], "zero byte"),
    "link out": ([a_link(b"a/l", b"../../etc")], "leads out"),
    "link out and in": ([a_link(b"l", b"../x/../y")], "leads out"),
    "link to nothing": ([a_link(b"l", b"")], "target"),
    "endless link": ([a_link(b"l", b"x" * 5000)], "target"),
    "through a link out": (
        [a_link(b"a/b/l", b"/"), a_link(b"m", b"a/b/l/..") , a_member(b"m/f")],
        "leads out",
    ),
    "through a loop": ([a_link(b"l", b"m"), a_link(b"m", b"l"), a_member(b"l/f")], "links"),
    "hard link upwards": ([a_hard_link(b"h", b"../../etc/shadow")], "upwards"),
    "hard link to nothing": ([a_hard_link(b"h", b"etc/shadow")], "not there"),
    "hard link to itself": ([a_hard_link(b"h", b"h")], "not there"),
    "hard link to a directory": ([a_dir(b"d"), a_hard_link(b"d/h", b"d")], "a directory"),
    "hard link to the root": ([a_hard_link(b"h", b"/")], "root"),
    "below a file": ([a_member(b"f"), a_member(b"f/g")], "no directory"),
    "block device": ([a_member(b"disk", "block", major=8)], "is a device"),
    "kernel memory": ([a_member(b"tmp/dev/mem", "char", major=1, minor=1)], "is a device"),
    "overlay's whiteout": ([a_member(b"etc/x", "char")], "is a device"),
    "whiteout of nothing": ([a_member(b"a/.wh.")], "marks nothing"),
    "whiteout of the directory": ([a_member(b"a/.wh..")], "marks nothing"),
    "whiteout upwards": ([a_member(b"a/.wh...")], "marks nothing"),
    "root as a file": ([a_member(b"./")], "must be a directory"),
    "deep": ([a_member(b"a/" * 201 + b"f")], "deep"),
    "long name": ([a_member(b"n" * 256)], "name of over"),
    "long path": ([a_member(b"/".join([b"n" * 200] * 30))], "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("which", HOSTILE)
def test_what_is_hostile_is_refused_with_the_reason(which: str) -> None:
    members, words = HOSTILE[which]
    said = refusal(members)
    assert words in said
    assert len(said) < 600


def test_names_in_errors_can_be_printed() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        read_member(a_member(b"/\x1b[2J\xff\n" + b"x" * 900), BOUNDS)
    assert str(raised.value).isprintable()
    assert "\\x1b" in str(raised.value)


def test_bombs_of_entries_and_implied_directories_are_counted() -> None:
    bounds = Bounds(entries_max=10)
    assert "10 entries" in refusal([a_member(b"%d" % n) for n in range(11)], bounds=bounds)
    assert "10 entries" in refusal([a_member(b"a/" * 10 + b"f")], bounds=bounds)
    assert "10 entries" in refusal(*[[a_member(b"x")] for _ in range(11)], bounds=bounds)
    assert "10 entries" in refusal([a_member(b".wh.x") for _ in range(11)], bounds=bounds)


def test_a_bomb_of_attributes_is_counted() -> None:
    bounds = Bounds(held_bytes_max=1000)
    many = [a_member(b"%d" % n, xattrs={b"user.a": b"x" * 100}) for n in range(10)]
    assert "names and attributes" in refusal(many, bounds=bounds)


def test_links_do_not_lead_deeper_than_paths_may() -> None:
    deep = b"/".join([b"d"] * 150)
    layer = [a_dir(deep), a_link(b"l", deep), a_dir(b"l/" + deep)]
    assert "200 deep" in refusal(layer)


def test_work_through_long_links_is_counted() -> None:
    layer = [a_dir(b"d"), a_link(b"l", b"d/../" * 700 + b"d")]
    layer += [a_member(b"l/%d" % n) for n in range(10)]
    assert "entries" in refusal(layer, bounds=Bounds(entries_max=10_000))
