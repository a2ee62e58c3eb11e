"""The namespace in which a container's start is prepared, as its host sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

# In a mount namespace like that of a host that systemd has started: its mounts are shared.
SCRIPT = """
import os, subprocess, sys
from glowplug_worker.runtime.child import Birth, Staged

mounted, staged = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
birth = Birth(parent=os.getpid(), staged=(Staged(source=staged, name="it"),))
started = subprocess.Popen(["sleep", "60"], preexec_fn=birth.born)
try:
    def held():
        with open(f"/proc/{started.pid}/mountinfo") as mounts:
            return any(line.split()[4] == mounted for line in mounts)

    before = held()
    subprocess.run(["umount", mounted], check=True)
    with open("/proc/self/mountinfo") as mounts:
        told = [line.split()[4] for line in mounts if "/it" in line]
    print(before, held(), told)
finally:
    started.kill()
    started.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts on the host")
@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is missing")
def test_what_the_host_unmounts_is_not_held_by_a_container(tmp_path):
    for name in ("disk", "staged"):
        (tmp_path / name).mkdir()
    folders = [str(tmp_path / name) for name in ("disk", "staged")]
    told = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", sys.executable, "-c", SCRIPT, *folders],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert told.split(maxsplit=2) == ["True", "False", "[]\n"]
