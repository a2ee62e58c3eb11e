"""Whether what a function or sandbox wants to reach can be meant. Pure."""

from __future__ import annotations

from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.reach import ENTRIES_MAX, parse_reach


def check_network(network: NetworkSpec, where: str = "network") -> dict[str, str]:
    """Return what is wrong, by field."""
    if not network.allow:
        return {}
    if network.block:
        return {f"{where}.allow": "is given, and so is block: give one of them"}
    if len(network.allow) > ENTRIES_MAX:
        return {f"{where}.allow": f"has {len(network.allow)} entries; {ENTRIES_MAX} are the most"}
    try:
        parse_reach(network.allow)
    except ValueError as error:
        return {f"{where}.allow": str(error)}
    return {}
