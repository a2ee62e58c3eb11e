"""Whether containers may be forked from a process that has run a user's imports. Pure: facts in, reasons out.

A fork copies memory and one thread. What else a process has, its children would share or miss.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Devices without a state of their own.
HARMLESS: Final = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")
)
_NAMED_MAX: Final = 3


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says about a process.

    Attributes:
        threads, children: how many.
        files: what every descriptor beyond the runner's own leads to.
        shared: what memory it shares for writing with other processes is called.
        devices: device files in its memory.
    """

    threads: int
    children: int
    files: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def judge(facts: Facts) -> str:
    """Return "" if it may be forked from, else why not, in a sentence."""
    found: list[str] = []
    if facts.threads > 1:
        found.append(f"started {facts.threads - 1} threads, which a fork would lose")
    if facts.children:
        found.append(f"started {facts.children} processes")
    if any("nvidia" in each for each in (*facts.files, *facts.devices)):
        found.append("opened a GPU, which can't be shared with a fork")
    held = [each for each in facts.files if each not in HARMLESS and "nvidia" not in each]
    if held:
        found.append(f"holds open {_few(held)}")
    if facts.shared:
        found.append(f"shares memory with other processes ({_few(facts.shared)})")
    return "importing it " + " and ".join(found) if found else ""


def _few(names: list[str] | tuple[str, ...]) -> str:
    kinds = [_kind(name) for name in names]
    named = ", ".join(kinds[:_NAMED_MAX])
    return named if len(kinds) <= _NAMED_MAX else f"{named} and {len(kinds) - _NAMED_MAX} more"


def _kind(name: str) -> str:
    """Spell the kernel's names for things without one of their own."""
    kind = name.partition(":")[0]
    if name.startswith("anon_inode"):
        return f"an {name.partition(':')[2].strip('[]')}"
    return {"socket": "a socket", "pipe": "a pipe"}.get(kind, name)
