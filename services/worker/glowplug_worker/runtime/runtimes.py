"""The OCI runtimes that we know: how each is called and what each needs of its surroundings.

All of them are told to leave control groups alone, because the worker makes its own: crun by a flag, and
by hiding the hierarchies (it refuses hybrid ones); runc by showing them read-only, which it takes as
"none for me"; runsc by a flag.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final, Literal

import msgspec

CGROUPS: Final = "/sys/fs/cgroup"
NAMES: Final = {"oci": ("crun", "runc"), "gvisor": ("runsc",)}
# Works where others need hardware that is not there, or hang.
RUNSC_PLATFORM: Final = "ptrace"
ASK_S: Final = 10.0
# Older ones have published holes that a user namespace closes; every container here has one. `doctor`
# says so, because a fixed one is better.
FIXED: Final = {"crun": (1, 28), "runc": (1, 3, 6), "runsc": (2026,)}


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """An installed runtime."""

    kind: Literal["crun", "runc", "runsc"]
    binary: Path
    version: str

    @property
    def backend(self) -> str:
        """Return the name of the backend that it makes."""
        return "gvisor" if self.kind == "runsc" else "oci"

    @property
    def takes_bpf(self) -> bool:
        """Return whether it takes our filter as it is."""
        return self.kind == "crun"

    @property
    def by_name(self) -> bool:
        """Return whether it must be told by name which calls are refused; runsc has its own kernel."""
        return self.kind == "runc"

    @property
    def env(self) -> dict[str, str]:
        """Return its environment: nothing of the worker's or the user's."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    @property
    def hidden(self) -> str:
        """Return what it must not see."""
        return CGROUPS if self.kind == "crun" else ""

    def read_only(self) -> tuple[str, ...]:
        """Return the mounts that it must not write to."""
        if self.kind != "runc":
            return ()
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        return tuple(line.split()[4] for line in lines.splitlines() if " - cgroup" in line)

    @property
    def old(self) -> bool:
        """Return whether it is older than the first without published holes."""
        found = tuple(int(each) for each in re.findall(r"\d+", self.version)[:3])
        return found < FIXED[self.kind]

    def command(self, stage: str, container_id: str, fds: int, pid_file: str) -> tuple[str, ...]:
        """Return the command line that makes the container and waits for its end."""
        own: tuple[str, ...] = (str(self.binary), "--root", f"{stage}/state")
        match self.kind:
            case "crun":
                own = (*own, "--cgroup-manager=disabled")
            case "runc":
                own = (*own, "--rootless=true")
            case "runsc":
                own = (*own, "--ignore-cgroups", f"--platform={RUNSC_PLATFORM}", "--network=host")
        keep = ("--preserve-fds", str(fds)) if self.kind != "runsc" else ()
        files = ("--bundle", f"{stage}/bundle", "--pid-file", pid_file)
        return (*own, "run", *files, *keep, container_id)


def find_runtimes(backend: str, wanted: str = "") -> tuple[Runtime, ...]:
    """Return the installed runtimes of a backend, the better first; `wanted` names one or its path."""
    found = []
    for name in (wanted,) if wanted else NAMES[backend]:
        binary = which(name)
        runtime = None if binary is None else ask(binary)
        if runtime is not None and runtime.backend == backend:
            found.append(runtime)
    return tuple(found)


def ask(binary: Path) -> Runtime | None:
    """Return what a binary says it is; None where it is no runtime we know."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, timeout=ASK_S, check=True, env={}
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(crun|runc|runsc) version (?:release-)?(\S+)", said)
    if match is None:
        return None
    kind = match.group(1)
    assert kind in ("crun", "runc", "runsc")  # noqa: S101 - the pattern says so
    return Runtime(kind=kind, binary=binary, version=match.group(2))  # type: ignore[arg-type]


def which(name: str) -> Path | None:
    """Return a program of this host; those for administrators are looked for, too."""
    if "/" in name:
        return Path(name)
    for folder in (*os.get_exec_path(), "/usr/sbin", "/sbin"):
        candidate = Path(folder) / name
        if os.access(candidate, os.X_OK):
            return candidate
    return None
