"""Peer: `crun run /bin/true`, in a mount namespace of its own without the v2 hierarchy (crun 1.8 wants one kind).

Prints seconds: alone one run a line, with a number as argument the time of so many, two at a time.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x44000
_MNT_DETACH = 2


def main() -> None:
    libc = ctypes.CDLL(None)
    assert libc.unshare(_CLONE_NEWNS) == 0, "it takes root"
    libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
    libc.umount2(b"/sys/fs/cgroup/unified", _MNT_DETACH)
    with tempfile.TemporaryDirectory() as bundle:
        subprocess.run(["crun", "spec"], cwd=bundle, check=True)
        config = json.loads(Path(bundle, "config.json").read_text())
        config["process"] |= {"args": ["/bin/true"], "terminal": False}
        rootfs = Path(bundle, "rootfs")
        for name in (
            "usr",
            "proc",
            "sys",
            "dev",
        ):  # two runs at once would both make what is missing
            (rootfs / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (rootfs / name).symlink_to(f"usr/{name}")
        usr = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
        config["mounts"] = [each for each in config["mounts"] if each["type"] != "cgroup"] + [usr]
        Path(bundle, "config.json").write_text(json.dumps(config))
        print("ready", flush=True)
        for line in sys.stdin:
            count = int(line)
            began = time.perf_counter()
            if count == 1:
                subprocess.run(["crun", "run", "-b", bundle, f"t{os.getpid()}"], check=True)
            else:
                names = "\n".join(f"t{os.getpid()}-{number}" for number in range(count))
                command = ["xargs", "-P2", "-n1", "crun", "run", "-b", bundle]
                subprocess.run(command, input=names, text=True, check=True)
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
