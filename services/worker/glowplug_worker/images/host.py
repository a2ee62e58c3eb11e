"""The identity of a host that images are bound to: what compiled packages depend on.

Images hold native code for one C library, one Python and one architecture. The worker says its identity
in every beat and in the manifests it writes, and refuses images of another. `host_identity` is pure;
`read_host_facts` asks the machine.
"""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

import msgspec

OS_RELEASE = Path("/etc/os-release")

_UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a machine; any of it may be ""."""

    os_release: str
    libc: str
    python: str
    machine: str


def host_identity(facts: HostFacts) -> str:
    """Return e.g. "debian-12/glibc-2.36/python-3.11.7/x86_64"."""
    fields: dict[str, str] = {}
    for line in facts.os_release.splitlines():
        name, _, value = line.partition("=")
        fields[name.strip()] = value.strip().strip("\"'")
    system = "-".join(filter(None, (fields.get("ID", "linux"), fields.get("VERSION_ID", ""))))
    parts = (system, facts.libc or "libc", f"python-{facts.python}", facts.machine or "machine")
    return "/".join(_UNFIT.sub("_", part) for part in parts)


def read_host_facts() -> HostFacts:
    """Return the facts about this machine."""
    try:
        os_release = OS_RELEASE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        os_release = ""
    return HostFacts(
        os_release=os_release,
        libc="-".join(filter(None, platform.libc_ver())),
        python=platform.python_version(),
        machine=platform.machine(),
    )


@functools.cache
def this_host() -> str:
    """Return this machine's identity, as beats and manifests say it. It can't change under us."""
    return host_identity(read_host_facts())
