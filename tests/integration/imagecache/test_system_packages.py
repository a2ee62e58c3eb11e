"""Debian packages in images: the machine's own apt and dpkg in a small root, and a repository of one package."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_runtime.service import Shell

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_builds_on_a_worker import real_worker, run
from tests.support.builders_images import open_worker_images
from tests.support.python_tree import make_python_tree
from tests.support.scripted_registry import ScriptedRegistry, open_scripted

__all__ = ["real_worker"]
pytestmark = [
    pytest.mark.parametrize("real_worker", ["bwrap"], indirect=True),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt"),
]
PROGRAMS = (
    "apt-get", "dpkg", "dpkg-deb", "dpkg-split", "tar", "rm", "id", "chown", "diff", "ldconfig",
    "start-stop-daemon", "cat", "stat",
)  # fmt: skip
METHODS = Path("/usr/lib/apt/methods")
TABLES = Path("/usr/share/dpkg")
CONTROL = """Package: greeting
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: says something
"""
AFTER = "#!/bin/sh\nset -e\nid -u > /etc/installed-by\nchown 38:38 /usr/share/greeting/text\n"


def make_apt_root(root: Path) -> None:
    """Give a root what apt needs to install a package of a repository that lies in it."""
    for method in ("file", "copy", "store", "gpgv"):
        target = root / METHODS.relative_to("/") / method
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(METHODS / method, target)
    shutil.copytree(TABLES, root / TABLES.relative_to("/"))
    for folder in (
        "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d",
        "var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial", "var/log/apt", "usr/share", "root", "srv/repo", "tmp",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/lib/dpkg/status").touch()
    (root / "var/lib/dpkg/available").touch()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repo ./\n")
    (root / "usr/bin").symlink_to("../bin")


def make_package(repo: Path, work: Path) -> None:
    """Make the package, and the list that names it."""
    (work / "DEBIAN").mkdir(parents=True)
    (work / "DEBIAN/control").write_text(CONTROL)
    (work / "DEBIAN/postinst").write_text(AFTER)
    (work / "DEBIAN/postinst").chmod(0o755)
    (work / "usr/share/greeting").mkdir(parents=True)
    (work / "usr/share/greeting/text").write_text("hello\n")
    made = repo / "greeting_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", work, made],
        check=True,
        capture_output=True,
    )
    data = made.read_bytes()
    told = f"{CONTROL}Filename: ./{made.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (repo / "Packages").write_text(told)
    (repo / "Packages.gz").write_bytes(gzip.compress(told.encode()))


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ScriptedRegistry]:
    methods = [METHODS / each for each in ("file", "copy", "store", "gpgv")]
    root = make_python_tree(tmp_path / "tree", needed_by=methods, programs=PROGRAMS)
    root.chmod(0o755)
    make_apt_root(root)
    make_package(root / "srv/repo", tmp_path / "package")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".", filter=_of_root)
    async with open_scripted() as registry:
        config = {"config": {"Env": ["PATH=/opt/own/bin:/bin:/usr/bin"]}}
        registry.add_image(buffer.getvalue(), config=config)
        yield registry


async def test_system_packages_are_installed_by_the_images_own_apt(
    ask: Ask, real_worker: Shell, imagecache: Shell, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    base = f"{registry.host}/app:1"
    apt = ImageStep(kind="apt", args=("greeting",))
    asked = await ask(ImageSpec(base=base, steps=(apt, run("cat /usr/share/greeting/text"))))
    assert asked.done.error is None, (asked.done.error, asked.output)
    assert "Setting up greeting" in asked.output
    assert asked.output.endswith("hello\n")
    async with open_worker_images(tmp_path / "other", imagecache.url) as images:
        image = await images.ensure(asked.done.image_digest)
        assert image.base is not None
        assert (image.base.root / "etc/installed-by").read_text() == "0\n"
        assert (image.base.root / "usr/share/greeting/text").read_text() == "hello\n"
        assert "greeting" in (image.base.root / "var/lib/dpkg/status").read_text()
        assert not list((image.base.root / "var/lib/apt/lists").iterdir())
    lacking = await ask(ImageSpec(base=base, steps=(ImageStep(kind="apt", args=("no-such",)),)))
    error = lacking.done.error
    assert error is not None
    assert error.code == "image.build_failed"
    assert "Unable to locate package no-such" in "\n".join(error.details["last_lines"])
