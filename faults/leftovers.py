"""What a platform that has ended must not leave on its host. A census before, another after."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from faults.processes import descendants, marked, name_of

CGROUPS = Path("/sys/fs/cgroup")


class Census:
    """What was there before, and every process that our parts ever had below them."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self.mark = ""
        self._born: dict[int, str] = {}
        self._cgroups = _cgroups()
        self._mounts = _mounts()
        self._namespaces = _named_namespaces()
        self._listening = _listening()

    def count(self, pids: list[int]) -> None:
        """Note all processes below these; called often, so that none is missed for long."""
        for pid in pids:
            for one in (pid, *descendants(pid)):
                with contextlib.suppress(OSError, IndexError):
                    self._born.setdefault(one, _started(one))

    def left(self) -> list[str]:
        """Return in words what is left, after everything was stopped."""
        found = [f"process {pid}: {name}" for pid, name in self._alive().items()]
        # Others' workers may live on this host: ours name their groups in a note, containers in beats.
        ours = self._group_names()
        new_groups = [one for one in _cgroups() - self._cgroups if ours & set(one.split("/"))]
        found += [f"cgroup {one}" for one in sorted(new_groups)]
        # Others may mount on this host meanwhile; ours would lie under our directory.
        mounts = [one for one in _mounts() - self._mounts if self._directory in one]
        found += [f"mount {one}" for one in sorted(mounts)]
        found += [f"namespace {one}" for one in sorted(_named_namespaces() - self._namespaces)]
        new = _listening() - self._listening
        owners = _sockets_of(self._alive())
        found += [f"listening socket {one}" for one in sorted(new) if one in owners]
        found += [f"unix socket {one}" for one in _unix_sockets() if self._directory in one]
        return found

    def _group_names(self) -> set[str]:
        directory = Path(self._directory)
        found = {
            Path(path).name
            for note in directory.glob("*/cgroups.json")
            for path in json.loads(note.read_text())
        }
        beats = directory / "beats.jsonl"
        for line in beats.read_text().splitlines() if beats.exists() else ():
            containers = json.loads(line).get("containers", ())
            found |= {str(container.get("container_id")) for container in containers}
        return found

    def _alive(self) -> dict[int, str]:
        found = (marked(self.mark) if self.mark else {}) | marked(self._directory)
        for pid, started in self._born.items():
            with contextlib.suppress(OSError, IndexError):
                if _started(pid) == started and _state(pid) != "Z":
                    found.setdefault(pid, name_of(pid))
        return {pid: name for pid, name in found.items() if pid != os.getpid()}


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _started(pid: int) -> str:
    return _stat(pid)[19]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _cgroups() -> set[str]:
    found = set()
    for folder, names, _ in os.walk(CGROUPS):  # passes over what is gone meanwhile
        found |= {os.path.join(folder, one) for one in names if "glowplug" in one or "ctr_" in one}
    return found


def _mounts() -> set[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line.split()[1] for line in lines}


def _named_namespaces() -> set[str]:
    with contextlib.suppress(OSError):
        return set(os.listdir("/run/netns"))
    return set()


def _listening() -> set[str]:
    """Return the inodes of TCP sockets that listen."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A":
            found.add(words[9])
    return found


def _sockets_of(pids: dict[int, str]) -> set[str]:
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith("socket:["):
                        found.add(target[8:-1])
    return found


def _unix_sockets() -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return [words[7] for line in lines if len(words := line.split()) > 7]
