"""Lazy mounts on the real kernel: what is read is what the tree names, or an error, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import mmap
import os
import random
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest
from glowplug_contracts.errors import ContractError, NotFoundError
from glowplug_contracts.ids import Digest
from glowplug_worker.images.mounts.lazy import KEEP_S, LazyMounts, Terms
from glowplug_worker.images.mounts.probe import MountMethod
from glowplug_worker.runtime.leftovers import mounts_below

from tests.support import erofs, lazy_trees
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.lazy_trees import MIB, Stored

pytestmark = pytest.mark.skipif(
    not (erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads()),
    reason="takes root, Linux 6.14, and a file system that tells of reads",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "root"
    (root / "small").mkdir(parents=True)
    chance = random.Random(5)
    for number in range(200):
        (root / "small" / f"{number}").write_bytes(chance.randbytes(chance.randrange(9000)))
    for number, size in enumerate((MIB + 1, 5 * MIB + 13, 700_000)):
        (root / f"large{number}").write_bytes(chance.randbytes(size))
    with (root / "holes").open("wb") as file:
        os.pwrite(file.fileno(), b"end", 9 * MIB)
    (root / "empty").touch()
    (root / "link").symlink_to("large0")
    return root


@pytest.fixture
def stored(source: Path, tmp_path: Path) -> Stored:
    return lazy_trees.store_tree(source, tmp_path / "store")


NO_HOLDER = {f"errno {number}" for number in (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED)}
METHODS = pytest.mark.parametrize("method", ["fanotify", "fuse"])


@METHODS
async def test_every_byte_is_what_the_source_has(
    source: Path, stored: Stored, tmp_path: Path, method: MountMethod
) -> None:
    """Walked as any program would, then read in a random order of places, mapped and not."""
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, method=method) as mounts:
        held = await mounts.hold(stored.digest, "one")
        chance = random.Random(3)
        wanted = (source / "large1").read_bytes()
        for _ in range(50):
            at, size = chance.randrange(len(wanted)), chance.randrange(1, 300_000)
            found = await asyncio.to_thread(
                _read, held.root / "large1", at, size, chance.random() < 0.5
            )
            assert found == wanted[at : at + size]
        wanted_walk, found_walk = erofs.walk(source), await asyncio.to_thread(erofs.walk, held.root)
        assert found_walk == wanted_walk
        await mounts.release(stored.digest, "one")
    assert mounts_below(tmp_path) == []


async def test_trees_that_lack_one_device_or_both_are_mounted_side_by_side(tmp_path: Path) -> None:
    contents = {"nothing": 0, "small": 100, "large": 3 * MIB}
    for name, size in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(os.urandom(size))
    store = tmp_path / "store"
    stored = {name: lazy_trees.store_tree(tmp_path / name, store) for name in contents}
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", store) as mounts:
        held = {name: await mounts.hold(each.digest, "one") for name, each in stored.items()}
        for name in contents:
            found = await asyncio.to_thread((held[name].root / "file").read_bytes)
            assert found == (tmp_path / name / "file").read_bytes()
        for each in stored.values():
            await mounts.release(each.digest, "one")


def _read(path: Path, at: int, size: int, mapped: bool) -> bytes:
    with path.open("rb") as file:
        if mapped:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
                return view[at : at + size]
        return os.pread(file.fileno(), size, at)


async def test_what_is_not_what_its_name_says_is_an_error_and_works_when_it_is_mended(
    source: Path, stored: Stored, tmp_path: Path
) -> None:
    """One bit flipped in an object, another object cut short: readers see EIO, and all other files."""
    largest = sorted(stored.tree.pieces, key=lambda each: -each.size)[:2]
    broken = [stored.store / each.digest.hex() for each in largest]
    whole = [path.read_bytes() for path in broken]
    lazy_trees.flip(broken[0], 12_345)
    broken[1].write_bytes(whole[1][:-1])
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store) as mounts:
        held = await mounts.hold(stored.digest, "one")
        names = sorted(lazy_trees.sums(source))
        found = {name: await asyncio.to_thread(_sum, held.root / name) for name in names}
        wanted = lazy_trees.sums(source)
        bad = {name for name in names if found[name] != wanted[name]}
        assert bad
        assert {found[name] for name in bad} == {f"errno {errno.EIO}"}
        for path, data in zip(broken, whole, strict=True):
            path.write_bytes(data)
        assert await asyncio.to_thread(lazy_trees.sums, held.root) == wanted


def _sum(path: Path) -> str:
    try:
        return _sha(path)
    except OSError as error:
        return f"errno {error.errno}"


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_readers_wait_while_the_store_is_away(
    source: Path, stored: Stored, tmp_path: Path
) -> None:
    """They begin while it is away, do not end before it is back, and end well."""
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store) as mounts:
        held = await mounts.hold(stored.digest, "one")
        away = stored.store.rename(tmp_path / "away")
        readers = [
            asyncio.create_task(asyncio.to_thread(_sum, held.root / name))
            for name in ("large0", "large1", "small/1", "small/199")
        ]
        await eventually(lambda: _waiting_readers() >= 1, what="readers wait in the kernel")
        assert not any(reader.done() for reader in readers)
        away.rename(stored.store)
        names = ("large0", "large1", "small/1", "small/199")
        assert [await reader for reader in readers] == [_sha(source / name) for name in names]


def _waiting_readers() -> int:
    """Return how many threads of this process wait for content: before an event, or for FUSE."""
    places = [(task / "wchan").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum(
        word in place for place in places for word in ("fanotify", "fuse", "folio", "answer")
    )


@METHODS
async def test_the_daemon_killed_again_and_again_under_readers_costs_time_only(
    source: Path, stored: Stored, tmp_path: Path, method: MountMethod
) -> None:
    wanted = lazy_trees.sums(source)
    seen: set[int | None] = set()
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, method=method) as mounts:
        held = await mounts.hold(stored.digest, "one")
        reading = asyncio.create_task(asyncio.to_thread(lazy_trees.sums, held.root))
        for _ in range(2):
            (daemon,) = await eventually(lambda: {mounts.processes().get("daemon")} - seen - {None})
            seen.add(daemon)
            os.kill(daemon, signal.SIGKILL)
        assert await reading == wanted


@METHODS
async def test_a_killed_holder_gives_errors_or_the_truth_and_later_holds_mount_afresh(
    source: Path, stored: Stored, tmp_path: Path, method: MountMethod
) -> None:
    names = sorted(lazy_trees.sums(source))
    wanted = lazy_trees.sums(source)
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, method=method) as mounts:
        with contextlib.ExitStack() as stack:
            first = await mounts.hold(stored.digest, "one")
            stack.callback(os.close, os.open(first.root, os.O_RDONLY))  # as a container has it open
            assert _sum(first.root / "small/1") == wanted["small/1"]
            away = stored.store.rename(tmp_path / "away")
            reading = asyncio.create_task(asyncio.to_thread(_sum, first.root / "large0"))
            await eventually(_waiting_readers, what="a reader waits in the kernel")
            os.kill(mounts.processes()["holder"], signal.SIGKILL)
            assert await reading == f"errno {errno.EIO}"
            away.rename(stored.store)
            second = await mounts.hold(stored.digest, "second")
            assert second.root != first.root
            assert await asyncio.to_thread(lazy_trees.sums, second.root) == wanted
            for name in names:
                found = await asyncio.to_thread(_sum, first.root / name)
                assert found == wanted[name] or found in NO_HOLDER
            assert _sum(first.root / "small/1") == wanted["small/1"]
        await mounts.release(stored.digest, "one")
        await mounts.tend()
        assert mounts_below(first.root) == []


async def test_a_tree_that_is_filled_is_read_without_anybody(
    source: Path, stored: Stored, tmp_path: Path
) -> None:
    """Nobody reads it: it fills by itself. Then the store may go, and both processes."""
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store) as mounts:
        held = await mounts.hold(stored.digest, "one")
        lost: list[str] = []
        mounts.listen(lost.extend)
        await eventually(lambda: mounts.filled(stored.digest))
        shutil.rmtree(stored.store)
        for pid in mounts.processes().values():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not mounts.processes(), what="both are gone")
        assert await asyncio.to_thread(lazy_trees.sums, held.root) == lazy_trees.sums(source)
        assert not lost
        assert await mounts.hold(stored.digest, "another") == held


async def test_what_a_start_reads_is_recorded_and_there_before_the_next_one(
    stored: Stored, tmp_path: Path
) -> None:
    async with lazy_trees.lazy_mounts(tmp_path / "first", stored.store) as mounts:
        held = await mounts.hold(stored.digest, "one")
        for name in ("large2", "small/7"):
            await asyncio.to_thread((held.root / name).read_bytes)
        read = await mounts.recorded(stored.digest)
    pieces = {each.digest.hex() for each in stored.tree.pieces}
    assert [digest in pieces for digest in read] == [True, False]
    async with lazy_trees.lazy_mounts(tmp_path / "second", stored.store) as mounts:
        held = await mounts.hold(stored.digest, "one")
        await mounts.prefetch(stored.digest, [*read, Digest("ab" * 32)])
        shutil.rmtree(stored.store)  # nothing is fetched any more
        assert _sum(held.root / "large2") != f"errno {errno.EIO}"
        assert _sum(held.root / "small/7") != f"errno {errno.EIO}"


@METHODS
async def test_a_trees_holders_share_one_mount_that_goes_when_nobody_holds_it_for_a_while(
    stored: Stored, tmp_path: Path, method: MountMethod
) -> None:
    clock = FakeClock()
    async with lazy_trees.lazy_mounts(
        tmp_path / "lazy", stored.store, clock, method=method
    ) as mounts:
        held = await asyncio.gather(
            *(mounts.hold(stored.digest, f"{number}") for number in range(20))
        )
        (root,) = {each.root for each in held}
        assert lazy_trees.mounted_below(tmp_path)[-1] == str(root)
        assert len(lazy_trees.mounted_below(tmp_path)) == (3 if method == "fuse" else 1)
        for number in range(1, 20):
            await mounts.release(stored.digest, f"{number}")
        clock.advance(KEEP_S + 1)
        await mounts.tend()
        assert str(root) in lazy_trees.mounted_below(tmp_path)
        await mounts.release(stored.digest, "0")
        await mounts.tend()
        assert str(root) in lazy_trees.mounted_below(tmp_path)
        clock.advance(KEEP_S + 1)
        with (root / "small" / "1").open("rb") as file:
            await mounts.tend()
            assert str(root) in lazy_trees.mounted_below(tmp_path), "somebody reads"
            assert file.read(1)
        await mounts.tend()
        assert lazy_trees.mounted_below(tmp_path) == []
        assert not root.exists()
        again = await mounts.hold(stored.digest, "one")
        assert (again.root / "small" / "1").is_file()
        await mounts.release(stored.digest, "one")


@METHODS
async def test_trees_that_nobody_holds_leave_the_disk_when_their_room_is_wanted(
    source: Path, stored: Stored, tmp_path: Path, method: MountMethod
) -> None:
    """A held one stays, whatever it takes; one that was unmounted is kept, or goes, like one that still is."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(os.urandom(2 * MIB))
    other = lazy_trees.store_tree(tmp_path / "other", stored.store)
    clock, kept = FakeClock(), tmp_path / "lazy" / "kept"
    terms = Terms(keep_s=KEEP_S, bytes_max=MIB)
    async with lazy_trees.lazy_mounts(
        tmp_path / "lazy", stored.store, clock, method=method, terms=terms
    ) as mounts:
        held = await mounts.hold(stored.digest, "one")
        await mounts.hold(other.digest, "one")
        await asyncio.to_thread(lazy_trees.sums, held.root)
        await mounts.release(other.digest, "one")
        await _tended(mounts, lambda: len(list((tmp_path / "lazy").glob("run-*/*"))) == 1)
        assert await asyncio.to_thread(lazy_trees.sums, held.root) == lazy_trees.sums(source)
        await mounts.release(stored.digest, "one")
        await _tended(mounts, lambda: not held.root.exists())
        assert not list(kept.iterdir())
        assert lazy_trees.mounted_below(tmp_path) == []


