"""When to ask a registry again, after how long, and when to give up. Pure.

Pauses double, with chance in them so that many pulls do not come back together. A registry that says
how long to wait is obeyed, unless that is longer than a build would wait.
"""

from __future__ import annotations

import email.utils
import math
from typing import Final

import msgspec

# Answers after which the same question makes sense.
AGAIN_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
TOO_MANY: Final = 429


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a registry is waited for.

    Attributes:
        tries_max: of one request that fails; of a download, since it last got on by `progress_bytes`.
        mirror_tries_max: the same for a mirror, after which there is somebody else to ask.
        first_pause_s, pause_max_s: the pause after the first failure, and after many.
        told_to_wait_max_s: a Retry-After longer than this ends the pull with that figure.
        connect_s: until a connection stands.
        stalled_s: without a byte.
        progress_bytes: less does not count as getting on; otherwise one byte per try could go on for ever.
    """

    tries_max: int = 5
    mirror_tries_max: int = 2
    first_pause_s: float = 0.5
    pause_max_s: float = 15.0
    told_to_wait_max_s: float = 60.0
    connect_s: float = 10.0
    stalled_s: float = 60.0
    progress_bytes: int = 1024 * 1024


def pause_before(
    tries: int, told_to_wait_s: float | None, patience: Patience, chance: float
) -> float | None:
    """Return the seconds to wait after `tries` failures, or None where waiting is no use.

    Args:
        chance: 0 … 1; the pause lies between half and the whole of what was doubled.
    """
    if told_to_wait_s is not None and told_to_wait_s > patience.told_to_wait_max_s:
        return None
    doubled = min(patience.pause_max_s, patience.first_pause_s * 2.0 ** min(tries - 1, 32))
    pause = doubled * (0.5 + chance / 2)
    return max(pause, told_to_wait_s or 0.0)


def parse_retry_after(text: str | None, unix_now: float) -> float | None:
    """Return the seconds in a Retry-After header: a number, or a date. None if it says nothing."""
    if not text:
        return None
    if text.strip().isdecimal() and text.isascii():
        return float(text[:12])
    try:
        at = email.utils.parsedate_to_datetime(text[:64]).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, at - unix_now) if math.isfinite(at) else None
