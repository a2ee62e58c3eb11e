"""Control groups: one per container, below the worker's own, made and removed by the worker.

Every backend uses them, so a limit means the same everywhere. Where none can be had (an ordinary user
without delegation), `holds` is empty and says so; nothing is guessed.

A worker's groups lie in one directory per hierarchy, named after the worker's data directory, and a note
in that directory says where: whoever holds the directory's lock may remove them (`sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from glowplug_worker.ports import Enforced, Evidence, Limits
from glowplug_worker.runtime.cgroup_rules import (
    EVIDENCE_FILES,
    HOLDING,
    Hierarchy,
    device_writes,
    find_hierarchies,
    read_evidence,
    writes,
)
from glowplug_worker.runtime.devices import disks_under

log = structlog.get_logger()

NOTE_FILE: Final = "cgroups.json"
PREFIX: Final = "glowplug-"
# What was killed is gone by then, unless the kernel waits for a disk.
DYING_S: Final = 2.0
DYING_LOOK_S: Final = 0.02
# Where a v2 worker puts itself, because a group with processes can't have groups with limits.
_LEAF: Final = "glowplug-worker"
_PROC: Final = Path("/proc/self")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of control groups and the controllers that work in it."""

    version: int
    controllers: tuple[str, ...]
    path: Path

    @property
    def entry(self) -> str:
        """Return the file through which a process without threads joins by writing "0".

        v1's `tasks` is spared the wait for every fork on the host that `cgroup.procs` costs (10 ms).
        """
        return "tasks" if self.version == 1 else "cgroup.procs"


