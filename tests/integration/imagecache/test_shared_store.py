"""Replicas that share a bucket: what one stores, marks and removes as others see it, and what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from glowplug_contracts.errors import NotFoundError, UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import encode_manifest
from glowplug_imagecache.bucket import Bucket
from glowplug_imagecache.eviction import DropImages, Dropped, Sweep
from glowplug_imagecache.objects import frame_of
from glowplug_imagecache.places import BucketPlace, Keys
from glowplug_imagecache.scrub import Check, Hurt
from glowplug_imagecache.shared_evicting import SharedEvictor
from glowplug_imagecache.shared_scrubbing import SharedScrubber
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.stock import ObjectSeen

from tests.support.builders_images import a_file, a_manifest
from tests.support.shared_stores import a_prefix, a_shared_store
from tests.support.weed import KEYS, Weed

WITHIN_S = 20.0
FRAME = frame_of(b"precious" * 1000)
PATH = f"chunks/{FRAME.digest[:2]}/{FRAME.digest}"


def in_the_future(seconds: float) -> float:
    """Return a time that what is stored now is older than."""
    return time.time() + seconds


def test_what_one_replica_stores_another_has_and_nothing_is_lost_with_a_directory(
    weed: Weed, tmp_path: Path
) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix) as one,
        a_shared_store(weed, tmp_path / "2", prefix) as two,
        a_shared_store(weed, tmp_path / "3") as elsewhere,
    ):
        one.put_chunks([FRAME])
        blob = one.add_blob(b"a manifest")
        assert two.missing([FRAME.digest]) == []
        assert two.put_chunks([FRAME]) == 0
        assert two.chunk(FRAME.digest) == FRAME
        assert two.blob(blob) == b"a manifest"
        assert elsewhere.missing([FRAME.digest]) == [FRAME.digest]
    with a_shared_store(weed, tmp_path / "new", prefix) as new:
        assert new.chunk(FRAME.digest) == FRAME
        assert new.blob(blob) == b"a manifest"


def test_many_chunks_are_looked_up_by_a_list(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glowplug_imagecache.shared_store.HEADS_MAX", 5)
    frames = [frame_of(str(number).encode()) for number in range(12)]
    with a_shared_store(weed, tmp_path, fresh_s=0.0) as store:
        assert store.put_chunks(frames[:10]) == 10
        missing = store.missing([frame.digest for frame in frames])
        assert missing == [frame.digest for frame in frames[10:]]


def test_what_changed_in_the_bucket_is_never_given_out_and_can_be_stored_again(
    weed: Weed, tmp_path: Path
) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix, fresh_s=0.0) as one,
        a_shared_store(weed, tmp_path / "2", prefix) as two,
    ):
        blob = one.add_blob(b"manifest")
        one.put_chunks([FRAME])
        one.bucket.put(PATH, frame_of(b"other").stored or b"")
        one.bucket.put(f"blobs/{blob[:2]}/{blob}", b"manifezt")
        assert two.chunk(FRAME.digest).stored is None
        with pytest.raises(NotFoundError):
            two.blob(blob)
        assert two.bucket.get(f"quarantine/{blob}", 100) == b"manifezt"
        assert one.missing([FRAME.digest]) == [FRAME.digest]
        one.put_chunks([FRAME])
        assert two.chunk(FRAME.digest) == FRAME


def test_a_changed_file_of_the_cache_is_brought_again(weed: Weed, tmp_path: Path) -> None:
    with a_shared_store(weed, tmp_path) as store:
        store.put_chunks([FRAME])
        blob = store.add_blob(b"manifest")
        (tmp_path / "cached" / PATH).write_bytes(b"rotten")
        store.blob_path(blob).write_bytes(b"manifezt")
        assert store.chunk(FRAME.digest) == FRAME
        assert store.blob(blob) == b"manifest"


def test_what_goes_wrong_once_on_the_way_is_asked_for_again(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix) as one,
        a_shared_store(weed, tmp_path / "2", prefix) as two,
    ):
        one.put_chunks([FRAME])
        get, answers = two.bucket.get, [b"flipped on the way"]
        monkeypatch.setattr(
            two.bucket, "get", lambda *asked: answers.pop() if answers else get(*asked)
        )
        assert two.chunk(FRAME.digest) == FRAME
        assert not answers


def test_chunks_of_a_batch_are_brought_several_at_a_time(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame_of(str(number).encode()) for number in range(12)]
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix) as one,
        a_shared_store(weed, tmp_path / "2", prefix) as two,
    ):
        one.put_chunks(frames)
        get, together = two.bucket.get, threading.Barrier(4)

        def slowly(path: str, bytes_max: int) -> bytes | None:
            together.wait(WITHIN_S)  # nobody gets further alone
            return get(path, bytes_max)

        monkeypatch.setattr(two.bucket, "get", slowly)
        assert list(two.chunks([frame.digest for frame in frames])) == frames


def test_the_cache_keeps_its_bound_and_what_is_in_use(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [bytes([number]) * 1000 for number in range(8)]
    with a_shared_store(weed, tmp_path, cache_bytes_max=3000) as store:
        digests = [store.add_blob(blob) for blob in blobs[:4]]
        assert store.cached.bytes == 4000  # all of it was used just now
        monkeypatch.setattr("glowplug_imagecache.cached.USED_S", -10.0)
        digests += [store.add_blob(blob) for blob in blobs[4:]]
        assert store.cached.bytes <= 3000
        files = [path for path in (tmp_path / "cached").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) == store.cached.bytes
        assert [store.blob(digest) for digest in digests] == blobs


def hold_between(
    store: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """Stop a removal after its second look; return what says that it is there, and what lets it go on."""
    looked, go_on = threading.Event(), threading.Event()
    remove = store.withdrawals.remove

    def held(paths: Sequence[str], may_go: Callable[[Sequence[str]], list[str]]) -> list[str]:
        def look(batch: Sequence[str]) -> list[str]:
            going = may_go(batch)
            looked.set()
            assert go_on.wait(WITHIN_S)
            return going

        return remove(paths, look)

    monkeypatch.setattr(store.withdrawals, "remove", held)
    return looked, go_on


@pytest.mark.parametrize("does", ["asks", "stores"])
def test_what_is_wanted_while_it_is_removed_is_missing_then_or_stored_anew(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix, name="one") as one,
        a_shared_store(weed, tmp_path / "2", prefix, name="two", fresh_s=0.0) as two,
        ThreadPoolExecutor(2) as threads,
    ):
        one.put_chunks([FRAME])
        looked, go_on = hold_between(one, monkeypatch)
        waited = threading.Event()
        monkeypatch.setattr(two.withdrawals, "_wait", lambda _: (waited.set(), go_on.wait(0.05)))
        before = in_the_future(60)
        decided = Sweep((bytes.fromhex(FRAME.digest),), (), before)
        sweeping = threads.submit(SharedEvictor(one).sweep, decided)
        assert looked.wait(WITHIN_S)
        if does == "asks":
            asking = threads.submit(two.missing, [FRAME.digest])
        else:
            one.bucket.delete([PATH])  # as if the removal had come so far
            asking = threads.submit(two.put_chunks, [FRAME])
        assert waited.wait(WITHIN_S)  # it sees the list, and does not answer yet
        assert not asking.done()
        go_on.set()
        sweeping.result(WITHIN_S)
        if does == "asks":
            assert asking.result(WITHIN_S) == [FRAME.digest]
        else:
            assert asking.result(WITHIN_S) == 1
            assert two.bucket.head(PATH) is not None
        assert list(two.bucket.walk("withdrawn")) == []


def test_what_was_wanted_since_the_look_stays(weed: Weed, tmp_path: Path) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix) as one,
        a_shared_store(weed, tmp_path / "2", prefix, name="two", fresh_s=0.0) as two,
    ):
        image = Digest(one.add_blob(encode_manifest(a_manifest(a_file("a", b"1")))))
        leased = one.add_blob(encode_manifest(a_manifest(a_file("b", b"2"))))
        one.put_chunks([frame_of(b"1"), frame_of(b"2")])
        evictor = SharedEvictor(one)
        stock = evictor.look()
        assert {seen.digest for seen in stock.images} == {image, leased}
        assert [len(seen.objects or ()) for seen in stock.images] == [1, 1]
        two.extend(leased, in_the_future(10_000))
        decided = DropImages(
            tuple(Dropped(digest=digest, why="room") for digest in (image, leased)),
            in_the_future(60),
        )
        assert evictor.drop_images(decided) == {image}
        assert one.used_at(image) is None
        assert one.used_at(leased) is not None
        objects = tuple(bytes.fromhex(frame_of(data).digest) for data in (b"1", b"2", b"3"))
        assert evictor.sweep(Sweep(objects, (), in_the_future(60))).count == 2


def test_a_look_finds_everything_with_its_times_and_tidies_marks(
    weed: Weed, tmp_path: Path
) -> None:
    with a_shared_store(weed, tmp_path, fresh_s=0.0) as store:
        store.put_chunks([FRAME])
        blob = store.add_blob(b"no manifest")
        until = in_the_future(5000)
        for seconds in (10, 500, 4000):
            store.extend(blob, until - seconds)
        stock = SharedEvictor(store).look()
        assert [one.objects for one in stock.images] == [
            None
        ]  # it keeps everything from being swept
        assert abs(stock.images[0].used_at - (until - 10)) < 2
        (chunk,) = stock.objects
        assert isinstance(chunk, ObjectSeen)
        assert chunk.digest.hex() == FRAME.digest
        assert len(list(store.bucket.walk(f"until/blobs/{blob[:2]}/{blob}"))) == 1


def test_a_scrub_finds_what_changed_and_whom_it_hurts(weed: Weed, tmp_path: Path) -> None:
    prefix = a_prefix()
    with (
        a_shared_store(weed, tmp_path / "1", prefix) as one,
        a_shared_store(weed, tmp_path / "2", prefix) as two,
    ):
        one.put_chunks([FRAME, frame_of(b"whole")])
        image = one.add_blob(encode_manifest(a_manifest(a_file("a", b"precious" * 1000))))
        one.add_blob(encode_manifest(a_manifest(a_file("b", b"whole"))))
        one.bucket.put(PATH, b"rotten")
        scrubber = SharedScrubber(two)
        after, files, corrupt = "", 0, ()
        while True:  # object by object
            checked = scrubber.check(Check(after, 1))
            after, files = checked.after, files + checked.files
            corrupt += checked.corrupt
            if checked.ended:
                break
        assert files == 4
        assert corrupt == (PATH,)
        assert scrubber.assess(corrupt) == (Hurt(digest=image, missing=1),)
        progress = scrubber.load()
        scrubber.save(progress)
        assert SharedScrubber(one).load() == progress


def test_what_is_wrong_with_the_bucket_is_said_without_its_keys(
    weed: Weed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Keys(access_key_id=KEYS.access_key_id, secret_access_key="wrong-secret")
    gone = BucketPlace(bucket="glowplug", endpoint="http://127.0.0.1:1")
    said = repr(KEYS)
    for place, keys, match in (
        (weed.place("x"), wrong, "refuses to write in s3://glowplug/x: check"),
        (gone, KEYS, "could not write in s3://glowplug "),
    ):
        bucket = Bucket(place, keys)
        with pytest.raises(UnavailableError, match=match) as caught:
            bucket.put("a", b"1")
        said += str(caught.value) + repr(caught.value.__cause__)
        bucket.close()
    said += "".join(capsys.readouterr())
    assert "secret" not in said.replace("STORE_KEYS_FILE", "")
    assert KEYS.access_key_id not in said
