"""Which of several nodes has a name: rendezvous hashing. Pure.

Every node gets a number for the name, and the highest comes first. So whoever knows the same nodes finds the same
order without asking anybody; a node that goes moves only what it had, one that comes takes its share and no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_NUMBER_BYTES = 8


def ranked(name: str, nodes: Iterable[str]) -> list[str]:
    """Return the nodes, each once, those that have the name first."""
    return sorted(set(nodes), key=lambda node: (_number(name, node), node), reverse=True)


def _number(name: str, node: str) -> bytes:
    # Lengths are told apart, so that no pair is taken for another.
    said = f"{len(node)}:{node}{name}".encode()
    return hashlib.blake2b(said, digest_size=_NUMBER_BYTES).digest()
