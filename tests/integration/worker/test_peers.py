"""Workers bring a tree's objects from workers that have it, and from imagecache what those don't give."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import blake3
import pytest
import zstandard
from aiohttp import web
from glowplug_contracts.ids import Digest, WorkerId
from glowplug_contracts.manifests import (
    ChunkFrame,
    batch_bytes,
    decode_digests,
)
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_imagecache.peers import TreePeers
from glowplug_runtime.clock import Clock
from glowplug_runtime.http import open_http
from glowplug_worker.images.client import open_session
from glowplug_worker.images.mounts.daemon.beside import Place
from glowplug_worker.images.mounts.files import Whole
from glowplug_worker.images.mounts.lazy import LazyMounts
from glowplug_worker.images.mounts.probe import MountMethod, why_not_fanotify, why_not_fuse
from glowplug_worker.images.mounts.sources import plain
from glowplug_worker.images.objects import digest_of
from glowplug_worker.images.peers.asking import PeersFirst
from glowplug_worker.images.peers.door import PeerDoor

from tests.support.builders_images import TOKEN, open_imagecache
from tests.support.counted_store import CountingStore, an_image
from tests.support.lazy_nodes import a_node, a_whole_tree, ask_peer, filled

STREAMS = 4
chance = random.Random(7)
FILES = {f"lib/f{number}": chance.randbytes(700) for number in range(50)}
FILES["large"] = chance.randbytes(2_500_000)


@pytest.fixture(params=["fanotify", "fuse"])
def method(request: pytest.FixtureRequest, tmp_path: Path) -> MountMethod:
    why = {"fanotify": why_not_fanotify, "fuse": why_not_fuse}[request.param](tmp_path)
    if why:
        pytest.skip(why)
    return request.param


class Town:
    """An imagecache with one image, and what it tells of workers that have it."""

    def __init__(self, store: CountingStore, tree: Digest) -> None:
        self.store, self.tree, self.url = store, tree, ""
        self.told: dict[str, str] = {}

    def beats(self) -> list[WorkerBeat]:
        return [
            WorkerBeat(
                worker_id=WorkerId(name),
                beat=1,
                started_at=0.0,
                host="h",
                cpu_millis=1,
                memory_bytes=1,
                trees=(self.tree,),
            )
            for name in self.told
        ]

    @contextlib.asynccontextmanager
    async def door(self, mounts: LazyMounts, streams: int = STREAMS) -> AsyncIterator[PeerDoor]:
        """Open a worker's door, and tell of it."""
        door = PeerDoor(mounts.whole, Clock(), TOKEN, streams=streams, bytes_per_s=0)
        async with open_http(door.app(), "127.0.0.1", 0) as port:
            self.told["there"] = f"http://127.0.0.1:{port}"
            yield door

    async def fill(self, mounts: LazyMounts, holder: str) -> None:
        """Have all of the image, and compare it."""
        held = await mounts.hold(self.tree, holder)
        await filled(mounts, self.tree)
        for name, content in FILES.items():
            assert (held.root / name).read_bytes() == content


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    store = CountingStore(tmp_path / "store")
    _, tree = an_image(store, tmp_path, FILES)
    store.asked.clear()
    made = Town(store, tree)
    routes = TreePeers(made.beats, lambda: made.told).routes()
    async with open_imagecache(store, token=TOKEN, more=routes) as made.url:
        yield made


@pytest.mark.root
async def test_a_second_worker_brings_nothing_from_imagecache(
    tmp_path: Path, method: MountMethod, town: Town
) -> None:
    async with (
        a_node(tmp_path / "one", town.url, method) as one,
        a_node(tmp_path / "two", town.url, method) as two,
    ):
        await town.fill(one, "ctr_1")
        assert one.from_peers(town.tree) == 0
        town.store.asked.clear()
        async with town.door(one) as door:
            await town.fill(two, "ctr_2")
        assert not town.store.asked
        assert two.from_peers(town.tree) == door.given >= sum(map(len, FILES.values()))
        await one.release(town.tree, "ctr_1")
        await two.release(town.tree, "ctr_2")


