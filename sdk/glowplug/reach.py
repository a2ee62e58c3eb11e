"""`block_network=` and `allow_list=`: what a container may reach. The platform reads the list's entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def parse_network(block_network: object, allow_list: Sequence[str] | None) -> dict[str, Any]:
    """Return what was asked for, in the platform's words: {"block", "allow"}.

    Args:
        block_network: None means what the kind does by itself.
        allow_list: host names, wildcards ("*.pypi.org"), addresses and ranges.

    Raises: TypeError or ValueError with a sentence.
    """
    if block_network is not None and not isinstance(block_network, bool):
        raise TypeError(f"block_network={block_network!r}: give True or False")
    if allow_list is None:
        return {"block": block_network, "allow": []}
    if isinstance(allow_list, str) or not all(isinstance(entry, str) for entry in allow_list):
        raise TypeError(
            f'allow_list={allow_list!r}: give a list of strings, such as ["pypi.org", "*.pypi.org"]'
        )
    if not allow_list:
        raise ValueError("allow_list=[]: to allow nothing say block_network=True")
    if block_network:
        raise ValueError("block_network=True allows nothing; leave it or allow_list= out")
    return {"block": False, "allow": list(allow_list)}