class Cgroup:
    """One container's control groups, one directory per hierarchy."""

    def __init__(self, places: tuple[Place, ...], limits: Limits) -> None:
        self.limits = limits
        self._places = places

    @property
    def entries(self) -> tuple[str, ...]:
        """Return the files into which a process writes "0" to be in the container's groups."""
        return tuple(str(place.path / place.entry) for place in self._places)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the directories."""
        return tuple(place.path for place in self._places)

    def evidence(self) -> Evidence:
        """Return what the kernel has counted so far."""
        found: dict[str, str] = {}
        for place in self._places:
            for controller in place.controllers:
                for name in EVIDENCE_FILES.get((place.version, controller), ()):
                    with contextlib.suppress(OSError):
                        found[name] = (place.path / name).read_text(encoding="ascii")
        return read_evidence(found, self.limits)

    def limit_disk(self, device: str) -> None:
        """Hold the container to its limits on a disk of its own, too. Raises: OSError."""
        for place in self._places:
            _limit_disk(place, self.limits, device)

    def memory_bytes(self) -> int:
        """Return what the container uses now; 0 where nobody counts."""
        for place in self._places:
            name = "memory.usage_in_bytes" if place.version == 1 else "memory.current"
            with contextlib.suppress(OSError, ValueError):
                return int((place.path / name).read_text(encoding="ascii"))
        return 0

    def pids(self) -> list[int]:
        """Return the processes inside, those of groups below included."""
        found: set[int] = set()
        for place in self._places[:1]:
            for folder in _folders(place.path):
                with contextlib.suppress(OSError):
                    found |= set(map(int, (folder / "cgroup.procs").read_text().split()))
        return sorted(found)

    def add(self, pid: int) -> None:
        """Move a process, with all its threads, into the groups. Raises: OSError."""
        for place in self._places:
            (place.path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def freeze(self, *, frozen: bool = True) -> bool:
        """Stop or resume everything inside; return whether this kernel can."""
        for place in self._places:
            if place.version == 1 and "freezer" in place.controllers:
                name, words = "freezer.state", ("THAWED", "FROZEN")
            else:
                name, words = "cgroup.freeze", ("0", "1")
            try:
                (place.path / name).write_text(words[frozen], encoding="ascii")
            except OSError:
                continue
            return True
        return False

    def kill(self) -> bool:
        """SIGKILL everything inside; return whether nothing was left to kill."""
        pids = self.pids()
        if pids:
            self.freeze(frozen=False)  # a frozen process of v1 does not die
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def remove(self) -> bool:
        """Remove the directories; False while the kernel still sees something die in them."""
        left = [place for place in self._places if not _remove(place.path)]
        return not left


class Cgroups:
    """The worker's own directories, in which it makes one group per container."""

    def __init__(
        self, places: tuple[Place, ...] = (), reason: str = "", devices: tuple[str, ...] = ()
    ) -> None:
        """Keep the places; `devices` are the disks on which every container's files lie."""
        self._places = places
        self._devices = devices
        self._dying: list[Cgroup] = []
        self.reason = reason

    @property
    def holds(self) -> frozenset[Enforced]:
        """Return what a container can be held to by its groups."""
        return frozenset(
            HOLDING[name] for place in self._places for name in place.controllers if name in HOLDING
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the worker's directories."""
        return tuple(place.path for place in self._places)

    def make(self, name: str, limits: Limits) -> Cgroup:
        """Make a container's groups with its limits. Raises: OSError; then nothing is left of them."""
        self._bury()
        places: list[Place] = []
        try:
            for parent in self._places:
                place = msgspec.structs.replace(parent, path=parent.path / name)
                place.path.mkdir()
                places.append(place)
                _limit(place, limits)
                for device in self._devices:
                    _limit_disk(place, limits, device)
        except OSError:
            for place in places:
                _remove(place.path)
            raise
        return Cgroup(tuple(places), limits)

    def give_back(self, group: Cgroup) -> None:
        """Remove a container's groups, now or as soon as the kernel lets go of them."""
        if not group.remove():
            self._dying.append(group)

    def close(self) -> None:
        """Remove everything; what still dies in there is waited for."""
        self._bury()
        for place in self._places:
            _remove_soon(place.path)

    def _bury(self) -> None:
        self._dying = [group for group in self._dying if not group.remove()]


def name_of(directory: Path) -> str:
    """Return the name of the groups of the worker that lives in a data directory."""
    return PREFIX + hashlib.blake2s(os.fsencode(directory.resolve()), digest_size=8).hexdigest()


def open_cgroups(directory: Path, files: tuple[Path, ...] = ()) -> Cgroups:
    """Make the groups of the worker whose data directory this is; empty ones where that can't be done.

    `files`: where else containers' files lie, for limits on what disks do.
    """
    name = name_of(directory)
    places: list[Place] = []
    problems: list[str] = []
    for hierarchy in this_process():
        try:
            places.append(_open_place(hierarchy, name))
        except OSError as error:
            if set(hierarchy.controllers) & set(HOLDING):
                problems.append(f"{'+'.join(hierarchy.controllers)}: {error.strerror}")
    held = {name for place in places for name in place.controllers}
    reason = "; ".join(problems)
    if not held & set(HOLDING):
        for place in places:
            _remove(place.path)
        return Cgroups((), reason or "this host shows no control groups")
    directory.mkdir(parents=True, exist_ok=True)
    note = [str(place.path) for place in places]
    (directory / NOTE_FILE).write_bytes(msgspec.json.encode(note))
    return Cgroups(tuple(places), reason, disks_under((directory, *files)))


def this_process() -> tuple[Hierarchy, ...]:
    """Return the hierarchies this process lives in."""
    try:
        mountinfo = (_PROC / "mountinfo").read_text(encoding="utf-8", errors="replace")
        own = (_PROC / "cgroup").read_text(encoding="utf-8")
    except OSError:
        return ()
    unified = ""
    for line in mountinfo.splitlines():
        if " - cgroup2 " in line:
            with contextlib.suppress(OSError):
                unified = (Path(line.split()[4]) / "cgroup.controllers").read_text(encoding="ascii")
    return find_hierarchies(mountinfo, own, unified)


def sweep(directory: Path) -> int:
    """Kill and remove what a dead worker left in its groups; return how many containers it had there.

    The caller holds the lock of the worker's data directory.
    """
    try:
        noted = msgspec.json.decode((directory / NOTE_FILE).read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError):
        return 0
    count = 0
    for path in map(Path, noted):
        # The note could have been written by anybody who could write there: only our own name counts.
        if path.name != name_of(directory) or not path.is_dir():
            continue
        inner = [folder for folder in _folders(path) if folder != path]
        count = max(count, sum(folder.parent == path for folder in inner))
        for folder in inner:
            Cgroup((Place(version=1, controllers=("freezer",), path=folder),), Limits()).kill()
        _remove_soon(path)
    return count


# -- one directory ---------------------------------------------------------------------------------


def _open_place(hierarchy: Hierarchy, name: str) -> Place:
    """Make the worker's directory with working controllers. Raises: OSError."""
    if hierarchy.version == 1:
        path = hierarchy.own / name
        path.mkdir(exist_ok=True)
        place = Place(version=1, controllers=hierarchy.controllers, path=path)
        _limit(place, _whole_host())
        return place
    problem: OSError | None = None
    bases = [hierarchy.own]
    if os.geteuid() == 0 and hierarchy.root != hierarchy.own:
        bases.append(hierarchy.root)
    # A base with all of them first; else what is delegated, rather than nothing.
    tries = [(base, hierarchy.controllers) for base in bases]
    tries += [(base, _delegated(base, hierarchy.controllers)) for base in bases]
    for base, controllers in tries:
        if not controllers:
            continue
        try:
            return _open_unified(base, controllers, name)
        except OSError as error:
            problem = error
    raise problem or OSError(errno.ENOENT, "no control groups")


def _delegated(base: Path, controllers: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of the controllers can be had below a group."""
    try:
        there = (base / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return ()
    return tuple(each for each in controllers if each in there)


def _open_unified(base: Path, controllers: tuple[str, ...], name: str) -> Place:
    """Make the worker's directory in the v2 hierarchy, and hand the controllers down to it."""
    moved = _hand_down(base, controllers)
    path = base / name
    try:
        path.mkdir(exist_ok=True)
        (path / "cgroup.subtree_control").write_text(
            " ".join(f"+{each}" for each in controllers), encoding="ascii"
        )
    except OSError:
        _remove(path)
        if moved:
            _move_self(base)
        raise
    place = Place(version=2, controllers=controllers, path=path)
    _limit(place, _whole_host())
    return place


def _whole_host() -> Limits:
    """All containers together weigh as much as the host's cores, not as one process of the host's."""
    return Limits(cpu_share_millis=1000 * (os.cpu_count() or 1))


def _hand_down(base: Path, controllers: tuple[str, ...]) -> bool:
    """Enable controllers for the groups below `base`; return whether we had to leave it for a leaf."""
    wanted = " ".join(f"+{each}" for each in controllers)
    control = base / "cgroup.subtree_control"
    if set(controllers) <= set(control.read_text(encoding="ascii").split()):
        return False
    try:
        control.write_text(wanted, encoding="ascii")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return False
    # Only ourselves: whoever else lives there was put there by somebody else.
    _move_self(base / _LEAF)
    try:
        control.write_text(wanted, encoding="ascii")
    except OSError:
        _move_self(base)
        _remove(base / _LEAF)
        raise
    return True


def _move_self(group: Path) -> None:
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text("0", encoding="ascii")


def _limit(place: Place, limits: Limits) -> None:
    for controller in place.controllers:
        for each in writes(place.version, controller, limits):
            try:
                (place.path / each.file).write_text(each.value, encoding="ascii")
            except OSError:
                if not each.optional:
                    raise


def _limit_disk(place: Place, limits: Limits, device: str) -> None:
    for controller in place.controllers:
        for each in device_writes(place.version, controller, limits.io, device):
            (place.path / each.file).write_text(each.value, encoding="ascii")


def _folders(path: Path) -> Iterator[Path]:
    """Yield a directory and those below it, parents first."""
    for folder, _, _ in os.walk(path):
        yield Path(folder)


def _remove(path: Path) -> bool:
    try:
        path.rmdir()  # most have no groups of their own below
    except FileNotFoundError:
        return True
    except OSError:
        return _remove_deep(path)
    return True


def _remove_deep(path: Path) -> bool:
    for folder in [*_folders(path)][::-1]:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _remove_soon(path: Path) -> bool:
    """Remove a directory as soon as what was killed in it has died; False if it has not in time."""
    until = time.monotonic() + DYING_S
    while not _remove(path):
        if time.monotonic() >= until:
            return False
        time.sleep(DYING_LOOK_S)
    return True
