"""A root that is written to, by a worker that an ordinary user runs: one id, which is root inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug_contracts.trees import Directory, FlatTree
from glowplug_worker.images.upper import read_upper

from tests.support.ordinary import UID, Ordinary, find_ordinary

BASE = FlatTree(entries=(Directory(0, b"", 0o755, 0, 0, 0, 0, ()),))
# As the worker starts a build's container; what runs in it stands in `INSIDE`.
PROGRAM = """
import asyncio, sys, types
from pathlib import Path
from glowplug_contracts.messages.container import ContainerKind
from glowplug_worker.ports import StartPlan
from glowplug_worker.runtime.python import own_python
from glowplug_worker.runtime.rooted.backend import Rooted
from glowplug_worker.runtime.rooted.hostpython import host_python

async def main():
    home, own = Path(sys.argv[1]), own_python()
    host = host_python(own)
    plan = StartPlan(
        container_id="ctr_ordinary", kind=ContainerKind.BUILD, interpreter=own,
        argv=(*host.command, "-I", "-S", "-c", sys.argv[2]), fds=(), env={"PATH": "/bin"}, cwd="/",
        scratch=home / "scratch", binds=host.binds, root=home / "tree",
    )
    running = await Rooted(types.SimpleNamespace(name="bwrap")).start(plan, home / "changes")
    try:
        end = await running.wait()
    finally:
        await running.close()
    print(end.code, end.stderr_tail)

asyncio.run(main())
"""
INSIDE = """
import os
print(os.getuid(), os.getpid() < 10)
open('/etc/new', 'w').write('x')
os.chown('/etc/new', 33, 34)
os.setgroups([5])
os.remove('/etc/old')
try:
    open('/glowplug/host/usr/new', 'w')
except OSError:
    print('read-only')
print(os.path.exists('/proc/1/exe'))
"""


@pytest.fixture
def ordinary() -> Iterator[tuple[Ordinary, Path]]:
    # Not below pytest's own directory, which other users may not enter.
    home = Path(tempfile.mkdtemp(prefix="glowplug-test-"))
    try:
        found = find_ordinary(home)
        if isinstance(found, str):
            pytest.skip(found)
        yield found, home
    finally:
        shutil.rmtree(home)


def test_an_ordinary_users_build_is_root_in_a_root_of_its_own(
    ordinary: tuple[Ordinary, Path],
) -> None:
    user, home = ordinary
    (home / "tree/etc").mkdir(parents=True)
    (home / "tree/etc/old").touch()
    for path in (home / "tree", home / "tree/etc", home / "tree/etc/old"):
        os.chown(path, UID, UID)
    done = subprocess.run(
        [user.python, "-c", PROGRAM, home, INSIDE],
        env=user.env,
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if "Operation not permitted" in done.stdout and "uid_map" in done.stdout:
        pytest.skip("ordinary users have no user namespaces here")
    assert done.stdout.split() == ["0", "0", "True", "read-only", "False"], done
    changes = read_upper(
        home / "changes/upper", BASE, None, ("/etc/resolv.conf", "/etc/hosts")
    ).changes
    assert changes.gone == ((b"etc", b"old"),)
    new = next(entry for entry in changes.tree.entries if entry.name == b"new")
    assert (new.uid, new.gid) == (0, 0)  # type: ignore[union-attr]
