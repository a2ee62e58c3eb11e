"""Chooses the backend by really trying it: what starts a Python that is held where it should be, wins.

A version number or a sysctl says too little; hosts forbid user namespaces in many ways. The worker asks
once at start-up, `doctor` asks again and shows the same sentence.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.container import ContainerKind
from glowplug_runtime.settings import load

from glowplug_worker.ports import FDS, Backend, RunningContainer, StartPlan
from glowplug_worker.runtime import seccomp
from glowplug_worker.runtime.bwrap import BwrapBackend, find_binary
from glowplug_worker.runtime.cgroups import Cgroups, open_cgroups
from glowplug_worker.runtime.disks import why_none
from glowplug_worker.runtime.launcher.client import Launcher
from glowplug_worker.runtime.oci import OciBackend
from glowplug_worker.runtime.process import ProcessBackend
from glowplug_worker.runtime.python import find_pythons, own_python
from glowplug_worker.runtime.runtimes import Runtime, find_runtimes
from glowplug_worker.runtime.seccomp_files import describe, load_profile
from glowplug_worker.runtime.seccomp_rules import Profile
from glowplug_worker.runtime.uids import SPANS, Uids
from glowplug_worker.settings import WorkerSettings

WANTED: Final = ("auto", "process", "bwrap", "oci", "gvisor")
PROBE_PREFIX: Final = "probe-"
_TRY_S: Final = 30.0
# Runs inside: what a container must not be able to do, tried.
_PROBE: Final = """
import json, os, sys
caps = [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')][0]
def opens(path, mode):
    try:
        os.close(os.open(path, mode)); return True
    except OSError:
        return False
os.write(int(sys.argv[1]), json.dumps({
    'caps': int(caps, 16),
    'data': opens(sys.argv[2], os.O_RDONLY),
    'core_pattern': opens('/proc/sys/kernel/core_pattern', os.O_WRONLY),
    'shadow': opens('/etc/shadow', os.O_RDONLY),
}).encode())
"""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What the probe could do: effective capabilities, and which files it could open."""

    caps: int
    data: bool
    core_pattern: bool
    shadow: bool

    def holes(self) -> list[str]:
        """Return in words what is not held."""
        found = {
            f"capabilities {self.caps:#x} are left": self.caps != 0,
            "the data directory can be read": self.data,
            "/proc/sys/kernel/core_pattern can be written": self.core_pattern,
            "/etc/shadow can be read": self.shadow,
        }
        return [words for words, true in found.items() if true]


async def choose_backend(
    wanted: str,
    data_dir: Path,
    cgroups: Cgroups | None = None,
    runtime: str = "",
    profile: Profile | None = None,
    launcher: Launcher | None = None,
) -> Backend:
    """Return the best backend that works here, or the wanted one.

    `runtime` names the one that "oci" and "gvisor" use, or gives its path; "" = the best installed.
    `profile`: of the system calls that are refused; None = the platform's own.
    `launcher` starts the processes of "bwrap" and "process".

    Raises: UnavailableError when the wanted one does not work, saying why.
    """
    if wanted not in WANTED:
        raise UnavailableError(
            "platform.unavailable", f"there is no backend {wanted!r}; use {', '.join(WANTED)}"
        )
    if wanted in ("oci", "gvisor"):
        return await _try_runtimes(wanted, data_dir, cgroups, runtime, profile)
    if wanted == "process":
        return _process("it was asked for", data_dir, cgroups, launcher)
    try:
        backend = await _try_bwrap(data_dir, cgroups, profile, launcher)
    except (PlatformError, OSError) as error:
        if wanted == "bwrap":
            if isinstance(error, PlatformError):
                raise
            raise UnavailableError(
                "platform.unavailable", f"bwrap can't be tried: {error}"
            ) from error
        return _process(f"bwrap can't be used here ({error})", data_dir, cgroups, launcher)
    return backend


async def _try_bwrap(
    data_dir: Path,
    cgroups: Cgroups | None,
    profile: Profile | None,
    launcher: Launcher | None,
) -> Backend:
    binary = find_binary() if sys.platform == "linux" else None
    if binary is None:
        raise UnavailableError("platform.unavailable", "bubblewrap is not installed")
    if platform.machine() not in seccomp.ARCHITECTURES:
        raise UnavailableError(
            "platform.unavailable", f"there is no system-call filter for {platform.machine()} yet"
        )
    uids = _uids()
    words = "every container has its own unprivileged user" if uids else "run as an ordinary user"
    disks = not await asyncio.to_thread(why_none)
    backend = BwrapBackend(
        binary,
        f"tried at start-up, it holds; {words}",
        uids,
        cgroups,
        disks=disks,
        profile=profile,
        launcher=launcher,
    )
    holes = (await probe(backend, data_dir)).holes()
    if holes:
        raise UnavailableError(
            "platform.unavailable", "tried, it does not hold: " + "; ".join(holes)
        )
    return backend


async def _try_runtimes(
    wanted: str,
    data_dir: Path,
    cgroups: Cgroups | None,
    name: str,
    profile: Profile | None,
) -> Backend:
    """Return the backend of the first runtime that works. Raises: UnavailableError, saying why none."""
    if os.geteuid() != 0:
        raise UnavailableError(
            "platform.unavailable", f"the {wanted} backend needs a worker that is run by root"
        )
    problems = []
    for runtime in find_runtimes(wanted, name):
        try:
            return await _try_runtime(runtime, data_dir, cgroups, profile)
        except (PlatformError, OSError) as error:
            problems.append(f"{runtime.kind} {runtime.version}: {error}")
    raise UnavailableError(
        "platform.unavailable",
        "; ".join(problems) or f"no runtime for the {wanted} backend is installed",
    )


async def _try_runtime(
    runtime: Runtime, data_dir: Path, cgroups: Cgroups | None, profile: Profile | None
) -> Backend:
    words = f"{runtime.kind} {runtime.version}, tried at start-up, it holds"
    if runtime.old:
        words += "; it has published holes, which its user namespaces close: a newer one is better"
    disks = not await asyncio.to_thread(why_none)
    backend = OciBackend(runtime, words, Uids(ranges=SPANS), cgroups, disks=disks, profile=profile)
    holes = (await probe(backend, data_dir)).holes()
    if holes:
        raise UnavailableError(
            "platform.unavailable", "tried, it does not hold: " + "; ".join(holes)
        )
    return backend


async def probe(backend: Backend, data_dir: Path) -> Findings:
    """Start a Python in a backend and let it try what it must not be able to do."""
    scratch, secret = _bait(data_dir)
    interpreter = own_python()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - positional only
    fd = theirs.fileno()
    plan = StartPlan(
        container_id=ContainerId("ctr_probe"),
        kind=ContainerKind.FUNCTION,
        interpreter=interpreter,
        argv=(str(interpreter.executable), "-I", "-S", "-c", _PROBE, FDS, str(secret)),
        fds=(fd,),
        env={},
        cwd="/tmp" if backend.mounts else str(scratch),  # noqa: S108 - the container's own
        scratch=scratch,
    )
    try:
        container = await _start(backend, plan, theirs)
        try:
            async with asyncio.timeout(_TRY_S):
                said = await asyncio.get_running_loop().sock_recv(ours, 4096)
                end = await container.wait()
        except TimeoutError:
            raise UnavailableError("platform.unavailable", "the probe gave no answer") from None
        finally:
            await container.close()
    finally:
        ours.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if not said:
        why = end.stderr_tail.strip() or f"exit {end.code or end.signal}"
        raise UnavailableError("platform.unavailable", f"the probe failed: {why}")
    return msgspec.json.decode(said, type=Findings)


async def _start(backend: Backend, plan: StartPlan, theirs: socket.socket) -> RunningContainer:
    try:
        return await backend.start(plan)
    finally:
        theirs.close()


def _bait(data_dir: Path) -> tuple[Path, Path]:
    """Make a directory, and a file in it that a container must not be able to read."""
    data_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=PROBE_PREFIX, dir=data_dir))
    secret = scratch / "secret"
    secret.touch(mode=0o600)
    return scratch, secret


def _process(
    reason: str, data_dir: Path, cgroups: Cgroups | None, launcher: Launcher | None
) -> Backend:
    data_dir.mkdir(parents=True, exist_ok=True)
    needed = (own_python().executable, data_dir)
    return ProcessBackend(reason, _uids(), needed, cgroups, launcher)


def _uids() -> Uids | None:
    return Uids() if os.geteuid() == 0 else None


def main() -> None:
    """Say in JSON what would be chosen here: `python -m glowplug_worker.runtime.choose`, for doctor."""
    with tempfile.TemporaryDirectory(prefix="glowplug-doctor-") as directory:
        # A worker's own is judged by the worker; here only the interpreter may stand in the way.
        Path(directory).chmod(0o755)
        profile = load_profile(load(WorkerSettings, "worker").seccomp)
        cgroups = open_cgroups(Path(directory))
        try:
            backend = asyncio.run(choose_backend("auto", Path(directory), cgroups, profile=profile))
        finally:
            cgroups.close()
    found = {
        "backend": backend.name,
        "reason": backend.reason,
        "enforces": sorted(backend.enforces),
        "system_calls": describe(profile, platform.machine()) if backend.mounts else "",
        "pythons": list(find_pythons().versions()),
    }
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
