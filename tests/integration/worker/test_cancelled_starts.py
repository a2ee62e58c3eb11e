"""A start that is given up, and killed again by whoever grows impatient: nothing of it becomes another's."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import subprocess

import pytest
from glowplug_worker.runtime.nursery.client import Nursery, Order
from glowplug_worker.runtime.settle import settle

WITHIN_S = 20
ORDER = Order(template=1, started=1, hostname="h")


@pytest.fixture
def helper():
    """A nursery whose helper is the test."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(["sleep", "600"])
    nursery = Nursery(process, ours)
    theirs.settimeout(WITHIN_S)
    try:
        yield nursery, theirs
    finally:
        nursery.close()
        theirs.close()


@pytest.fixture
def sleepers():
    """Processes that stand for newborns."""
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()


def _answer(theirs: socket.socket, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
    theirs.sendmsg([json.dumps({"pid": pid}).encode()], [rights])
    os.close(pidfd)


async def test_no_newborn_is_handed_to_another_start(helper, sleepers):
    nursery, theirs = helper
    first = asyncio.ensure_future(nursery.fork(ORDER, ()))
    await asyncio.to_thread(theirs.recv, 1 << 16)
    second = asyncio.ensure_future(nursery.fork(ORDER, ()))
    for _ in range(3):
        first.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    assert not first.done()  # what it asked for is still being made
    _answer(theirs, sleepers[0].pid)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(WITHIN_S):
            await first
    assert sleepers[0].wait(WITHIN_S) != 0  # killed, by nobody's wish any more
    await asyncio.to_thread(theirs.recv, 1 << 16)
    _answer(theirs, sleepers[1].pid)
    async with asyncio.timeout(WITHIN_S):
        newborn = await second
    assert newborn.pid == sleepers[1].pid
    os.close(newborn.pidfd)
    assert sleepers[1].poll() is None


async def test_what_is_under_way_is_never_cancelled_by_who_waits_for_its_end():
    asked = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(settle(asked))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not asked.cancelled()
    assert not waiting.done()
    asked.set_exception(OSError("it failed"))
    await waiting
    assert isinstance(asked.exception(), OSError)