async def _tended(mounts: LazyMounts, gone: Callable[[], bool]) -> None:
    """Tend until it is gone: the kernel may say for a moment that somebody has a device open."""

    async def look() -> bool:
        await mounts.tend()
        return gone()

    await eventually(look)


async def test_what_is_unmounted_is_kept_while_there_is_room(
    source: Path, stored: Stored, tmp_path: Path
) -> None:
    clock = FakeClock()
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, clock) as mounts:
        held = await mounts.hold(stored.digest, "one")
        wanted = await asyncio.to_thread(lazy_trees.sums, held.root)
        await lazy_trees.fill(mounts, stored.digest, stored.tree)
        await mounts.release(stored.digest, "one")
        clock.advance(KEEP_S + 1)
        await _tended(mounts, lambda: not held.root.exists())
        shutil.rmtree(stored.store)
        again = await mounts.hold(stored.digest, "one")
        assert await asyncio.to_thread(lazy_trees.sums, again.root) == wanted


async def test_a_manifest_that_is_not_what_it_is_called_is_refused(
    stored: Stored, tmp_path: Path
) -> None:
    """And leaves nothing that is in the way: later it is mended, and what was held stays."""
    manifest, clock = stored.store / stored.digest, FakeClock()
    lazy_trees.flip(manifest, 100)
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, clock) as mounts:
        with pytest.raises(ContractError):
            await mounts.hold(stored.digest, "one")
        with pytest.raises(NotFoundError):
            await mounts.hold(Digest("ab" * 32), "one")
        lazy_trees.flip(manifest, 100)
        held = await mounts.hold(stored.digest, "one")
        processes = mounts.processes()
        clock.advance(KEEP_S + 1)
        await mounts.tend()
        assert (held.root / "small" / "1").read_bytes()
        assert mounts.processes() == processes
        await mounts.release(stored.digest, "one")
    assert mounts_below(tmp_path) == []


