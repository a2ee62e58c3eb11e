"""imagecaches that go and come elsewhere under readers of mounted images: a wait, never zeros, and no new mount."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from glowplug_contracts.trees import encode_tree
from glowplug_runtime.clock import Clock
from glowplug_worker.images.client import StoreClient, open_session
from glowplug_worker.images.mounts.lazy import open_lazy_mounts
from glowplug_worker.images.mounts.probe import Choice
from glowplug_worker.images.mounts.sources import ImagecacheSource

from tests.integration.worker.test_flips import stock_tree
from tests.support import erofs, lazy_trees
from tests.support.builders_images import TOKEN, a_store

pytestmark = pytest.mark.skipif(
    not (erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads()),
    reason="takes root, Linux 6.14, and a file system that tells of reads",
)
FILES = 60
SERVE = """
import asyncio, sys
from pathlib import Path
from tests.support.builders_images import a_store, open_imagecache

async def main(root):
    async with open_imagecache(a_store(Path(root))) as url:
        print("URL", url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Imagecache(NamedTuple):
    url: str
    process: asyncio.subprocess.Process


def _kill(imagecache: Imagecache) -> None:
    with contextlib.suppress(ProcessLookupError):
        imagecache.process.kill()


async def _imagecache(root: Path) -> Imagecache:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(root), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while b"URL" not in (line := await process.stdout.readline()):
        assert line, "it has failed"
    return Imagecache(line.split()[1].decode(), process)


async def test_an_imagecache_that_is_killed_under_readers_costs_a_wait(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number}").write_bytes(os.urandom(900_000))
    store = a_store(tmp_path / "store")
    digest = store.add_blob(encode_tree(stock_tree(source, store)))
    urls: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        session = await stack.enter_async_context(open_session(TOKEN))
        client = StoreClient(session, lambda: urls[0] if urls else None)
        mounts = await stack.enter_async_context(
            open_lazy_mounts(
                tmp_path / "lazy",
                ImagecacheSource(client),
                lambda: {"store": "imagecache", "urls": list(urls), "token": TOKEN},
                Clock(),
                lambda work, name: tasks.create_task(work, name=name),
                Choice("fanotify", "a test"),
            )
        )
        first = await _imagecache(store.root)
        stack.callback(_kill, first)
        urls.append(first.url)
        held = await mounts.hold(digest, "one")
        left = list(map(str, range(FILES)))
        reading = [asyncio.create_task(_read(held.root / name)) for name in left]
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        _kill(first)
        second = await _imagecache(store.root)
        stack.callback(_kill, second)
        assert not all(each.done() for each in reading)
        urls[:] = [second.url]
        await mounts.tend()
        found = await asyncio.gather(*reading)
        assert found == [await _read(source / name) for name in left]
        await mounts.release(digest, "one")


async def _read(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)
