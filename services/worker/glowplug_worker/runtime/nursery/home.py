"""Where an ordinary user's nursery lives, and all its templates: a user namespace in which it has every power.

What it needs powers for is below: a template's namespaces are made in this one, by the same user. Over the host
it has none.
"""

from __future__ import annotations

import os
from typing import Final

from glowplug_worker.runtime.nursery.dress import check, new_file_system
from glowplug_worker.runtime.nursery.tracer import LIBC

_NEWNS: Final = 0x20000
_NEWUSER: Final = 0x10000000
_NEWPID: Final = 0x20000000
_COULD_NOT: Final = 1


def open_home() -> list[int]:
    """Move into namespaces of our own; return descriptors of them: user and mount. Raises: OSError."""
    user, group = os.geteuid(), os.getegid()
    check(LIBC.unshare(_NEWUSER | _NEWNS), "user namespaces are not to be had here")
    for file, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as written:  # noqa: PTH123 - no pathlib here
            written.write(line)
    _try_proc()
    return [
        os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("user", "mnt")
    ]


def _try_proc() -> None:
    """See that a new /proc can be had: where the host's is partly hidden (in Docker), it can't."""
    first = os.fork()
    if first == 0:
        try:
            check(LIBC.unshare(_NEWPID), "unshare")
            second = os.fork()
            if second == 0:
                new_file_system("proc", (), 0)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) & 0xFF)
        except BaseException:  # noqa: BLE001 - a forked child must not return
            os._exit(_COULD_NOT)
    _, status = os.waitpid(first, 0)
    if status != 0:
        raise PermissionError("a container of an ordinary user's can have no /proc of its own here")
