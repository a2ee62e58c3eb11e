"""A tree that is being mounted: what happens beside the making of its metadata, and what ends meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_worker.images.mounts import lazy
from glowplug_worker.images.mounts.lazy import Terms

from tests.support import erofs, lazy_trees
from tests.support.eventually import eventually
from tests.support.lazy_trees import MIB, Stored

pytestmark = pytest.mark.skipif(
    not (erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads()),
    reason="takes root, Linux 6.14, and a file system that tells of reads",
)
PIECES = 3


class Known:
    """Lists that say of every tree that these objects are read."""

    def __init__(self, objects: Sequence[Digest]) -> None:
        self.objects = list(objects)
        self.asked = False

    async def get(self, _: Digest) -> list[Digest]:
        self.asked = True
        return self.objects

    async def put(self, _: Digest, objects: Sequence[Digest]) -> None:
        """Keep nothing."""


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    root = tmp_path / "source"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(PIECES * MIB))
    return lazy_trees.store_tree(root, tmp_path / "store")


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold up the making of metadata until the event is set."""
    may_go_on = threading.Event()
    write = lazy.write_metadata

    def late(*of_it: object) -> None:
        may_go_on.wait()
        write(*of_it)  # type: ignore[arg-type]

    monkeypatch.setattr(lazy, "write_metadata", late)
    yield may_go_on
    may_go_on.set()


def _known(stored: Stored) -> Known:
    return Known([Digest(each.digest.hex()) for each in stored.tree.pieces])


def _written(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.glob("run-*/*/pieces"))


async def test_what_is_known_to_be_read_is_fetched_while_the_metadata_is_made(
    stored: Stored, metadata: threading.Event, tmp_path: Path
) -> None:
    directory, known = tmp_path / "lazy", _known(stored)
    terms = Terms(hot_lists=known)
    async with lazy_trees.lazy_mounts(directory, stored.store, terms=terms) as mounts:
        holding = asyncio.create_task(mounts.hold(stored.digest, "one"))
        await eventually(lambda: _written(directory) >= PIECES * MIB, what="its pieces are here")
        assert known.asked
        assert not holding.done()
        metadata.set()
        held = await holding
        found = await asyncio.to_thread((held.root / "file").read_bytes)
        assert found == (tmp_path / "source/file").read_bytes()


async def test_a_holder_killed_while_the_metadata_is_made_costs_that_hold_only(
    stored: Stored, metadata: threading.Event, tmp_path: Path
) -> None:
    directory, known = tmp_path / "lazy", _known(stored)
    terms = Terms(hot_lists=known)
    async with lazy_trees.lazy_mounts(directory, stored.store, terms=terms) as mounts:
        lost: list[str] = []
        mounts.listen(lost.extend)
        holding = asyncio.create_task(mounts.hold(stored.digest, "one"))
        await eventually(lambda: _written(directory) >= PIECES * MIB, what="its pieces are here")
        os.kill(mounts.processes()["holder"], signal.SIGKILL)
        await eventually(lambda: lost == ["one"], what="it is given up")
        metadata.set()
        with pytest.raises(UnavailableError, match="given up"):
            await holding
        held = await mounts.hold(stored.digest, "another")
        found = await asyncio.to_thread((held.root / "file").read_bytes)
        assert found == (tmp_path / "source/file").read_bytes()
