"""Workers give trees that they have to others: real services tell of it, and the door is where they say."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.service import Shell, serve
from glowplug_worker.__main__ import open_service
from glowplug_worker.images.mounts.lazy import LazyMounts
from glowplug_worker.images.mounts.probe import why_not_fanotify, why_not_fuse
from glowplug_worker.settings import WorkerSettings

from tests.integration.imagecache.test_builds_on_a_worker import a_directory
from tests.support.builders_images import open_client
from tests.support.eventually import eventually
from tests.support.lazy_nodes import a_whole_tree, ask_peer
from tests.support.nats import Server

WORKER = "peer-1"


@pytest.mark.root
async def test_a_worker_that_has_a_tree_is_told_of_and_gives_it_out(
    nats_server: Server, imagecache: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_not_fanotify(tmp_path) and why_not_fuse(tmp_path):
        pytest.skip("images can't be mounted here")
    directory = a_directory()
    settings = WorkerSettings(
        data_dir=str(directory / "data"),
        internal_token_file=str(directory / "token"),
        backend="process",
        peers=True,
        cpu=1,
        memory="256Mi",
        stop_grace_s=0,
    )
    ready: asyncio.Future[Shell] = asyncio.get_running_loop().create_future()
    with a_whole_tree(tmp_path) as (tree, whole, places):
        monkeypatch.setattr(LazyMounts, "whole", lambda _: {tree: whole})
        async with (
            open_bus(nats_server.url, instance=WORKER) as bus,
            asyncio.TaskGroup() as tasks,
            open_client(imagecache.url) as client,
        ):
            tasks.create_task(
                serve("worker", settings, WORKER, bus, open_service, on_ready=ready.set_result)
            )
            shell = await ready
            told: list[str] = []

            async def is_told() -> bool:
                told[:] = await client.get_peers(tree)
                return bool(told)

            await eventually(is_told)
            assert told == [shell.url]
            frames = await ask_peer(told[0], [place.digest for place in places])
            assert isinstance(frames, list)
            assert all(frame.stored for frame in frames)
            assert await ask_peer(told[0], [], "another") == 401
            shell.stopping.set()
    shutil.rmtree(directory, ignore_errors=True)
