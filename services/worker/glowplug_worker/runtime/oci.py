"""The `oci` backend: crun or runc makes the container, in user namespaces of 65,536 ids of its own.

For workers run by root. The runtime gets a specification that we made (`spec.py`) in a mount and pid
namespace that we made (`oci_birth.py`): its files, mounts and processes are gone with the container or
with the worker, whichever ends first. Control groups are the worker's, not the runtime's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import platform
from pathlib import Path
from typing import Any, Final

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.ports import Bind, Enforced, RunningContainer, StartPlan
from glowplug_worker.runtime import seccomp
from glowplug_worker.runtime.cgroups import Cgroup, Cgroups
from glowplug_worker.runtime.child import DISK, Staged, open_files, stage_root
from glowplug_worker.runtime.disks import Disk
from glowplug_worker.runtime.hostbase import (
    ETC,
    SYSTEM,
    TMP,
    USER,
    hand_over,
    identity,
    masked_of,
    own_disk,
    prefix_bind,
    resolving,
    tmpfs_bytes,
)
from glowplug_worker.runtime.oci_birth import FIRST_FD, OciBirth
from glowplug_worker.runtime.process import limit_disk, make_group
from glowplug_worker.runtime.runtimes import Runtime
from glowplug_worker.runtime.seccomp_files import numbers, own_profile, program
from glowplug_worker.runtime.seccomp_profile import oci_profile
from glowplug_worker.runtime.seccomp_rules import Profile
from glowplug_worker.runtime.spec import Mount, Needs, Tmpfs, build_root, build_spec
from glowplug_worker.runtime.tree import Tree, fork
from glowplug_worker.runtime.treebase import places_of, tree_base
from glowplug_worker.runtime.uids import Uids

PID_FILE: Final = "pid"
# Name of an image's tree in the staging area.
TREE: Final = "tree"
# The runtime's name for it is not that of our control group: runc would take that for one of its own making
# in a v2 hierarchy.
RUN_PREFIX: Final = "run-"
_HIDING_BYTES: Final = 4096


class OciBackend:
    """Starts runners through an OCI runtime (`ports.Backend`)."""

    mounts = True

    def __init__(
        self,
        runtime: Runtime,
        reason: str,
        spans: Uids,
        cgroups: Cgroups | None = None,
        *,
        disks: bool = False,
        profile: Profile | None = None,
    ) -> None:
        self._profile = profile or own_profile()
        self.name = runtime.backend
        self.reason = reason
        self._runtime = runtime
        self._spans = spans
        self._disks = disks
        self._cgroups = cgroups or Cgroups()
        self.enforces: frozenset[Enforced] = self._cgroups.holds | {
            "filesystem",
            "users",
            "network",
        }
        if disks:
            self.enforces |= {"disk"}

    async def start(self, plan: StartPlan) -> RunningContainer:
        """Start the runner (`ports.Backend.start`)."""
        plan.scratch.mkdir(parents=True, exist_ok=True)
        group = make_group(self._cgroups, plan)
        first_id: int | None = None
        disk: Disk | None = None
        worker = os.pidfd_open(os.getpid())
        try:
            first_id = self._spans.take()
            disk = await own_disk(plan, able=self._disks)
            limit_disk(group, disk)
            binds = (*identity(plan.scratch), *prefix_bind(plan), *resolving(plan), *plan.binds)
            await asyncio.to_thread(hand_over, binds, first_id + USER)
            needs = needs_of(
                plan, binds, self._runtime, first_id, disk=disk is not None, profile=self._profile
            )
            birth = self._birth(plan, binds, needs, group, worker, disk)
            stage = stage_root()
            argv = self._runtime.command(
                stage,
                f"{RUN_PREFIX}{plan.container_id}",
                len(plan.fds),
                f"{stage}/scratch/{PID_FILE}",
            )
            passed = tuple(range(FIRST_FD, FIRST_FD + len(plan.fds)))
            process, stderr = await fork(argv, self._runtime.env, birth, passed, new_pids=True)
        except ValueError as error:
            self._give_back(first_id, group, disk)
            raise UnavailableError(
                "platform.unavailable", f"the container can't be started: {error}"
            ) from error
        except BaseException:
            self._give_back(first_id, group, disk)
            raise
        finally:
            os.close(worker)
        made = plan.scratch / PID_FILE
        return Tree(
            process,
            stderr,
            # The first process of a pid namespace ends last: the kernel waits for the others.
            kill_rest=lambda: True,
            release=lambda: self._give_back(first_id, group, disk),
            group=group,
            was_made=made.exists,
            disk=disk,
        )

    def _birth(
        self,
        plan: StartPlan,
        binds: tuple[Bind, ...],
        needs: Needs,
        group: Cgroup,
        worker: int,
        disk: Disk | None,
    ) -> OciBirth:
        staged = [Staged(source=bind.source, name=str(n)) for n, bind in enumerate(binds)]
        staged.append(Staged(source=plan.scratch, name="scratch"))
        if plan.root is not None:
            staged.append(Staged(source=plan.root, name=TREE))
        config = json.dumps(build_spec(needs)).encode()
        return OciBirth(
            worker=worker,
            joins=group.entries,
            fds=plan.fds,
            staged=tuple(staged),
            root=build_root(needs),
            files=(("bundle/config.json", config),),
            disk=disk.fd if disk is not None else -1,
            netns=plan.netns,
            hidden=self._runtime.hidden,
            read_only=self._runtime.read_only(),
            filter=self._newer(),
        )

    def _newer(self) -> bytes:
        if not self._runtime.by_name:
            return b""
        machine = platform.machine()
        return seccomp.newer_program(self._profile, machine, numbers(machine))

    def _give_back(self, first_id: int | None, group: Cgroup, disk: Disk | None) -> None:
        if disk is not None:
            disk.close()
        self._cgroups.give_back(group)
        if first_id is not None:
            self._spans.give_back(first_id)


def needs_of(
    plan: StartPlan,
    binds: tuple[Bind, ...],
    runtime: Runtime,
    first_id: int,
    *,
    disk: bool,
    profile: Profile,
) -> Needs:
    """Return what the specification is made of; looks at the host's files."""
    stage = stage_root()
    system, links = host_base() if plan.root is None else image_base(plan.root, plan, binds)
    return Needs(
        argv=plan.command(range(FIRST_FD, FIRST_FD + len(plan.fds))),
        env=plan.env,
        cwd=plan.cwd,
        hostname=plan.hostname,
        root=f"{stage}/root",
        first_id=first_id,
        user=USER,
        mounts=(
            *system,
            *(
                Mount(
                    source=f"{stage}/{number}",
                    target=bind.target,
                    writable=bind.writable,
                    directory=bind.source.is_dir(),
                )
                for number, bind in enumerate(binds)
            ),
            *([Mount(source=f"{stage}/{DISK}", target=TMP, writable=True)] if disk else []),
            *(
                Mount(
                    source=each.source or each.path, target=each.path, directory=False, device=True
                )
                for each in plan.devices
            ),
        ),
        tmpfs=tuple(
            Tmpfs(target=path, size_bytes=tmpfs_bytes(plan))
            for path in plan.tmpfs
            if not (disk and path == TMP)
        ),
        masks=tuple(
            Tmpfs(target=path, size_bytes=_HIDING_BYTES, mode=0o555) for path in masked_of(plan)
        ),
        links=links,
        directories=plan.directories,
        open_files=open_files(),
        own_network=plan.network != "shared" and plan.netns is None,
        **_filter(runtime, profile),
    )


