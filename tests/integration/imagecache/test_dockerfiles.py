"""Steps of Dockerfiles in real containers: commands as somebody, copies through links, stages, and configuration."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug.dockerfile.context import pack_sources
from glowplug_contracts.ids import DEFAULT_WORKSPACE, Digest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_runtime.service import Shell

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_builds_on_a_worker import real_worker
from tests.support.builders_images import open_worker_images
from tests.support.python_tree import make_python_tree
from tests.support.scripted_registry import ScriptedRegistry, open_scripted

__all__ = ["real_worker"]
pytestmark = pytest.mark.parametrize("real_worker", ["bwrap"], indirect=True)
# An ordinary user's worker has no other accounts to give; that is tried below.
READER = "reader" if os.geteuid() == 0 else ""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nreader:x:48:49::/home/reader:/bin/sh\n"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ScriptedRegistry]:
    root = make_python_tree(tmp_path / "tree", programs=["id", "cat", "stat", "ls"])
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text("root:x:0:\nreaders:x:49:\nmore:x:50:reader\n")
    (root / "usr").mkdir(exist_ok=True)
    (root / "usr/there").mkdir(mode=0o700)
    (root / "there").symlink_to("usr/there")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    async with open_scripted() as registry:
        env = ["PATH=/opt/own/bin:/bin", "KNOWN=by the base"]
        registry.add_image(buffer.getvalue(), config={"config": {"Env": env, "WorkingDir": "/usr"}})
        yield registry


def command(text: str, *, user: str = "", cwd: str = "", **env: str) -> ImageStep:
    return ImageStep(kind="exec", args=("/bin/sh", "-c", text), env=env, cwd=cwd, user=user)


async def test_a_dockerfile_is_built_step_by_step(
    ask: Ask, real_worker: Shell, imagecache: Shell, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    base = f"{registry.host}/app:1"
    context = tmp_path / "context"
    (context / "d/e").mkdir(parents=True)
    for name in ("one", "d/two", "d/e/three"):
        (context / name).write_text(name)
    async with open_worker_images(tmp_path / "other", imagecache.url) as images:

        async def copied(target: str, *sources: str, **more) -> ImageStep:
            data = pack_sources(1, context, sources, unpacks=False)
            blob = await images.client.put(data, DEFAULT_WORKSPACE, keep_s=0)
            return ImageStep(kind="copy", args=(target, *sources), blob=Digest(blob), **more)

        stage = ImageSpec(
            base=base,
            steps=(
                await copied("/made/in", "one"),
                command("echo built > /made/out; echo no > /made/no"),
            ),
        )
        spec = ImageSpec(
            base=base,
            steps=(
                await copied("there/", "one", uid=5, gid=6, mode=0o640),
                await copied("/srv/all", "d"),
                ImageStep(kind="copy", args=("/from/", "/made/o*", "/made/in"), stage=stage),
                command("echo $KNOWN-$MORE > said; pwd > pwd", MORE="$$x${KNOWN}", cwd="/new/dir"),
                command("id -u; id -g; id -G; echo ~; export -p", user=READER),
                ImageStep(
                    kind="config", env={"PATH": "/first:${PATH}", "NEW": "1"}, cwd="/new/dir"
                ),
            ),
        )
        asked = await ask(spec)
        assert asked.done.error is None, (asked.done.error, asked.output)
        image = await images.ensure(asked.done.image_digest)
        assert image.base is not None
        root = image.base.root
        assert (image.base.path, image.base.cwd) == ("/first:/opt/own/bin:/bin", "/new/dir")
        assert image.env["NEW"] == "1"
        assert (root / "usr/there/one").read_text() == "one"
        facts = (root / "usr/there/one").stat()
        assert facts.st_mode & 0o777 == 0o640
        assert (root / "there").is_symlink()
        assert (root / "usr/there").stat().st_mode & 0o777 == 0o700
        assert (root / "srv/all/e/three").read_text() == "d/e/three"
        assert sorted(path.name for path in (root / "from").iterdir()) == ["in", "out"]
        assert (root / "new/dir/said").read_text() == "by the base-$xby the base\n"
        assert (root / "new/dir/pwd").read_text() == "/new/dir\n"
        if os.geteuid() == 0:
            assert (facts.st_uid, facts.st_gid) == (5, 6)
            assert "48\n49\n49 50\n/home/reader\n" in asked.output
        assert "GLOWPLUG" not in asked.output.replace("glowplug", "")
        again = await ask(spec)
        assert {cached for _, cached in again.steps} == {True}
        lacking = ImageStep(kind="copy", args=("/x", "/made/none"), stage=stage)
        refused = await ask(ImageSpec(base=base, steps=(lacking,)))
        assert refused.done.error is not None
        assert "'/made/none' is not in the stage" in refused.done.error.message
        if os.geteuid() != 0:
            other = await ask(ImageSpec(base=base, steps=(command("true", user="reader"),)))
            assert "run by an ordinary user, so that builds have root alone" in other.output
        stranger = await ask(ImageSpec(base=base, steps=(command("true", user="nobody-here"),)))
        assert "no user 'nobody-here'" in stranger.output
