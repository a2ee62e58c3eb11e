"""A host that can't have rooted containers says in a sentence what it lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from glowplug_contracts.messages.container import ContainerKind
from glowplug_worker.ports import Exit, StartPlan
from glowplug_worker.runtime.python import own_python
from glowplug_worker.runtime.rooted.backend import Rooted
from glowplug_worker.runtime.rooted.hostpython import host_python

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps ids of its own, as root alone may")


@pytest.fixture
def home() -> Iterator[Path]:
    # Not below pytest's own directory, which other users may not enter.
    home = Path(tempfile.mkdtemp(prefix="glowplug-test-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def overlaid(home: Path) -> Iterator[Path]:
    """A directory on an overlay, which the kernel lets no other one write to."""
    parts = [home / name for name in ("lower", "upper", "work", "all")]
    for part in parts:
        part.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*parts)
    subprocess.run(["mount", "-t", "overlay", "o", "-o", options, parts[-1]], check=True)
    yield parts[-1]
    subprocess.run(["umount", parts[-1]], check=True)


async def started(home: Path, tree: Path, changes: Path) -> Exit:
    own = own_python()
    host = host_python(own)
    plan = StartPlan(
        container_id="ctr_lacking",
        kind=ContainerKind.BUILD,
        interpreter=own,
        argv=(*host.command, "-I", "-S", "-c", "print('ran')"),
        fds=(),
        env={"PATH": "/bin"},
        cwd="/",
        scratch=home / "scratch",
        binds=host.binds,
        root=tree,
    )
    backend: Any = SimpleNamespace(name="bwrap")
    running = await Rooted(backend).start(plan, changes)
    try:
        return await running.wait()
    finally:
        await running.close()


async def test_a_container_that_is_made_ends_as_its_program_does(home: Path) -> None:
    (home / "tree").mkdir()
    end = await started(home, home / "tree", home / "changes")
    assert (end.code, end.unmade) == (0, False), end.stderr_tail


async def test_a_filesystem_without_mapped_mounts_is_named(home: Path) -> None:
    end = await started(home, Path("/proc/sys"), home / "changes")
    assert end.unmade
    (said,) = end.stderr_tail.splitlines()
    assert said.startswith("this host lacks mapped mounts of the filesystem that images lie on: ")
    assert said.endswith("(system call 442: Invalid argument)")


async def test_a_filesystem_that_takes_no_overlay_is_named(home: Path, overlaid: Path) -> None:
    (home / "tree").mkdir()
    end = await started(home, home / "tree", overlaid / "changes")
    assert end.unmade
    assert end.stderr_tail.startswith("this host lacks an overlay over an image's files: ")
    assert end.stderr_tail.endswith("/root: Invalid argument)\n")
