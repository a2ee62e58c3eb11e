"""How many of the oldest events make room for new ones. Pure.

Events are kept for replays as long as there is room. When their stream is nearly full, refusing new ones would
be worse than forgetting old ones: the oldest go, as far as every shard's router has put them into
invocations, and never one that some trigger still waits for. Then nothing is left but to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glowplug_contracts.messages.event import RouterPosition

# Room is made from this share of the stream's bound on, down to that one.
TRIM_FROM = 0.9
TRIM_TO = 0.75


def trim_before(stream: Mapping[str, int], positions: Sequence[RouterPosition | None]) -> int:
    """Return the sequence before which events may go now; 0 where none is to go.

    `stream` says its bytes, max_bytes, first_sequence and last_sequence; `positions` are those of all shards.
    """
    full, most = stream["bytes"], stream["max_bytes"]
    if most <= 0 or full < TRIM_FROM * most:
        return 0
    first, last = stream["first_sequence"], stream["last_sequence"]
    handled = min((p.oldest if p is not None else 0 for p in positions), default=0)
    share = (full - TRIM_TO * most) / full
    wanted = first + round((last - first + 1) * share)
    before = min(wanted, handled, last + 1)
    return before if before > first else 0
