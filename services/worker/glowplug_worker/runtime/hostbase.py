"""What every container with a root of its own sees of the host: the allow-list, and who it is inside.

Never `/`; of /etc only what name resolution, TLS, time zones and the dynamic linker need.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import UnavailableError
from glowplug_runtime import trees

from glowplug_worker.ports import Bind, StartPlan
from glowplug_worker.runtime.disks import Disk, make_disk

# Either directories, or links into /usr on hosts where they were merged.
SYSTEM: Final = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
ETC: Final = (
    "/etc/ld.so.cache",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/alternatives",  # links into /usr only; awk and cc are behind them
)
NAMES: Final = ("/etc/resolv.conf", "/etc/hosts")
USER: Final = 1000
PASSWD: Final = f"root:x:0:0:root:/:/bin/sh\nuser:x:{USER}:{USER}:user:/tmp:/bin/sh\n"
GROUP: Final = f"root:x:0:\nuser:x:{USER}:\n"
TMPFS_BYTES: Final = 1 << 30
TMP: Final = "/tmp"  # noqa: S108 - the container's own


def identity(scratch: Path) -> tuple[Bind, ...]:
    """Write and return the generated account files."""
    binds = []
    for name, text in (("passwd", PASSWD), ("group", GROUP)):
        path = scratch / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o644)
        binds.append(Bind(source=path, target=f"/etc/{name}"))
    return tuple(binds)


def resolving(plan: StartPlan) -> tuple[Bind, ...]:
    """Return how names are found on this host, for an image's root that shares its network.

    What the image itself has there speaks of the network that it was built in.
    """
    if plan.root is None or plan.network == "none":
        return ()
    given = {bind.target for bind in plan.binds}
    return tuple(
        Bind(source=Path(path).resolve(), target=path)
        for path in NAMES
        if path not in given and Path(path).exists()
    )


def prefix_bind(plan: StartPlan) -> tuple[Bind, ...]:
    """Return the bind of an interpreter of this host that is not under /usr."""
    prefix = plan.interpreter.prefix
    if plan.root is not None or prefix.is_relative_to("/usr"):
        return ()
    if prefix in (Path("/"), Path.home()) or prefix in plan.scratch.parents:
        raise UnavailableError(
            "platform.unavailable",
            f"the Python under {prefix} can't be shown to containers without showing too much",
        )
    return (Bind(source=prefix, target=str(prefix)),)


def masked_of(plan: StartPlan) -> tuple[str, ...]:
    """Return what is hidden of the interpreter's prefix: packages installed beside it."""
    prefix = plan.interpreter.prefix
    if plan.root is not None or prefix.is_relative_to("/usr"):
        return ()
    return tuple(str(path) for path in prefix.glob("lib/python3*/site-packages") if path.is_dir())


def hand_over(binds: tuple[Bind, ...], uid: int) -> None:
    """Give a container's user what it may write and shares with nobody."""
    for bind in binds:
        if bind.writable and not bind.shared:
            trees.hand_over(bind.source, uid)


async def own_disk(plan: StartPlan, *, able: bool) -> Disk | None:
    """Return the container's disk, which replaces its TMP; None where it gets a file system in memory.

    Raises: UnavailableError.
    """
    if not able or TMP not in plan.tmpfs or "disk" not in plan.limits.named:
        return None
    return await asyncio.to_thread(make_disk, plan.scratch, plan.limits)


def tmpfs_bytes(plan: StartPlan) -> int:
    """Return the size of file systems in memory: what is asked for where that is less than usual."""
    return min(TMPFS_BYTES, plan.limits.disk_bytes or TMPFS_BYTES)
