"""Containers on trees that come from a real imagecache, in each of the ways that there are."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pickle
import signal
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from glowplug_contracts.ids import DEFAULT_WORKSPACE, Digest, ImageDigest
from glowplug_contracts.manifests import encode_manifest
from glowplug_contracts.messages.deployment import SourceRef
from glowplug_contracts.messages.image import BaseImage
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import encode_tree
from glowplug_imagecache.hot import HotLists
from glowplug_imagecache.http import make_app
from glowplug_imagecache.objects import digest_of, frame_of
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import open_http
from glowplug_worker.images import LocalImages, this_host
from glowplug_worker.images.fetch import ARCHITECTURES
from glowplug_worker.images.flat_objects import read_pack, read_piece
from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.mounts.lazy import LazyMounts
from glowplug_worker.images.mounts.probe import MountsWanted
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.leftovers import mounts_below

from tests.integration.worker.test_real_runner import a_call
from tests.support import erofs, lazy_trees
from tests.support.builders_images import TOKEN, a_manifest, a_store, open_worker_images
from tests.support.builders_worker import open_worker
from tests.support.eventually import eventually
from tests.support.nats import Server
from tests.support.python_tree import VERSION, make_python_tree

pytestmark = pytest.mark.skipif(
    not (erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads()),
    reason="takes root, Linux 6.14, and a file system that tells of reads",
)
LAZY = pytest.mark.parametrize("wanted", ["fanotify", "fuse"])
APP = """
def look():
    import of_the_image
    return [of_the_image.NAME, open("/etc/own").read()]
"""
NEVER_READ = os.urandom(300_000)


class Shop(msgspec.Struct, frozen=True):
    """An imagecache's store with an image of a registry in it, and a program."""

    store: Store
    tree: Digest
    image: ImageDigest
    source: Digest
    asked: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        @web.middleware
        async def note(request: web.Request, handler: Any) -> Any:
            self.asked.append(request.path)
            return await handler(request)

        app = make_app(self.store, Clock(), TOKEN, HotLists(self.store).routes())
        app.middlewares.append(note)
        async with open_http(app, "127.0.0.1", 0) as port:
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("stock")
    root = make_python_tree(folder / "tree")
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/own").write_text("the image's own")
    (root / "opt/never-read").write_bytes(NEVER_READ)
    flattened, store = flatten(root), a_store(folder / "store")
    tree = flattened.tree
    objects = [read_pack(root, flattened, number) for number in range(len(tree.packs))]
    objects += [read_piece(root, flattened, number) for number in range(len(tree.pieces))]
    store.put_chunks([frame_of(each) for each in objects])
    manifest = a_manifest()
    machine = this_host().rpartition("/")[2]
    base = BaseImage(
        reference="a/b@sha256:" + "0" * 64,
        platform=f"linux/{ARCHITECTURES.get(machine, machine)}",
        tree=store.add_blob(encode_tree(tree)),
        python="/opt/own/bin/python3",
        path="/opt/own/bin",
    )
    manifest = msgspec.structs.replace(manifest, base=base, python_version=VERSION)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", APP)
    digest = digest_of(buffer.getvalue())
    with store.open_upload(digest, owner=DEFAULT_WORKSPACE) as upload:
        upload.write(buffer.getvalue())
        upload.finish(keep_until=None)
    image = ImageDigest(store.add_blob(encode_manifest(manifest)))
    return Shop(store, base.tree, image, digest)


@contextlib.asynccontextmanager
async def a_worker(
    broker: Server, rest: Any, directory: Path, url: str, wanted: MountsWanted
) -> AsyncIterator[LocalImages]:
    backend = await choose_backend("bwrap", directory / "probe")
    async with (
        open_bus(broker.url, instance=directory.name) as bus,
        open_worker_images(directory / "data", url, wanted) as images,
        open_worker(bus, directory / "worker", backend, images=images) as service,
    ):
        rest.beats.clear()
        await service.send_beat()
        await eventually(lambda: rest.beats, what="its connection is heard, and hears")
        yield images


def calling(stock: Shop) -> dict[str, Any]:
    source = SourceRef(blob=stock.source, handler="app:look")
    return {"source": source, "image_digest": stock.image, "workspace": DEFAULT_WORKSPACE}