@pytest.mark.root
@pytest.mark.parametrize("peer", ["lies", "gone"])
async def test_whatever_a_worker_does_the_image_arrives(
    tmp_path: Path, method: MountMethod, town: Town, peer: str
) -> None:
    answering = Answering(peer)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(open_http(answering.app, "127.0.0.1", 0))
        if peer == "gone":
            await stack.aclose()
        town.told["there"] = f"http://127.0.0.1:{port}"
        mounts = await stack.enter_async_context(a_node(tmp_path / "node", town.url, method))
        await town.fill(mounts, "ctr_1")
        assert mounts.from_peers(town.tree) == 0
        await mounts.release(town.tree, "ctr_1")
    assert bool(answering.asked) == (peer != "gone")


class Answering:
    """A worker that gives nothing of use."""

    def __init__(self, how: str) -> None:
        self.app = web.Application()
        self.app.router.add_post("/chunks/get", self._answer)
        self.how = how
        self.asked = 0

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.how == "refuses":
            return web.Response(status=503)
        digests = decode_digests(await request.read())
        data = None if self.how == "lacks" else zstandard.compress(b"something else")
        return web.Response(body=b"".join(batch_bytes(ChunkFrame(d, 14, data)) for d in digests))


class Source:
    """What has every object that it was made with."""

    def __init__(self, objects: dict[Digest, bytes]) -> None:
        self.objects = objects
        self.asked: list[Digest] = []

    async def manifest(self, digest: Digest) -> bytes:
        return self.objects[digest]

    async def fetch(self, digests: Sequence[Digest]) -> list[tuple[Digest, bytes]]:
        self.asked += digests
        return [(digest, self.objects[digest]) for digest in digests]


@pytest.mark.parametrize("how", ["lies", "lacks", "refuses"])
async def test_a_worker_that_gave_nothing_of_use_is_not_asked_at_once_again(
    how: str,
) -> None:
    content = {Digest(blake3.blake3(data).hexdigest()): data for data in (b"one", b"two")}
    source, answering = Source(content), Answering(how)
    async with open_http(answering.app, "127.0.0.1", 0) as port, open_session(TOKEN) as session:

        async def find() -> list[str]:
            return [f"http://127.0.0.1:{port}"]

        peers = PeersFirst(source, find, session)
        for _ in range(2):
            assert dict(await peers.fetch(list(content))) == content
        assert (answering.asked, peers.brought) == (1, 0)
        assert source.asked == [*content, *content]


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[tuple[dict[Digest, Whole], list[Place]]]:
    """A tree that is all here but for its second object, which was hurt, and the third, which is a hole."""
    with a_whole_tree(tmp_path, hurt=1, lacks=2) as (digest, whole, places):
        yield {digest: whole}, places


async def test_a_door_gives_what_is_asked_for_by_its_digest_and_is_that(
    whole: tuple[dict[Digest, Whole], list[Place]],
) -> None:
    trees, places = whole
    assert len(places) > 3
    door = PeerDoor(lambda: trees, Clock(), TOKEN, streams=1, bytes_per_s=0)
    async with open_http(door.app(), "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}"
        names = [place.digest for place in places]
        frames = await ask_peer(url, [*names, *trees, Digest("0" * 64)])
        assert isinstance(frames, list)
        given = [frame.digest for frame in frames if frame.stored is not None]
        assert given == [name for number, name in enumerate(names) if number not in (1, 2)]
        assert all(digest_of(plain(frame)) == frame.digest for frame in frames if frame.stored)
        assert door.given == sum(each.size for each in places if each.digest in given)
        assert await ask_peer(url, names, "another") == 401
        trees.clear()
        frames = await ask_peer(url, names)
        assert isinstance(frames, list)
        assert not any(frame.stored for frame in frames)


async def test_a_door_refuses_at_once_what_is_more_than_its_streams() -> None:
    door = PeerDoor(dict, Clock(), TOKEN, streams=0, bytes_per_s=0)
    async with open_http(door.app(), "127.0.0.1", 0) as port:
        assert await ask_peer(f"http://127.0.0.1:{port}", [Digest("0" * 64)]) == 503


async def test_a_door_without_a_token_lets_nobody_in() -> None:
    door = PeerDoor(dict, Clock(), "", streams=1, bytes_per_s=0)
    async with open_http(door.app(), "127.0.0.1", 0) as port:
        assert await ask_peer(f"http://127.0.0.1:{port}", [], "") == 401
