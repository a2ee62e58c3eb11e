"""Images that stand on a registry's: all that they need is kept, counted and shown, and goes with them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec
from glowplug_contracts.ids import DEFAULT_WORKSPACE, ImageDigest
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.streams import BUILD_STEPS, DEPLOYMENTS, IMAGES
from glowplug_imagecache.files import has_image, read_manifest
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_eviction import a_day_passes, a_deployment, a_keeper
from tests.support.bases import a_layer
from tests.support.builders_images import TOKEN, a_store
from tests.support.pretend_worker import PretendWorker
from tests.support.scripted_registry import open_scripted


async def test_a_needed_image_keeps_its_base_and_another_goes_with_all_and_is_pulled_again(
    bus: NatsBus,
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell[ImagecacheSettings],
) -> None:
    store = a_store(Path(imagecache.settings.data_dir))
    async with open_scripted() as registry:
        for name in ("needed", "nobodys"):
            registry.add_image(
                a_layer({"etc/name": name.encode(), f"opt/{name}": b"x" * 50_000}), tag=name
            )
        specs = {
            name: ImageSpec(base=f"{registry.host}/app:{name}", env={"A": "b"})
            for name in ("needed", "nobodys")
        }
        made = {name: (await ask(spec)).done.image_digest for name, spec in specs.items()}
        trees = {name: tree_of(store, digest) for name, digest in made.items()}
        assert trees["needed"] != trees["nobodys"]
        await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(made["needed"]))
        keeper = a_keeper(imagecache, store, [])
        a_day_passes(store)
        await keeper.tick()
        assert keeper.last is not None
        # The image itself, and the one that its step ended in, which has no environment.
        assert made["nobodys"] in {one.digest for one in keeper.last.images}
        assert keeper.last.trees == (trees["nobodys"],)
        # The pieces and packs of one, but for the pack that both have.
        assert keeper.last.swept > 0
        assert has_image(store, made["needed"])
        assert store.blob_size(trees["nobodys"]) is None
        kept = {entry.value.image_digest for entry in await bus.bucket(IMAGES).entries()}
        assert kept == {made["needed"]}
        image = await images.ensure(made["needed"], "ctr_1")
        assert image.base is not None
        assert (image.base.root / "etc/name").read_bytes() == b"needed"
        await images.release("ctr_1")
        again = await ask(specs["nobodys"])
        assert [cached for _, cached in again.steps] == [False]
        assert again.done.image_digest == made["nobodys"]
        assert has_image(store, made["nobodys"])


async def test_a_step_whose_tree_is_gone_is_pulled_again(
    bus: NatsBus, ask: Ask, worker: PretendWorker, imagecache: Shell[ImagecacheSettings]
) -> None:
    store = a_store(Path(imagecache.settings.data_dir))
    async with open_scripted() as registry:
        registry.add_image(a_layer({"etc/name": b"x"}))
        spec = ImageSpec(base=f"{registry.host}/app:1")
        first = await ask(spec)
        tree = tree_of(store, first.done.image_digest)
        (store.root / "blobs" / tree[:2] / tree).unlink()
        (step,) = await bus.bucket(BUILD_STEPS).entries()
        assert step.value is not None
        assert store.blob_size(step.value.image_digest) is not None  # type: ignore[arg-type]
        again = await ask(spec)
        assert [cached for _, cached in again.steps] == [False]
        assert again.done.image_digest == first.done.image_digest
        assert has_image(store, first.done.image_digest)


async def test_what_people_see_of_an_image_has_its_base_in_it(
    bus: NatsBus, ask: Ask, worker: PretendWorker, imagecache: Shell[ImagecacheSettings]
) -> None:
    store = a_store(Path(imagecache.settings.data_dir))
    async with open_scripted() as registry:
        for tag, more in (("1", {}), ("2", {"opt/more": b"m" * 60_000})):
            registry.add_image(a_layer({"opt/large": b"l" * 50_000, **more}), tag=tag)
        one, two = [
            (await ask(ImageSpec(base=f"{registry.host}/app:{tag}"))).done.image_digest
            for tag in ("1", "2")
        ]
    record = await bus.bucket(IMAGES).get(f"{DEFAULT_WORKSPACE}.{two}")
    assert record is not None
    assert record.value is not None
    # This is what a workspace's quota counts.
    assert record.value.bytes_total >= 110_000
    assert record.value.files == 3
    headers = {"Authorization": f"Bearer {TOKEN}", WORKSPACE_HEADER: DEFAULT_WORKSPACE}
    async with aiohttp.ClientSession(imagecache.url, headers=headers) as door:

        async def get(path: str) -> dict:
            async with door.get(path) as answer:
                assert answer.status == 200
                return msgspec.json.decode(await answer.read())

        shown = await get(f"/images/{two}")
        assert shown["base"].startswith(f"{registry.host}/app:2@sha256:")
        assert [file["path"] for file in shown["largest"][:2]] == ["/opt/more", "/opt/large"]
        assert 60_000 <= shown["distinct_bytes"] - 50_000 < 65_000
        assert (shown["missing"], shown["image"]["state"]) == (0, "ready")
        diff = await get(f"/images/{one}/diff/{two}")
        assert [(each["path"], each["how"]) for each in diff["changes"]] == [("/opt/more", "added")]
        assert diff["bytes_shared"] >= 50_000
        usage = (await get("/images/usage"))["workspace"]
        assert usage["logical_bytes"] >= usage["distinct_bytes"] + 50_000
        tree = tree_of(store, two)
        (store.root / "blobs" / tree[:2] / tree).unlink()
        states = {row["image_digest"]: row["state"] for row in (await get("/images"))["images"]}
        assert states == {one: "ready", two: "hurt"}
        shown = await get(f"/images/{two}")
        assert shown["missing"] == 1


def tree_of(store: Store, digest: ImageDigest) -> str:
    manifest = read_manifest(store, digest, wanted=False)
    assert manifest.base is not None
    return manifest.base.tree
