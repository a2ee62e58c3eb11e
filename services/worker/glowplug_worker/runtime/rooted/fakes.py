"""Changes of owner that do nothing and say that they worked, where a container has a single user id. Pure.

Package managers give files to accounts, and an ordinary user's worker has none to give: the kernel would say no,
and the installation would fail. What is installed is root's there in any case; the image keeps it so.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from glowplug_worker.runtime.seccomp import ARCHITECTURES

CALLS: Final = ("chown", "fchown", "fchownat", "lchown", "setgroups")
_LOAD: Final = 0x20
_JEQ: Final = 0x15
_RET_DONE: Final = 0x00050000  # an error that is none
_RET: Final = 0x06
_ARCH_AT: Final = 4


def pretending(known: Mapping[str, int], machine: str) -> bytes:
    """Return the beginning of a filter: what comes after it decides about all other calls."""
    found = [known[name] for name in CALLS if name in known]
    code = [struct.pack("=HBBI", _LOAD, 0, 0, 0)]
    for at, number in enumerate(found):
        code.append(struct.pack("=HBBI", _JEQ, len(found) - at - 1 + 1, 0, number))
    # Neither of them: over the next. A call of another architecture is for what comes after, too.
    code += [
        struct.pack("=HBBI", 0x05, 0, 0, 3),
        struct.pack("=HBBI", _LOAD, 0, 0, _ARCH_AT),
        struct.pack("=HBBI", _JEQ, 0, 1, ARCHITECTURES[machine]),
        struct.pack("=HBBI", _RET, 0, 0, _RET_DONE),
    ]
    return b"".join(code)
