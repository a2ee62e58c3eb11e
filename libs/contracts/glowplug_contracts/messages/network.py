"""What a container may reach of the network."""

from __future__ import annotations

from glowplug_contracts.messages import Message


class NetworkSpec(Message, frozen=True, kw_only=True):
    """What was asked for.

    Attributes:
        block: true: nothing; false: the internet, or what `allow` names; None: what the kind of container
            does by itself (functions reach the internet, sandboxes nothing unless `allow` names it).
        allow: nothing but these: host names ("pypi.org"), names below one ("*.pypi.org"), addresses and
            CIDR ranges; () = no list.
    """

    block: bool | None = None
    allow: tuple[str, ...] = ()
