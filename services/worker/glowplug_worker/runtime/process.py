"""The `process` backend: an ordinary process. **It isolates nothing** and says so wherever it is named.

For development on hosts that forbid user namespaces. It bounds core dumps, descriptors and file sizes,
gives the tree its own session, and, run by root, its own user id where that id can reach everything.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError
from glowplug_runtime.trees import hand_over

from glowplug_worker.ports import Enforced, RunningContainer, StartPlan
from glowplug_worker.runtime.cgroups import Cgroup, Cgroups
from glowplug_worker.runtime.child import Birth
from glowplug_worker.runtime.disks import Disk
from glowplug_worker.runtime.launcher.client import Launcher
from glowplug_worker.runtime.tree import Tree, fork
from glowplug_worker.runtime.uids import Uids

# In the environment of every process of a container; finds those that left session and parent.
MARK: Final = "GLOWPLUG_CONTAINER_ID"
WARNING: Final = "containers are NOT isolated from this host"


class ProcessBackend:
    """Starts runners as plain processes (`ports.Backend`)."""

    name = "process"
    mounts = False

    def __init__(
        self,
        reason: str,
        uids: Uids | None = None,
        needed: tuple[Path, ...] = (),
        cgroups: Cgroups | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        """Keep the reason; `needed` are places that every container must reach."""
        self._launcher = launcher
        self._cgroups = cgroups or Cgroups()
        self.enforces: frozenset[Enforced] = self._cgroups.holds
        words = (reason, user_of_containers(uids, needed), WARNING)
        self.reason = "; ".join(word for word in words if word)
        self._uids = uids

    async def start(self, plan: StartPlan) -> RunningContainer:
        """Start the runner (`ports.Backend.start`)."""
        if plan.network == "none" and plan.netns is None:
            raise UnavailableError(
                "platform.unavailable", "the process backend can't take the network away"
            )
        plan.scratch.mkdir(parents=True, exist_ok=True)
        group = make_group(self._cgroups, plan)
        uid = None
        try:
            uid = self._take_uid(plan)
            env = {**plan.env, MARK: plan.container_id}
            birth = Birth(
                parent=os.getpid(),
                joins=group.entries,
                uid=uid,
                netns=plan.netns,
                covers=_names_of_network(plan),
            )
            process, stderr = await fork(
                plan.command(plan.fds), env, birth, plan.fds, plan.cwd, launcher=self._launcher
            )
        except BaseException:
            self._give_back(uid, group)
            raise
        return Tree(
            process,
            stderr,
            kill_rest=lambda: kill_marked(plan.container_id, process.pid),
            release=lambda: self._give_back(uid, group),
            group=group,
        )

    def _take_uid(self, plan: StartPlan) -> int | None:
        """Return a user id of the container's own, or None where it could not reach its files."""
        if self._uids is None:
            return None
        paths = [bind.source for bind in plan.binds]
        needed = [Path(plan.argv[0]), Path(plan.cwd), plan.scratch, *paths]
        if not all(reachable_by_others(path) for path in needed):
            return None
        uid = self._uids.take()
        for path in (
            plan.scratch,
            *(bind.source for bind in plan.binds if bind.writable and not bind.shared),
        ):
            hand_over(path, uid)
        return uid

    def _give_back(self, uid: int | None, group: Cgroup) -> None:
        self._cgroups.give_back(group)
        if uid is not None and self._uids is not None:
            self._uids.give_back(uid)


def make_group(cgroups: Cgroups, plan: StartPlan) -> Cgroup:
    """Make a container's control groups. Raises: UnavailableError."""
    try:
        return cgroups.make(plan.container_id, plan.limits)
    except OSError as error:
        raise UnavailableError(
            "platform.unavailable", f"the container's control groups can't be made: {error}"
        ) from error


def limit_disk(group: Cgroup, disk: Disk | None) -> None:
    """Hold a container to its limits on a disk of its own. Raises: UnavailableError."""
    if disk is None:
        return
    try:
        group.limit_disk(disk.device)
    except OSError as error:
        raise UnavailableError(
            "platform.unavailable", f"the container's disk can't be limited: {error}"
        ) from error


def _names_of_network(plan: StartPlan) -> tuple[tuple[str, str], ...]:
    """Return what says how names are found in a network of the container's own."""
    if plan.netns is None:
        return ()
    binds = (bind for bind in plan.binds if bind.target.startswith("/etc/"))
    return tuple((str(bind.source), bind.target) for bind in binds)


def user_of_containers(uids: Uids | None, needed: tuple[Path, ...]) -> str:
    """Return in words under which user containers run; "" for the worker's own ordinary one.

    `needed` are the places that every container must reach. Only root can give containers users of
    their own, and only where any user may look into these.
    """
    if uids is None:
        return ""
    closed = [str(path) for path in needed if not reachable_by_others(path)]
    if not closed:
        return "containers have users of their own where these can reach their files"
    return f"containers run as ROOT, because other users can't reach {' and '.join(closed)}"


def kill_marked(container_id: str, session: int) -> bool:
    """Kill every process of a container's session or with its mark; return whether none was left."""
    found = [pid for pid in _pids() if _belongs(pid, container_id, session)]
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not found


def reachable_by_others(path: Path) -> bool:
    """Return whether any user may look into every directory on the way, and read the path."""
    path = path.resolve()
    try:
        for parent in path.parents:
            if not parent.stat().st_mode & 0o001:
                return False
        wanted = 0o005 if path.is_dir() else 0o004
        return path.stat().st_mode & wanted == wanted
    except OSError:
        return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _belongs(pid: int, container_id: str, session: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        state, _, _, sid = stat[stat.rindex(b")") + 2 :].split()[:4]
        if state in b"ZX":
            return False
        if int(sid) == session:
            return True
        marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    return f"{MARK}={container_id}".encode() in marks
