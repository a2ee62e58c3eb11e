"""Uploads in any cuts, paths of any letters, and records changed by anybody: what must hold whatever comes."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import PurePosixPath

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.model import ModelPull, ModelRecord, ModelVersion, PullState
from glowplug_contracts.trees import PIECE_BYTES
from glowplug_contracts.weights import (
    VERSIONS_MAX,
    PieceReader,
    check_files,
    check_path,
    decode_listing,
    piece_bytes,
)
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.models import rules
from glowplug_imagecache.models.trees import tree_of
from hypothesis import given
from hypothesis import strategies as st

digests = st.binary(min_size=32, max_size=32).map(lambda data: Digest(data.hex()))
pieces = st.lists(st.tuples(digests, st.binary(min_size=1, max_size=300)), max_size=6)


@given(pieces, st.lists(st.integers(0, 2000), max_size=10))
def test_pieces_are_read_whatever_the_cuts(sent, cuts):
    body = b"".join(piece_bytes(digest, data) for digest, data in sent)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    reader = PieceReader()
    read = []
    for begin, end in itertools.pairwise(edges):
        read += reader.feed(body[begin:end])
    reader.finish()
    assert read == sent


@given(st.binary(max_size=200))
def test_a_body_that_is_no_pieces_is_refused_or_read(body):
    reader = PieceReader()
    with contextlib.suppress(InvalidRequestError):
        for _, data in reader.feed(body):
            assert 0 < len(data) <= PIECE_BYTES
        reader.finish()


@given(st.lists(st.text("ab./\\\0 \n\ud800é", max_size=12), max_size=6))
def test_paths_stay_below_the_root_and_are_one_thing_each(paths):
    try:
        check_files([(path, 1) for path in paths], 1000)
    except InvalidRequestError:
        return
    for path in paths:
        assert not PurePosixPath(path).is_absolute()
        assert str(PurePosixPath(path)) == path
        assert ".." not in PurePosixPath(path).parts
    tree = tree_of([(path, 1, False) for path in paths], Bounds())
    tree.check()
    files = {b"/".join(each.path).decode() for each in tree.entries() if each.about.kind == "file"}
    assert files == set(paths)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", "a\nb", "a\\b", "\ud800"],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(InvalidRequestError) as caught:
        check_path(path)
    assert caught.value.code == "model.refused"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
    )
)
def test_what_is_no_listing_is_refused(value):
    with pytest.raises(InvalidRequestError):
        decode_listing(json.dumps(value).encode(), 1000)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([], "model.refused"),
        ([["a", 1, ["0" * 64]], ["a", 1, ["0" * 64]]], "model.refused"),
        ([["a", 1, ["0" * 64]], ["a/b", 1, ["0" * 64]]], "model.refused"),
        ([["a", 1, []]], "model.refused"),
        ([["a", -1, []]], "model.refused"),
        ([["a", 1, ["zz"]]], "request.bad_digest"),
        ([["a", 1 << 40, []]], "model.too_large"),
    ],
)
def test_a_listing_that_lies_is_refused(files, code):
    names = ("path", "size", "pieces")
    listing = {"files": [dict(zip(names, one, strict=True)) for one in files]}
    with pytest.raises(InvalidRequestError) as caught:
        decode_listing(json.dumps(listing).encode(), 1 << 30)
    assert caught.value.code == code


# -- records ------------------------------------------------------------------------------------

OWNERS = ("", "ins_a", "ins_b")
versions = st.builds(
    ModelVersion,
    tree=st.sampled_from([Digest(letter * 64) for letter in "abc"]),
    source=st.just("upload:x"),
)
pulls = st.builds(
    ModelPull,
    pull_id=st.sampled_from(["pul_1", "pul_2"]),
    source=st.just("upload:x"),
    state=st.sampled_from(PullState),
    owner=st.sampled_from(OWNERS),
    asked_at=st.floats(0, 9),
)
records = st.builds(
    ModelRecord,
    workspace=st.just(WorkspaceId("w")),
    name=st.sampled_from(["m", "n"]),
    versions=st.lists(versions, max_size=VERSIONS_MAX).map(tuple),
    pull=st.none() | pulls,
)


@given(
    st.lists(records, max_size=5),
    st.sets(st.sampled_from(OWNERS[1:])),
    st.sets(st.sampled_from(["pul_1", "pul_2"])),
)
def test_a_pull_is_taken_where_nobody_lives_who_has_it(found, alive, running):
    chosen = rules.choose(found, alive, "ins_a", running)
    for record in found:
        pull = record.pull
        free = (
            pull is not None
            and pull.state is not PullState.FAILED
            and pull.pull_id not in running
            and not (pull.owner in alive and pull.owner != "ins_a")
        )
        assert (record in chosen) == free
    assert [each.pull.asked_at for each in chosen] == sorted(each.pull.asked_at for each in chosen)


@given(records.filter(lambda record: record.pull is not None), versions)
def test_what_a_pull_becomes_keeps_what_was_there(record, version):
    taken = rules.take(record, "ins_a")
    assert rules.is_pulling(taken, record.pull.pull_id, "ins_a")
    assert not rules.is_pulling(taken, record.pull.pull_id, "ins_b")
    assert not rules.is_pulling(taken, "pul_other", "ins_a")
    assert not rules.is_pulling(None, record.pull.pull_id, "ins_a")
    told = rules.tell(taken, "storing", 1, 2)
    assert (told.pull.bytes_done, told.pull.bytes_total) == (1, 2)
    done = rules.finish(told, version)
    assert done.pull is None
    assert done.versions[0] == version
    assert len(done.versions) <= VERSIONS_MAX
    assert [one.tree for one in done.versions].count(version.tree) == 1
    failed = rules.fail(told, RemoteError(code="model.no_room", type="E", message="full"))
    assert failed.versions == record.versions
    assert failed.pull.state is PullState.FAILED
    assert not rules.is_pulling(failed, record.pull.pull_id, "ins_a")
