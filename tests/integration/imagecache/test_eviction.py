"""Eviction through the real service: what is deployed, asked for or running stays; the rest is built again."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, ContainerId, DeploymentId, SandboxId, WorkerId
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionKind,
    ImageSpec,
    Resources,
    SourceRef,
)
from glowplug_contracts.messages.sandbox import SandboxRecord, SandboxSpec, SandboxState
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat
from glowplug_contracts.streams import BUILD_STEPS, DEPLOYMENTS, IMAGES, SANDBOXES
from glowplug_imagecache.evicting import LOCK
from glowplug_imagecache.keeping import Keeper
from glowplug_imagecache.locking import only_one
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.support.builders_images import a_store, file_image
from tests.support.pretend_worker import PretendWorker

A_DAY_AGO_S = 86_400.0


@pytest.fixture
def store(imagecache: Shell[ImagecacheSettings]) -> Store:
    return a_store(Path(imagecache.settings.data_dir))


def a_keeper(
    imagecache: Shell[ImagecacheSettings], store: Store, beats: list[WorkerBeat], **told: float
) -> Keeper:
    """Return one that evicts at its first tick."""
    bounds = {"store_bytes_max": 1, "evict_s": 0.0, "image_unused_s": 2 * A_DAY_AGO_S} | told
    imagecache.settings = msgspec.structs.replace(imagecache.settings, **bounds)
    return Keeper(imagecache, store, lambda: beats)


def a_day_passes(store: Store) -> None:
    for room in ("chunks", "blobs", "workspaces"):
        for path in (store.root / room).rglob("*"):
            if path.is_file():
                at = path.stat().st_mtime - A_DAY_AGO_S
                os.utime(path, (at, at))


def an_image(store: Store, name: str) -> ImageSpec:
    return file_image(store, (name, name.encode()))


def a_deployment(image: str, source: str | None = None, **fields: object) -> Deployment:
    spec = DeploymentSpec(
        name="f",
        kind=FunctionKind.FUNCTION,
        source=SourceRef(handler="a:f", blob=source),  # type: ignore[arg-type]
    )
    return Deployment(
        deployment_id=DeploymentId("dep_1"),
        workspace=DEFAULT_WORKSPACE,
        version=1,
        spec=spec,
        image_digest=image,  # type: ignore[arg-type]
        **fields,  # type: ignore[arg-type]
    )


async def test_what_is_needed_stays_and_the_rest_is_built_again(
    bus: NatsBus,
    ask: Ask,
    worker: PretendWorker,
    images: LocalImages,
    imagecache: Shell[ImagecacheSettings],
    store: Store,
) -> None:
    names = ("deployed", "sandboxed", "running", "deleted", "nobodys")
    made = {name: (await ask(an_image(store, name))).done.image_digest for name in names}
    deployments, sandboxes = bus.bucket(DEPLOYMENTS), bus.bucket(SANDBOXES)
    await deployments.put("default.dep_1", a_deployment(made["deployed"]))
    gone = a_deployment(made["deleted"], state=DeploymentState.DELETED)
    await deployments.put("default.dep_2", gone)
    for name, state in (("sandboxed", SandboxState.RUNNING), ("nobodys", SandboxState.TERMINATED)):
        record = SandboxRecord(
            sandbox_id=SandboxId(f"sbx_{name}"),
            workspace=DEFAULT_WORKSPACE,
            spec=SandboxSpec(),
            container_id=ContainerId("ctr_1"),
            state=state,
            image_digest=made[name],
        )
        await sandboxes.put(f"default.{record.sandbox_id}", record)
    keeper = a_keeper(imagecache, store, [a_beat(made["running"])])
    a_day_passes(store)
    await keeper.tick()
    assert keeper.last is not None
    assert {one.digest for one in keeper.last.images} == {made["deleted"], made["nobodys"]}
    assert {one.why for one in keeper.last.images} == {"room"}
    assert keeper.last.swept == 2
    steps = [entry.value.image_digest for entry in await bus.bucket(BUILD_STEPS).entries()]
    assert set(steps) == {made["deployed"], made["sandboxed"], made["running"]}
    for name in ("deployed", "sandboxed", "running"):
        assert (await images.ensure(made[name])).root.exists()
    again = await ask(an_image(store, "nobodys"))
    assert again.done.image_digest == made["nobodys"]
    assert [cached for _, cached in again.steps] == [False]
    assert (await images.ensure(made["nobodys"])).root.exists()


def a_beat(image: str) -> WorkerBeat:
    container = ContainerView(
        container_id=ContainerId("ctr_9"),
        deployment_id=DeploymentId("dep_deleted"),
        workspace=DEFAULT_WORKSPACE,
        kind=ContainerKind.FUNCTION,
        state=ContainerState.READY,
        resources=Resources(),
        image_digest=image,  # type: ignore[arg-type]
    )
    return WorkerBeat(
        worker_id=WorkerId("w9"),
        beat=1,
        started_at=0.0,
        host="h",
        cpu_millis=1,
        memory_bytes=1,
        containers=(container,),
    )


async def test_what_was_used_lately_stays_though_the_store_is_too_full(
    ask: Ask, worker: PretendWorker, imagecache: Shell[ImagecacheSettings], store: Store
) -> None:
    await ask(an_image(store, "a"))
    keeper = a_keeper(imagecache, store, [])
    await keeper.tick()
    assert keeper.last is not None
    assert (keeper.last.images, keeper.last.swept) == ((), 0)
    assert keeper.last.over
    assert "over the bound of 1" in imagecache.notes["store"]
    again = await ask(an_image(store, "a"))
    assert [cached for _, cached in again.steps] == [True]


async def test_what_nobody_used_for_long_goes_though_there_is_room(
    ask: Ask, worker: PretendWorker, imagecache: Shell[ImagecacheSettings], store: Store
) -> None:
    await ask(an_image(store, "a"))
    a_day_passes(store)
    await ask(an_image(store, "b"))
    keeper = a_keeper(imagecache, store, [], store_bytes_max=0, image_unused_s=A_DAY_AGO_S / 2)
    await keeper.tick()
    assert keeper.last is not None
    assert [one.why for one in keeper.last.images] == ["unused"]
    assert keeper.last.swept == 1


async def test_sources_stay_while_a_version_names_them(
    bus: NatsBus, images: LocalImages, imagecache: Shell[ImagecacheSettings], store: Store
) -> None:
    named, other = [
        await images.client.put(data, DEFAULT_WORKSPACE, keep_s=0) for data in (b"named", b"other")
    ]
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment("", named))
    a_day_passes(store)
    await a_keeper(imagecache, store, []).tick()
    assert store.blob_size(named, DEFAULT_WORKSPACE) == 5
    assert store.blob_size(other, DEFAULT_WORKSPACE) is None


async def test_a_round_leaves_the_store_to_another_replica_that_evicts(
    ask: Ask, worker: PretendWorker, imagecache: Shell[ImagecacheSettings], store: Store
) -> None:
    await ask(an_image(store, "a"))
    a_day_passes(store)
    keeper = a_keeper(imagecache, store, [])
    with only_one(store.root / LOCK):
        await keeper.tick()
        assert keeper.last is None
    await keeper.tick()
    assert keeper.last is not None
    assert len(keeper.last.images) == 1


async def test_what_a_killed_round_left_behind_is_forgotten_by_the_next(
    bus: NatsBus,
    ask: Ask,
    worker: PretendWorker,
    imagecache: Shell[ImagecacheSettings],
    store: Store,
) -> None:
    dropped, needed, there = [
        (await ask(an_image(store, name))).done.image_digest
        for name in ("dropped", "needed", "there")
    ]
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(needed))
    for image in (dropped, needed):  # removed, and then the process died
        (store.root / "blobs" / image[:2] / image).unlink()
    await a_keeper(imagecache, store, []).tick()
    for bucket in (bus.bucket(BUILD_STEPS), bus.bucket(IMAGES)):
        left = {entry.value.image_digest for entry in await bucket.entries()}
        assert left == {needed, there}
