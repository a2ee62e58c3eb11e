"""Objects in copies on several replicas: one is lost, stale, corrupt or away, and nobody reads anything wrong."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, UnavailableError
from glowplug_contracts.rendezvous import ranked
from glowplug_imagecache.member_calls import AwayError, Member
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.raw_shelf import RawShelf
from glowplug_imagecache.scrub import Check
from glowplug_imagecache.shared_evicting import SharedEvictor
from glowplug_imagecache.shared_scrubbing import SharedScrubber

from tests.support.clusters import TOKEN, Replica, meet, replicas

FRAMES = [frame_of(f"content {number}".encode() * 50) for number in range(30)]


def path_of(digest: str) -> str:
    return f"chunks/{digest[:2]}/{digest}"


PATHS = [path_of(frame.digest) for frame in FRAMES]
OTHER_PATHS = ("../secret", "blobs/../../secret", "/etc/passwd", "a//b", ".hidden", "a" * 999)


def by_rank(members: list[Replica], path: str) -> list[Replica]:
    names = {one.name: one for one in members}
    return [names[name] for name in ranked(path, names)]


def forget_cache(*members: Replica) -> None:
    for one in members:
        shutil.rmtree(one.root / "cache" / "cached", ignore_errors=True)


def test_every_object_has_its_copies_where_everybody_looks_for_them(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        members[0].store().put_chunks(FRAMES)
        for path in PATHS:
            assert [one.has(path) for one in by_rank(members, path)] == [True, True, False]
        counts = Counter(one.name for one in members for path in PATHS if one.has(path))
        assert len(counts) == 3
        for one in members:
            store = one.store()
            assert store.missing([frame.digest for frame in FRAMES]) == []
            assert [store.chunk(frame.digest) for frame in FRAMES] == FRAMES
            assert [thing.path for thing in one.cluster.walk("chunks")] == sorted(PATHS)
            assert [thing.path for thing in one.cluster.walk("chunks", sorted(PATHS)[20])] == (
                sorted(PATHS)[21:]
            )


def test_one_that_is_lost_is_passed_over_and_gets_its_share_again(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        one, two, lost = members
        one.store().put_chunks(FRAMES[:20])
        had = [path for path in PATHS[:20] if lost.has(path)]
        assert had
        lost.stop()  # nobody was told yet: whoever asks it notices
        forget_cache(one, two)
        store = two.store()
        assert [store.chunk(frame.digest) for frame in FRAMES[:20]] == FRAMES[:20]
        assert store.put_chunks(FRAMES[20:]) == 10  # the others take its place
        meet([one, two])
        for path in PATHS:
            assert sum(each.has(path) for each in (one, two)) >= (2 if path in PATHS[20:] else 1)
        shutil.rmtree(lost.root / "objects")
        lost.shelf = RawShelf(lost.root)
        lost.start()
        meet(members)
        for each in members:
            each.cluster._away.clear()
        scrubber = SharedScrubber(one.store())
        checked = scrubber.check(Check("", 1 << 30))
        assert checked.corrupt == ()
        for path in PATHS:  # where they belong, and nowhere else
            assert [each.has(path) for each in by_rank(members, path)] == [True, True, False]


def test_a_read_gives_a_copy_back_to_whom_it_belongs(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        members[0].store().put_chunks(FRAMES[:1])
        first, second, third = by_rank(members, PATHS[0])
        first.file(PATHS[0]).unlink()
        forget_cache(*members)
        assert third.store().chunk(FRAMES[0].digest) == FRAMES[0]
        assert first.has(PATHS[0])
        second.file(PATHS[0]).unlink()
        assert third.store().missing([FRAMES[0].digest]) == []


@pytest.mark.parametrize("scrubbed", [True, False])
def test_a_corrupt_copy_is_mended_from_another(tmp_path: Path, scrubbed: bool) -> None:
    with replicas(tmp_path) as members:
        store = members[0].store()
        blob = store.add_blob(b"a manifest")
        store.put_chunks(FRAMES[:1])
        forget_cache(*members)
        places = [PATHS[0], f"blobs/{blob[:2]}/{blob}"]
        good = {path: by_rank(members, path)[1].file(path).read_bytes() for path in places}
        for path in places:
            by_rank(members, path)[0].file(path).write_bytes(b"flipped")
        if scrubbed:
            assert SharedScrubber(store).check(Check("", 1 << 30)).corrupt == ()
        assert store.chunk(FRAMES[0].digest) == FRAMES[0]
        assert store.blob(blob) == b"a manifest"
        for path in places:
            assert by_rank(members, path)[0].file(path).read_bytes() == good[path]


def test_when_every_copy_is_corrupt_it_is_missing_and_can_be_stored_again(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        members[0].store().put_chunks(FRAMES[:1])
        for one in by_rank(members, PATHS[0])[:2]:
            one.file(PATHS[0]).write_bytes(b"flipped")
        forget_cache(*members)
        store = members[2].store(fresh_s=0.0)
        assert SharedScrubber(store).check(Check("", 1 << 30)).corrupt == (PATHS[0],)
        assert store.missing([FRAMES[0].digest]) == [FRAMES[0].digest]
        assert store.put_chunks(FRAMES[:1]) == 1
        assert store.chunk(FRAMES[0].digest) == FRAMES[0]


def test_what_could_be_with_those_that_are_away_is_not_called_missing(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        one, two, three = members
        one.store().put_chunks(FRAMES[:1])
        gone = frame_of(b"never stored").digest
        assert one.store().missing([gone]) == [gone]
        meet([one, two])
        assert one.store().missing([gone, FRAMES[0].digest]) == [gone]  # one of two copies is here
        with pytest.raises(UnavailableError, match="1 of its 3 replicas are away"):
            SharedEvictor(one.store()).look()  # but what the third has alone could need anything
        meet([one])
        with pytest.raises(UnavailableError, match="2 of its 3 replicas are away"):
            one.store().chunk(gone)
        meet(members)
        three.stop()
        with pytest.raises(UnavailableError, match="look at all objects"):
            SharedEvictor(two.store()).look()  # it went away meanwhile


def test_what_was_removed_while_one_was_away_is_old_when_it_comes_back(tmp_path: Path) -> None:
    with replicas(tmp_path) as members:
        store = members[0].store()
        store.put_chunks(FRAMES[:1])
        owner = by_rank(members, PATHS[0])[0]
        others = [one for one in members if one is not owner]
        meet(others)
        others[0].cluster.delete([PATHS[0]])
        assert not any(one.has(PATHS[0]) for one in others)
        meet(members)
        (seen,) = SharedEvictor(store).look().objects
        assert seen.digest.hex() == FRAMES[0].digest  # so the next round has it


def test_the_doors_let_only_members_in_and_only_to_objects(tmp_path: Path) -> None:
    with replicas(tmp_path, count=1, copies=1) as (one,):
        one.cluster.put("blobs/x", b"1")
        with (
            contextlib.closing(Member(one.url, TOKEN)) as member,
            contextlib.closing(Member(one.url, "wrong")) as stranger,
        ):
            assert member.head("blobs/x") is not None
            with pytest.raises(AwayError, match="401"):
                stranger.head("blobs/x")
            (tmp_path / "secret").write_text("s")
            for path in OTHER_PATHS:
                with pytest.raises(InvalidRequestError):
                    one.shelf.head(path)
                with contextlib.suppress(AwayError):
                    assert not member.fetch(path, io.BytesIO(), 100)
