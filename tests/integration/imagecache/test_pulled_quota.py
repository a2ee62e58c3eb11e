"""Pulls against a workspace's quota: before anything is brought, by what the registry says; then by what it came to."""

from __future__ import annotations

import random

import pytest
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.streams import BUILD_STEPS, IMAGES
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell

from tests.integration.imagecache.conftest import Ask
from tests.support.bases import a_layer
from tests.support.pretend_worker import PretendWorker
from tests.support.scripted_registry import open_scripted

BYTES_MAX = 150_000


@pytest.mark.parametrize("told", [{"workspace_bytes_max": BYTES_MAX}])
async def test_a_pull_is_held_against_the_quota_before_and_after(
    bus: NatsBus,
    ask: Ask,
    worker: PretendWorker,
    imagecache: Shell[ImagecacheSettings],
    told: dict[str, int],
) -> None:
    async with open_scripted() as registry:
        for tag, content in (
            ("fits", b"x" * 100_000),
            ("large", random.Random(1).randbytes(200_000)),  # does not compress
            ("larger than it travels", b"y" * 200_000),
        ):
            registry.add_image(a_layer({"opt/f": content}), tag=tag.split()[0])
        fits, large, larger = (
            ImageSpec(base=f"{registry.host}/app:{tag}") for tag in ("fits", "large", "larger")
        )
        refused = (await ask(large)).done.error
        assert refused is not None
        assert refused.code == "store.full"
        assert f"{registry.host}/app:large can't be pulled" in refused.message
        assert f"beyond its {BYTES_MAX}" in refused.message
        assert len(registry.asked("/blobs/")) == 1  # the configuration, and no layer
        refused = (await ask(larger)).done.error
        assert refused is not None
        assert refused.code == "store.full"
        assert len(registry.asked("/blobs/")) == 3
        assert await bus.bucket(BUILD_STEPS).entries() == []
        # Nothing that was refused is counted any more.
        made = await ask(fits)
        assert made.done.error is None
        # What is counted already is not counted again, where the same image is pulled anew.
        (step,) = await bus.bucket(BUILD_STEPS).entries()
        await bus.bucket(BUILD_STEPS).delete(step.key)
        again = await ask(fits)
        assert [cached for _, cached in again.steps] == [False]
        assert again.done.image_digest == made.done.image_digest
    assert len(await bus.bucket(IMAGES).entries()) == 1