async def answers(rest: Any, container_id: str, invocation_id: str) -> None:
    before = len(rest.outcomes)
    await rest.run(a_call(invocation_id=invocation_id), container_id)
    await eventually(lambda: len(rest.outcomes) > before, what="an outcome")
    outcome = rest.outcomes[-1]
    assert outcome.state is State.SUCCEEDED, outcome.error
    assert pickle.loads(outcome.result.data) == ["of the image", "the image's own"]


@pytest.mark.parametrize("wanted", ["fanotify", "fuse", "extract"])
async def test_a_container_runs_on_it_and_its_root_goes_with_the_worker(
    nats_server: Server, rest: Any, stock: Shop, tmp_path: Path, wanted: MountsWanted
) -> None:
    async with stock.open() as url, a_worker(nats_server, rest, tmp_path, url, wanted) as images:
        assert images.mounts.method == {"extract": "extraction"}.get(wanted, wanted)
        await rest.bound(**calling(stock))
        await answers(rest, "ctr_1", "inv_1")
        mounted = lazy_trees.mounted_below(tmp_path / "data")
        assert len(mounted) == {"extract": 0, "fanotify": 1, "fuse": 3}[wanted]
    assert mounts_below(tmp_path) == []


async def test_what_a_first_start_reads_is_there_before_the_first_one_elsewhere(
    nats_server: Server, rest: Any, stock: Shop, tmp_path: Path
) -> None:
    hot = HotLists(stock.store)
    async with stock.open() as url:
        async with a_worker(nats_server, rest, tmp_path / "one", url, "fanotify"):
            await rest.bound(**calling(stock))
            known = await eventually(lambda: hot.get(stock.tree), what="the list is kept")
        async with a_worker(nats_server, rest, tmp_path / "two", url, "fanotify") as images:
            assert isinstance(images.mounts, LazyMounts)
            await rest.bound(container_id="ctr_2", **calling(stock))
            waited_for = await images.mounts.recorded(stock.tree)
    assert len(known) > 5
    assert not set(known) & set(waited_for)


@LAZY
async def test_a_killed_holder_ends_the_containers_that_read_by_it_and_later_ones_run(
    nats_server: Server, rest: Any, stock: Shop, tmp_path: Path, wanted: MountsWanted
) -> None:
    hidden = _hide(stock)
    try:
        async with (
            stock.open() as url,
            a_worker(nats_server, rest, tmp_path, url, wanted) as images,
        ):
            assert isinstance(images.mounts, LazyMounts)
            await rest.bound(**calling(stock))
            os.kill(images.mounts.processes()["holder"], signal.SIGKILL)
            lost = await eventually(
                lambda: [each for each in rest.changes if each.state == "failed"], what="it ends"
            )
            assert [(each.reason, each.error.code) for each in lost] == [
                ("image_lost", "container.image_lost")
            ]
            rest.changes.clear()
            await rest.bound(container_id="ctr_2", **calling(stock))
            await answers(rest, "ctr_2", "inv_2")
    finally:
        _show(hidden)


def _hide(stock: Shop) -> Path:
    """Take an object out of the store that no start reads, so that no tree is ever filled."""
    digest = digest_of(NEVER_READ)
    path = stock.store.root / "chunks" / digest[:2] / digest
    return path.rename(stock.store.root / digest)


def _show(hidden: Path) -> None:
    hidden.rename(hidden.parent / "chunks" / hidden.name[:2] / hidden.name)


@LAZY
async def test_what_was_fetched_is_not_fetched_again_by_the_next_worker_of_the_host(
    stock: Shop, tmp_path: Path, wanted: MountsWanted
) -> None:
    async with stock.open() as url:
        async with open_worker_images(tmp_path, url, wanted) as images:
            first = await _root(images, stock)
            assert isinstance(images.mounts, LazyMounts)
            await lazy_trees.fill(
                images.mounts, stock.tree, decode_tree(stock.store.blob(stock.tree))
            )
            sums = await asyncio.to_thread(lazy_trees.sums, first)
        stock.asked.clear()
        async with open_worker_images(tmp_path, url, wanted) as images:
            again = await _root(images, stock)
            assert await asyncio.to_thread(lazy_trees.sums, again) == sums
        assert again != first
        assert not [path for path in stock.asked if path == "/chunks/get"]


async def _root(images: LocalImages, stock: Shop) -> Path:
    image = await images.ensure(stock.image, "ctr_1")
    assert image.base is not None
    return image.base.root
