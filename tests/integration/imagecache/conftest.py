"""A running imagecache service with a worker that builds for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.image import BuildProgress, EnsureAccepted, EnsureImage
from glowplug_contracts.subjects import ENSURE_IMAGE, IMAGE_PROGRESS
from glowplug_imagecache.__main__ import open_service
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_runtime.bus import Delivery
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.clock import Clock
from glowplug_runtime.service import Shell, serve
from glowplug_worker.images import LocalImages

from tests.support.builders_images import TOKEN, open_worker_images
from tests.support.pretend_worker import PretendWorker

WITHIN_S = 60.0


@pytest.fixture
def internal_token() -> str:
    return TOKEN


@pytest.fixture
def told() -> dict[str, int]:
    """Return settings that a test changes."""
    return {}


@pytest.fixture
async def imagecache(
    bus: NatsBus, tmp_path: Path, internal_token: str, told: dict[str, int]
) -> AsyncIterator[Shell[ImagecacheSettings]]:
    """The service, with its store under tmp_path/store; stopped after the test."""
    token_file = tmp_path / "token"
    token_file.write_text(internal_token)
    settings = ImagecacheSettings(
        data_dir=str(tmp_path / "store"),
        internal_token_file=str(token_file),
        free_bytes_min=0,
        registry_networks="127.0.0.0/8",
        registry_tries=1,
        scrub_bytes_per_s=0,  # tests that want it do it themselves
        **told,
    )
    ready: asyncio.Future[Shell[ImagecacheSettings]] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            serve(
                "imagecache", settings, "imagecache", bus, open_service, on_ready=ready.set_result
            )
        )
        shell = await ready
        yield shell
        shell.stopping.set()


@pytest.fixture
async def images(
    imagecache: Shell[ImagecacheSettings], tmp_path: Path, internal_token: str
) -> AsyncIterator[LocalImages]:
    async with open_worker_images(
        tmp_path / "worker", imagecache.url, token=internal_token
    ) as images:
        yield images


@pytest.fixture
async def worker(bus: NatsBus, images: LocalImages, tmp_path: Path) -> AsyncIterator[PretendWorker]:
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    worker = PretendWorker(bus, images, python, tmp_path / "containers")
    worker.pythons = (f"3.{sys.version_info.minor}", "3.99")
    async with worker.open():
        yield worker


class Asked(msgspec.Struct):
    """What an asker heard."""

    said: list[BuildProgress]

    @property
    def done(self) -> BuildProgress:
        return self.said[-1]

    @property
    def steps(self) -> list[tuple[str, bool]]:
        return [(each.text, each.cached) for each in self.said if each.kind == "step"]

    def moved(self, text: str) -> list[tuple[int, int]]:
        """Return how far something was, each time that it was said."""
        said = [each for each in self.said if (each.kind, each.text) == ("bytes", text)]
        return [(each.bytes_done, each.bytes_total) for each in said]

    @property
    def output(self) -> str:
        return "".join(each.text for each in self.said if each.kind == "output")


class Ask:
    """Asks for images, as a gateway does."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus
        self._clock = Clock()

    async def __call__(self, spec: ImageSpec) -> Asked:
        reply_to = self._clock.id("build")
        heard: asyncio.Queue[BuildProgress] = asyncio.Queue()

        async def on_progress(delivery: Delivery[BuildProgress]) -> None:
            assert delivery.message is not None
            heard.put_nowait(delivery.message)

        pattern = IMAGE_PROGRESS.pattern(instance=reply_to)
        listening = await self._bus.listen(pattern, on_progress)
        request = EnsureImage(spec=spec, workspace=DEFAULT_WORKSPACE, reply_to=reply_to)
        await self._bus.request(ENSURE_IMAGE.at(), request, EnsureAccepted, timeout_s=5)
        said: list[BuildProgress] = []
        async with asyncio.timeout(WITHIN_S):
            while not said or not said[-1].done:
                said.append(await heard.get())
        await listening.close()
        numbers = [each.number for each in said]
        assert numbers == sorted(set(numbers))
        return Asked(said)


@pytest.fixture
def ask(bus: NatsBus, imagecache: Shell[ImagecacheSettings]) -> Ask:
    return Ask(bus)
