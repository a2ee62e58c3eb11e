"""How long to wait before a service that died is started again: a pure decision."""

from __future__ import annotations

FIRST_S = 0.05
MAX_S = 5.0
STEADY_S = 30.0


def choose_pause(deaths: int, lived_s: float) -> tuple[float, int]:
    """Return seconds to wait and the new count of deaths in a row.

    Args:
        deaths: how often in a row it died early before this time.
        lived_s: how long it lived this time; STEADY_S or more starts the count anew.
    """
    deaths = 1 if lived_s >= STEADY_S else deaths + 1
    return min(MAX_S, FIRST_S * 2 ** (deaths - 1)), deaths
