"""The service on a bucket: what it builds is any replica's, and eviction and quotas see the bucket."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.streams import BUILD_STEPS, DEPLOYMENTS, IMAGES
from glowplug_imagecache.__main__ import open_service
from glowplug_imagecache.evicting import LOCK
from glowplug_imagecache.files import has_image
from glowplug_imagecache.keeping import Keeper
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.shared_store import SharedStore
from glowplug_imagecache.sole import SoleOfPlatform
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.clock import Clock
from glowplug_runtime.service import Shell, serve
from glowplug_runtime.settings import SettingsError
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_eviction import a_deployment
from tests.support.builders_images import TOKEN, file_image, open_worker_images
from tests.support.eventually import eventually
from tests.support.pretend_worker import PretendWorker
from tests.support.shared_stores import a_prefix, a_shared_store
from tests.support.weed import Weed

A_DAY_S = 86_400.0
COPIES = {"store": "replicas", "store_endpoint": ""}


@pytest.fixture
def prefix() -> str:
    return a_prefix()


@pytest.fixture
def told(weed: Weed, prefix: str) -> dict[str, str]:
    return {
        "store": str(weed.place(prefix)),
        "store_endpoint": weed.endpoint,
        "store_keys_file": str(weed.keys_file()),
    }


@pytest.fixture
def store(weed: Weed, prefix: str, tmp_path: Path) -> Iterator[SharedStore]:
    with a_shared_store(weed, tmp_path / "tests", prefix, name="test", fresh_s=0.0) as store:
        yield store


@pytest.fixture
async def second(
    imagecache: Shell[ImagecacheSettings], bus: NatsBus, tmp_path: Path
) -> AsyncIterator[Shell[ImagecacheSettings]]:
    """Another replica, with a directory of its own."""
    settings = msgspec.structs.replace(imagecache.settings, data_dir=str(tmp_path / "second"))
    ready: asyncio.Future[Shell[ImagecacheSettings]] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            serve("imagecache", settings, "second", bus, open_service, on_ready=ready.set_result)
        )
        shell = await ready
        yield shell
        shell.stopping.set()


class Tomorrow(Clock):
    def unix(self) -> float:
        return super().unix() + A_DAY_S


def tomorrows_keeper(
    imagecache: Shell[ImagecacheSettings], store: SharedStore, **told: float
) -> Keeper:
    bounds = {"store_bytes_max": 1, "evict_s": 0.0} | told
    imagecache.settings = msgspec.structs.replace(imagecache.settings, **bounds)
    imagecache.clock = Tomorrow()
    return Keeper(imagecache, store, list)


async def test_an_image_that_one_replica_built_is_served_by_another(
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell[ImagecacheSettings],
    second: Shell[ImagecacheSettings],
    store: SharedStore,
    tmp_path: Path,
) -> None:
    spec = file_image(store, ("a", b"1" * 5000), ("b", b"2"))
    image = (await ask(spec)).done.image_digest
    assert has_image(store, image)
    async with open_worker_images(tmp_path / "w2", second.url, token=TOKEN) as elsewhere:
        for held in (images, elsewhere):
            root = (await held.ensure(image)).root
            assert (root / "a").read_bytes() == b"1" * 5000
    for replica in (imagecache, second):  # what they have is of no use to anybody
        shutil.rmtree(Path(replica.settings.data_dir) / "cached")
    again = await ask(spec)
    assert again.done.image_digest == image
    assert [cached for _, cached in again.steps] == [True, True]


async def test_what_is_needed_stays_in_the_bucket_and_the_rest_is_built_again(
    bus: NatsBus,
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell[ImagecacheSettings],
    store: SharedStore,
) -> None:
    specs = {name: file_image(store, (name, name.encode())) for name in ("needed", "nobodys")}
    made = {name: (await ask(spec)).done.image_digest for name, spec in specs.items()}
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(made["needed"]))
    keeper = tomorrows_keeper(imagecache, store)
    other = SoleOfPlatform(imagecache, f"imagecache-{LOCK.removesuffix('.lock')}")
    other._lease.holder = "second"
    await eventually(other.take)  # the service looked at its start
    await keeper.tick()
    assert keeper.last is None  # one at a time
    await other.close()
    await keeper.tick()
    assert keeper.last is not None
    assert [one.digest for one in keeper.last.images] == [made["nobodys"]]
    assert keeper.last.swept == 1
    for bucket in (bus.bucket(BUILD_STEPS), bus.bucket(IMAGES)):
        assert {one.value.image_digest for one in await bucket.entries()} == {made["needed"]}
    assert has_image(store, made["needed"])
    again = await ask(specs["nobodys"])
    assert again.done.image_digest == made["nobodys"]
    assert [cached for _, cached in again.steps] == [False]
    assert (await images.ensure(made["nobodys"])).root.exists()


async def test_blobs_and_their_quota_are_the_buckets(
    imagecache: Shell[ImagecacheSettings],
    second: Shell[ImagecacheSettings],
    images: LocalImages,
    store: SharedStore,
    tmp_path: Path,
) -> None:
    blob = await images.client.put(b"argument", DEFAULT_WORKSPACE)
    async with open_worker_images(tmp_path / "w2", second.url, token=TOKEN) as elsewhere:
        assert await elsewhere.client.get(blob, DEFAULT_WORKSPACE) == b"argument"
    assert store.kept_bytes(DEFAULT_WORKSPACE) == len(b"argument")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"store": "s3://UPPER/x"}, "STORE is s3://bucket/prefix"),
        ({"store": "s3://key:hunter2@bucket/x"}, "keys go to a file"),
        ({"store": "s3://bucket/../x"}, "STORE's prefix"),
        ({"store_endpoint": "ftp://h"}, "STORE_ENDPOINT is http"),
        ({"store": ""}, "STORE is not a bucket"),
        ({"store": "replicas"}, "STORE is not a bucket"),
        ({**COPIES, "store_copies": 4}, "STORE_COPIES is 1 to"),
        ({**COPIES, "store_members": 0}, "STORE_MEMBERS is 1 to"),
        (COPIES, "INTERNAL_TOKEN_FILE"),
        ({**COPIES, "internal_token_file": __file__}, "needs a GLOWPLUG_INSTANCE"),
        ({"store_keys_file": "/no/such/file"}, "No such file"),
        ({"store_keys_file": "/proc/version"}, "is JSON with access_key_id"),
    ],
)
async def test_settings_that_can_not_be_are_said_at_the_start(
    bus: NatsBus, tmp_path: Path, told: dict[str, str], wrong: dict[str, object], says: str
) -> None:
    settings = ImagecacheSettings(data_dir=str(tmp_path / "store"), **told | wrong)
    with pytest.raises(BaseException) as caught:
        await serve("imagecache", settings, "imagecache", bus, open_service)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SettingsError)
    assert says in str(error)
    assert "hunter2" not in str(error)