def host_base() -> tuple[tuple[Mount, ...], tuple[tuple[str, str], ...]]:
    """Return what is mounted of this host, and which links lead into it."""
    mounts = [Mount(source="/usr", target="/usr")]
    links: list[tuple[str, str]] = []
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            links.append((str(path), str(path.readlink())))
        elif path.is_dir():
            mounts.append(Mount(source=str(path), target=str(path)))
    for name in ETC:
        real = Path(name).resolve()
        if real.exists():
            mounts.append(Mount(source=str(real), target=name, directory=real.is_dir()))
    return tuple(mounts), tuple(links)


def image_base(
    root: Path, plan: StartPlan, binds: tuple[Bind, ...]
) -> tuple[tuple[Mount, ...], tuple[tuple[str, str], ...]]:
    """Return what is mounted of an image's tree, and its links. Raises: RejectedError."""
    targets = [(bind.target, bind.source.is_dir()) for bind in binds]
    base = tree_base(root, places_of(plan, targets))
    mounts = tuple(
        Mount(
            source=f"{stage_root()}/{TREE}/{each.inner}",
            target=each.target,
            directory=each.directory,
        )
        for each in base.binds
    )
    return mounts, base.links


def _filter(runtime: Runtime, profile: Profile) -> dict[str, Any]:
    machine = platform.machine()
    if runtime.takes_bpf:
        data = base64.b64encode(program(profile, machine)).decode()
        return {"annotations": {"run.oci.seccomp_bpf_data": data}}
    if runtime.by_name:
        return {"seccomp": oci_profile(profile, machine, numbers(machine))}
    return {}
