"""What a container may ask of disks in a second: held by the kernel on the disk where its files really lie.

Nothing is expected to be quick here: the kernel's counts, before and after, are held against the time that
has passed. A busy machine can only make that time longer.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from glowplug_worker.ports import IoLimits, Limits
from glowplug_worker.runtime.devices import disk_of, disks_under

from tests.support.containers import open_container

MIB = 1 << 20
PIECE = 8192
COUNT = 6
A_SECOND = 12
# A file on a disk of the container's own is read and written on the host's disk again.
DISKS = 2
# The kernel lets the first ones through before it begins to count.
BURST = 2
CODE = f"""
import mmap
page = mmap.mmap(-1, {PIECE})
fd = os.open(os.environ["HOME"] + "/file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
say(1)
for work in (os.pwrite, os.preadv):
    hear()
    for n in range({COUNT}):
        work(fd, page if work is os.pwrite else [page], n * {PIECE})
    say(1)
"""


async def test_disks_do_no_more_for_a_container_than_it_may_ask(backend, tmp_path):
    if "io" not in backend.enforces:
        pytest.skip(f"{backend.name} can only enforce {sorted(backend.enforces)} here")
    if not disks_under([tmp_path]):
        pytest.skip("the test's directory lies on no disk")
    disk = backend.mounts and "disk" in backend.enforces
    if backend.mounts and not disk:
        pytest.skip("a container's own files are in memory here")
    limits = Limits(
        io=IoLimits(writes=A_SECOND, read_bytes=A_SECOND * PIECE), disk_bytes=16 * MIB * disk
    )
    scratch = tmp_path / "c"
    home = {"HOME": "/tmp" if backend.mounts else str(scratch)}
    clock = asyncio.get_running_loop().time
    async with open_container(backend, scratch, CODE, limits=limits, env=home) as inside:
        await inside.said()
        for read in ("writes", "read_bytes"):
            before, began = getattr(inside.container.evidence().io, read), clock()
            await inside.tell()
            await inside.said()
            done = getattr(inside.container.evidence().io, read) - before
            count = done if read == "writes" else done // PIECE
            assert count >= COUNT
            assert count <= DISKS * (A_SECOND * (clock() - began) + BURST)


def test_a_partition_is_told_by_its_disk_and_memory_by_none(tmp_path):
    found = disks_under([tmp_path, tmp_path])
    assert len(found) <= 1
    for each in found:
        major, minor = map(int, each.split(":"))
        assert disk_of(os.makedev(major, minor)) == each
        assert not os.path.exists(f"/sys/dev/block/{each}/partition")  # noqa: PTH110
    memory = os.stat("/proc").st_dev  # noqa: PTH116
    assert disk_of(memory) == ""
