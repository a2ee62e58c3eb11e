"""Which network a container gets, of what was asked for and what this worker can give. Pure.

Functions reach the internet unless they say otherwise. A sandbox runs what nobody has read, so it reaches
nothing unless its creator says what. Builds fetch packages from wherever this machine's pip fetches them,
so they have the machine's own network.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from glowplug_contracts.messages.container import ContainerKind
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.reach import Reach, parse_reach


class Access(StrEnum):
    """What a container may reach."""

    HOST = "host"  # everything that this machine can
    NONE = "none"
    INTERNET = "internet"  # public addresses
    LISTED = "listed"  # what its list names


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker can give.

    Attributes:
        own: containers have networks of their own, whose traffic is filtered.
        none: the network can be taken away.
        host: containers may have the machine's own network.
    """

    own: bool
    none: bool
    host: bool


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What the container gets; `reach` with LISTED."""

    access: Access
    reach: Reach = Reach()


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why it can't have what was asked for, in words for its user."""

    why: str


def decide(  # noqa: PLR0911 - a table
    kind: ContainerKind, asked: NetworkSpec, means: Means
) -> Granted | Refused:
    """Return what the container gets. What was asked for in words is given or refused, never weakened."""
    if kind is ContainerKind.BUILD:
        return Granted(access=Access.HOST)
    if asked.block:
        if means.none:
            return Granted(access=Access.NONE)
        return Refused(
            why="block_network=True can't be had here: this worker's containers share the machine's "
            "network, and its backend can't take that away (`glowplug doctor` says which one it is)"
        )
    if asked.allow:
        return _listed(asked, means)
    if kind is ContainerKind.SANDBOX and asked.block is None and means.none:
        return Granted(access=Access.NONE)
    if means.own:
        return Granted(access=Access.INTERNET)
    return Granted(access=Access.HOST if means.host else Access.NONE)


def _listed(asked: NetworkSpec, means: Means) -> Granted | Refused:
    if not means.own:
        return Refused(
            why="allow_list= needs a network of the container's own, which takes a worker that is run by "
            "root with GLOWPLUG_WORKER_NETWORK=auto or own; block_network=True works without"
        )
    try:
        return Granted(access=Access.LISTED, reach=parse_reach(asked.allow))
    except ValueError as error:
        return Refused(why=f"allow_list: {error}")
