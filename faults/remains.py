"""What is there of one worker's containers on its host, by kind: nothing may be left of those that ended.

Only what is provably of this worker counts, so that others may work on the same host: its data directory,
its containers' ids (they begin alike), the names that its control groups and networks bear.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from glowplug_worker.runtime.cgroups import name_of
from glowplug_worker.runtime.network.host import name_of as network_of

CGROUPS = Path("/sys/fs/cgroup")
STATES = (Path("/run/crun"), Path("/run/runc"), Path("/run/runsc"), Path("/var/run/runsc"))
UIDS = Path("/run/glowplug/uids")


class Remains:
    """Looks at the host for one worker, known by its directory, its name and its containers' ids."""

    def __init__(self, directory: Path, worker: str, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._group = name_of(directory)
        self.network = network_of(f"{worker} {directory}")

    def of_containers(self, worker_pid: int = 0) -> dict[str, list[str]]:
        """Return what there is of containers, while the worker may live; kinds without any are left out."""
        found = {
            "process": sorted(self._processes(worker_pid)),
            "cgroup": sorted(self._cgroups(inner=True)),
            "mount": sorted(self._mounts()),
            "netns": sorted(self._named("/run/netns")),
            "socket": sorted(self._sockets()),
            "directory": sorted(self._directories()),
            "loop device": sorted(self._loops()),
        }
        return {kind: names for kind, names in found.items() if names}

    def of_all(self) -> dict[str, list[str]]:
        """Return also what is the worker's own; none of it may be left after an orderly end."""
        found = self.of_containers() | {
            "cgroup": sorted(self._cgroups(inner=False)),
            "veth": sorted(self._links()),
            "nft": sorted(self._tables()),
            "uid": sorted(self._uids()),
        }
        return {kind: names for kind, names in found.items() if names}

    def _processes(self, worker_pid: int) -> Iterator[str]:
        inside = set()
        for path in self._cgroups(inner=True):
            with contextlib.suppress(OSError):
                inside |= set(Path(path, "cgroup.procs").read_text(encoding="ascii").split())
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) in (os.getpid(), worker_pid):
                continue
            with contextlib.suppress(OSError):
                told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                if process.name in inside or self._prefix.encode() in told:
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield f"{process.name} {words[:80]}"

    def _cgroups(self, *, inner: bool) -> Iterator[str]:
        # Others make and remove groups meanwhile; os.walk does not mind.
        for folder, _, _ in os.walk(CGROUPS):
            _, ours, below = folder.partition(f"/{self._group}")
            if ours and (below or not inner):
                yield folder

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            if self._prefix in line or f"{self._directory}/containers" in line:
                yield line.split()[4]

    def _named(self, directory: str) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from (each for each in os.listdir(directory) if self._is_ours(each))

    def _is_ours(self, name: str) -> bool:
        return self._prefix in name or self.network in name

    def _links(self) -> Iterator[str]:
        yield from self._named("/sys/class/net")

    def _tables(self) -> Iterator[str]:
        if shutil.which("nft") and os.geteuid() == 0:
            said = subprocess.run(
                ["nft", "list", "tables"], capture_output=True, text=True, check=False
            )
            yield from (line for line in said.stdout.splitlines() if self._is_ours(line))

    def _sockets(self) -> Iterator[str]:
        for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
            words = line.split()
            if len(words) > 7 and f"{self._directory}/containers" in words[7]:
                yield words[7]
        yield from (
            str(each) for each in self._directory.glob("containers/**/*") if each.is_socket()
        )

    def _directories(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from (str(each) for each in (self._directory / "containers").iterdir())
        yield from (str(each) for each in self._directory.glob("probe-*"))
        for state in STATES:
            yield from (f"{state}/{name}" for name in self._named(str(state)))

    def _loops(self) -> Iterator[str]:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                file = backing.read_text(encoding="utf-8").strip()
                if self._prefix in file or str(self._directory) in file:
                    yield f"/dev/{backing.parent.parent.name} {file}"

    def _uids(self) -> Iterator[str]:
        """User ids that something of ours holds: whoever has the file open may hold its lock."""
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if str(self._directory).encode() in (process / "environ").read_bytes():
                    files = [fd.readlink() for fd in (process / "fd").iterdir()]
                    yield from (f"{process.name} {f}" for f in files if f.is_relative_to(UIDS))
