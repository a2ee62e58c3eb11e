"""Removes what containers of a dead worker left: processes, control groups, mounts, then directories.

Containers die with their worker by a parent-death signal; this is the second net. It touches only
directories whose lock it holds, so never those of a worker that lives.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from glowplug_worker.bringing import remove_directory
from glowplug_worker.inventory import LOCK_FILE, try_lock
from glowplug_worker.processes import kill_tree, start_ticks
from glowplug_worker.runtime import cgroups
from glowplug_worker.runtime.choose import PROBE_PREFIX
from glowplug_worker.runtime.leftovers import mounts_below, unmount_below
from glowplug_worker.starting import PROCESS_FILE

log = structlog.get_logger()

LAZY = "lazy"


class _Process(msgspec.Struct):
    pid: int
    start_ticks: int


def sweep(directory: Path) -> int:
    """Remove all containers of a directory whose lock the caller holds; return how many."""
    count = 0
    cgroups.sweep(directory)
    # Of images, which a killed worker's holder unmounts itself unless it was killed as well.
    if (directory / LAZY).is_dir() and not unmount_below(directory / LAZY):
        log.error("janitor.mounted", directory=str(directory / LAZY))
    for probe in directory.glob(
        f"{PROBE_PREFIX}*"
    ):  # a worker that was killed while it tried backends
        _remove(probe)
    containers = directory / "containers"
    if not containers.is_dir():
        return 0
    for left in sorted(containers.iterdir()):
        _kill_left(left / PROCESS_FILE)
        _remove(left)
        count += 1
    if count:
        log.warning("janitor.swept", directory=str(directory), containers=count)
    return count


def sweep_siblings(directory: Path) -> int:
    """Sweep the directories of dead workers beside ours ("worker-*")."""
    count = 0
    for sibling in sorted(directory.parent.glob("worker-*")):
        if sibling == directory or not (sibling / LOCK_FILE).exists():
            continue
        lock = try_lock(sibling / LOCK_FILE)
        if lock is not None:
            with lock:
                count += sweep(sibling)
    return count


def _remove(left: Path) -> None:
    """Remove a directory, unless something that can't be unmounted would be removed with it."""
    if unmount_below(left):
        remove_directory(left)
    else:
        log.error("janitor.mounted", directory=str(left), mounts=mounts_below(left))


def _kill_left(note: Path) -> None:
    try:
        process = msgspec.json.decode(note.read_bytes(), type=_Process)
    except (OSError, msgspec.MsgspecError):
        return
    # The same pid with another start is somebody else's process.
    if process.start_ticks and start_ticks(process.pid) == process.start_ticks:
        kill_tree(process.pid)
