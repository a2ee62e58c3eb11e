"""Run tests on a Linux kernel of their own that has v2 control groups: `just unified [TESTS]`.

The kernel is user-mode Linux (Debian: `user-mode-linux`), which runs as a plain process and sees this host's
files, read-only. So limits are tried on a v2 hierarchy whatever this host has mounted. Takes root, `mkfs.ext4`
and some minutes: every system call in there costs many out here.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = (
    "tests/integration/backends/test_limits.py",
    "tests/integration/backends/test_io_limits.py",
)
MEMORY = "2G"
DISK_BYTES = 2 << 30
WITHIN_S = 1200
# The first process of that kernel. Its root is the host's, read-only; what it writes goes to `$OUT`.
INIT = r"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts /dev/out
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t hostfs none /dev/out -o OUT
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
PYTHON -I -c 'LOADER' $(find /dev/out/modules/ -name loop.ko)
mount -t ext4 /dev/ubda /tmp
chmod 1777 /tmp
cd ROOT
{
    uname -sr
    cat /sys/fs/cgroup/cgroup.controllers
    PYTHON -m pytest -q -p no:cacheprovider -rs TESTS
    echo $? > /dev/out/status
} > /dev/out/log 2>&1
sync
echo o > /proc/sysrq-trigger
sleep 60
"""
# finit_module, because the kernel's own tools need not be installed.
LOADER = """
import ctypes, os, sys
for path in sys.argv[1:]:
    ctypes.CDLL(None).syscall(313, os.open(path, os.O_RDONLY), b"", 0)
"""


def main() -> int:
    """Boot, run, show what was said; return pytest's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--kernel", default="linux.uml", help="the kernel: a name on PATH, or a path"
    )
    parser.add_argument("--modules", default="/usr/lib/uml/modules", help="where its modules lie")
    parser.add_argument("tests", nargs="*", default=TESTS)
    options = parser.parse_args()
    kernel = shutil.which(options.kernel)
    if kernel is None or os.geteuid() != 0:
        sys.stderr.write("this takes root and user-mode Linux (Debian: user-mode-linux)\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="glowplug-unified-") as name:
        directory = Path(name)
        out = directory / "out"
        out.mkdir()
        shutil.copytree(options.modules, out / "modules")
        boot(kernel, directory, tuple(options.tests))
        log, status = out / "log", out / "status"
        sys.stdout.write(log.read_text() if log.exists() else "the kernel did not start\n")
        return int(status.read_text()) if status.exists() else 1


def boot(kernel: str, directory: Path, tests: tuple[str, ...]) -> None:
    """Run the tests in a kernel of their own and wait for its end."""
    disk, init = directory / "disk.img", directory / "init"
    with disk.open("xb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    words = {
        "OUT": str(directory / "out"),
        "PYTHON": shlex.quote(sys.executable),
        "LOADER": LOADER,
        "ROOT": shlex.quote(str(Path(__file__).parents[1])),
        "TESTS": shlex.join(tests),
    }
    text = INIT
    for word, value in words.items():
        text = text.replace(word, value, 1 if word != "PYTHON" else -1)
    init.write_text(text)
    init.chmod(0o755)
    command = [kernel, f"mem={MEMORY}", f"ubd0={disk}", "root=/dev/root", "rootfstype=hostfs"]
    command += ["rootflags=/", "ro", f"init={init}", "con=null", "con0=null,fd:2", "quiet"]
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=WITHIN_S,
        env={**os.environ, "TMPDIR": "/dev/shm"},
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
