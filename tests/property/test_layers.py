"""Layers: any tree of changes, any archive, any bytes."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence

from glowplug_contracts.errors import InvalidRequestError
from glowplug_imagecache.layers.tar import Kind, Member
from glowplug_imagecache.layers.tree import Entry, Path, Tree
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.layers import (
    a_dir,
    a_hard_link,
    a_link,
    a_member,
    lay,
    members_of,
    tar_of,
)

IMPLIED = 0o755

# What a layer says, as sets: they have no order, and the result must not depend on one.
Said = tuple[dict[str, tuple[Kind, int]], set[str], set[str]]  # puts, whiteouts, opaque directories

names = st.sampled_from("abc")
some_paths = st.lists(names, min_size=1, max_size=3).map("/".join)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["file", "dir", "dir", "fifo"])
puts = st.dictionaries(some_paths, st.tuples(kinds, st.integers(0, 0o777)), max_size=6)
some_layers: st.SearchStrategy[list[Said]] = st.lists(
    st.tuples(puts, st.sets(some_paths, max_size=3), st.sets(some_paths, max_size=2)), max_size=4
)


def above(path: str) -> list[str]:
    """Return the directories that a path is in."""
    return [path[:at] for at in range(len(path)) if path[at] == "/"]


def overlaid(layers: Sequence[Said]) -> dict[str, tuple[Kind, int]]:
    """Return what an overlay shows: first what each layer hides, then what it has. A model of its own."""
    shown: dict[str, tuple[Kind, int]] = {}
    for puts_, whiteouts, opaque in layers:
        lower = {
            path: about
            for path, about in shown.items()
            if not whiteouts & {path, *above(path)} and not opaque & set(above(path))
        }
        upper = dict(puts_)
        for path in puts_:
            for folder in above(path):
                if folder not in upper:
                    seen = lower.get(folder)
                    upper[folder] = seen if seen and seen[0] == "dir" else ("dir", IMPLIED)
        solid = {path for path, (kind, _) in upper.items() if kind != "dir"}
        kept = {
            path: about
            for path, about in lower.items()
            if not solid & set(above(path))
            and not any(lower[folder][0] != "dir" for folder in above(path) if folder in lower)
        }
        # A directory over a file hides it; that it has nothing below it is the file's nature.
        shown = {**kept, **upper}
    return shown


@given(some_layers, st.randoms(use_true_random=False))
def test_layers_show_what_an_overlay_shows_in_whatever_order_each_tells_it(
    layers: list[Said], chance: object
) -> None:
    told: list[list[Member]] = []
    for puts_, whiteouts, opaque in layers:
        solid = {path for path, (kind, _) in puts_.items() if kind != "dir"}
        assume(not any(solid & set(above(path)) for path in puts_))
        members = [a_member(path.encode(), kind, mode=mode) for path, (kind, mode) in puts_.items()]
        for path in whiteouts:
            folder, _, name = path.rpartition("/")
            members.append(a_member(f"{folder}/.wh.{name}".lstrip("/").encode()))
        members += [a_member(f"{path}/.wh..wh..opq".encode()) for path in opaque]
        chance.shuffle(members)  # type: ignore[attr-defined]
        told.append(members)
    tree = lay(*told)
    ours = {
        b"/".join(entry.path).decode(): (entry.about.kind, entry.about.mode)
        for entry in tree.entries()
    }
    assert ours == overlaid(layers)


parts = st.sampled_from([b"a", b"b", b"..", b".", b""])
wild = st.lists(parts, min_size=1, max_size=4).map(b"/".join)
targets = st.builds(lambda root, path: root + path, st.sampled_from([b"", b"/"]), wild)
anything = st.one_of(
    wild.map(a_member),
    wild.map(a_dir),
    st.builds(a_link, wild, targets),
    st.builds(a_hard_link, wild, targets),
    wild.map(lambda path: a_member(path + b"/.wh.a")),
    wild.map(lambda path: a_member(path + b"/.wh..wh..opq")),
)


@given(st.lists(st.lists(anything, max_size=8), max_size=3))
def test_whatever_layers_say_the_tree_is_whole_or_they_are_refused(
    layers: list[list[Member]],
) -> None:
    with refused_as("layer."):
        tree = lay(*layers)  # checks its invariants
        check_entries(tree)


@contextlib.contextmanager
def refused_as(area: str) -> Iterator[None]:
    """Let pass what is refused in words of this area."""
    refused: InvalidRequestError | None = None
    try:
        yield
    except InvalidRequestError as err:
        refused = err
    if refused is not None:
        assert refused.code.startswith(area)
        assert str(refused).isprintable()


def check_entries(tree: Tree) -> None:
    first: dict[Path, Entry] = {}
    for entry in tree.entries():
        assert entry.path[:-1] in first or len(entry.path) == 1, "parents come first"
        assert all(part not in (b"", b".", b"..") for part in entry.path)
        first[entry.path] = entry
        if entry.same_as is not None:
            assert first[entry.same_as].about is entry.about
            assert entry.links > 1


text = st.text(st.characters(codec="utf-8", exclude_characters="\x00/"), min_size=1, max_size=120)
tar_names = st.lists(text, min_size=1, max_size=3).map("/".join)
headers = st.fixed_dictionaries(
    {
        "name": tar_names,
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 2**31),
        "gid": st.integers(0, 2**31),
        "mtime": st.integers(-(2**33), 2**35),
        "linkname": text,
        "type": st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
    }
)  # fmt: skip
tars = st.lists(st.tuples(headers, st.binary(max_size=1100)), max_size=5)


@given(tars, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_archives_of_the_standard_library_are_read_as_it_reads_them(
    members: list[tuple[Mapping[str, object], bytes]], form: int
) -> None:
    infos = []
    for facts, content in members:
        info = tarfile.TarInfo()
        for key, value in facts.items():
            setattr(info, key, value)
        infos.append((info, content))
    data = tar_of(infos, form)
    ours = [
        (m.name.rstrip(b"/"), m.mode, m.uid, m.gid, m.mtime_ns // 10**9, content)
        for m, content in members_of(data)
    ]
    theirs = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            name = member.name.encode("utf-8", "surrogateescape").rstrip(b"/")
            content = file.read() if file else b""
            theirs.append((name, member.mode, member.uid, member.gid, member.mtime, content))
    assert ours == theirs


@given(
    tars,
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 12_000),
)
def test_a_damaged_archive_is_read_or_refused(
    members: list[tuple[Mapping[str, object], bytes]],
    form: int,
    damages: list[tuple[int, bytes]],
    cut: int,
) -> None:
    infos = []
    for facts, content in members:
        info = tarfile.TarInfo()
        for key, value in facts.items():
            setattr(info, key, value)
        infos.append((info, content))
    data = bytearray(tar_of(infos, form))
    for at, damage in damages:
        if at + len(damage) <= len(data):
            data[at : at + len(damage)] = damage
    with refused_as("layer."):
        members_of(bytes(data[:cut]) if cut < len(data) else bytes(data))