async def test_a_namespace_that_began_while_it_was_mounted_does_not_keep_a_tree(
    stored: Stored, tmp_path: Path
) -> None:
    """Each container begins with a copy of all mounts, also of those of others."""
    clock = FakeClock()
    async with lazy_trees.lazy_mounts(tmp_path / "lazy", stored.store, clock) as mounts:
        held = await mounts.hold(stored.digest, "one")
        other = await asyncio.create_subprocess_exec(
            "unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo here; exec cat",
            stdin=PIPE, stdout=PIPE,
        )  # fmt: skip
        assert other.stdin is not None
        assert other.stdout is not None
        assert await other.stdout.readline() == b"here\n"
        assert _sees(other.pid, held.root)
        await mounts.release(stored.digest, "one")
        clock.advance(KEEP_S + 1)
        await _tended(mounts, lambda: not held.root.exists())
        assert not _sees(other.pid, held.root)
        other.stdin.close()
        await other.wait()


WORKER = """
import asyncio, sys
from pathlib import Path
from tests.support import lazy_trees

async def main(lazy, store, digest):
    async with lazy_trees.lazy_mounts(Path(lazy), Path(store)) as mounts:
        held = await mounts.hold(digest, "one")
        print("ROOT", held.root, mounts.processes()["holder"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_worker_leaves_readers_errors_and_its_next_start_nothing(
    source: Path, stored: Stored, tmp_path: Path
) -> None:
    lazy = tmp_path / "lazy"
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(lazy), str(stored.store), stored.digest, stdout=PIPE
    )
    assert worker.stdout is not None
    while b"ROOT" not in (line := await worker.stdout.readline()):
        assert line, "the worker has failed"
    said = line.split()[1:]
    root, holder = Path(said[0].decode()), int(said[1])
    wanted = (source / "large1").read_bytes()
    with (root / "large1").open("rb") as file:
        assert os.pread(file.fileno(), 100, 0) == wanted[:100]
        shutil.rmtree(stored.store)
        worker.kill()
        await worker.wait()
        # What was fetched is there; what was not is an error. The last object can't have been read ahead.
        with pytest.raises(OSError, match="Input/output"):
            await asyncio.to_thread(os.pread, file.fileno(), 100, 5 * MIB)
        assert _lives(holder), "it stays as long as somebody reads"
    await eventually(lambda: not _lives(holder), what="the holder ends")
    assert mounts_below(tmp_path) == []
    async with lazy_trees.lazy_mounts(lazy, tmp_path):
        assert lazy_trees.mounted_below(tmp_path) == []
        assert len(list(lazy.glob("run-*"))) == 1


def _sees(pid: int, path: Path) -> bool:
    return str(path) in Path(f"/proc/{pid}/mountinfo").read_text()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
