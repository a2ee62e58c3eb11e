"""How a function scales and when a failed attempt is tried again, as the user writes it.

Plain values; `settings.py` folds them into one deployment's description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from glowplug.parameters import refuse_parameters

FOREVER = -1
KEEP_SECONDS_MAX = 366 * 86_400.0


@dataclass(frozen=True, init=False)
class QueueDepthAutoscaler:
    """One container for every `tasks_per_container` inputs that wait or run.

    Attributes:
        max_containers: never more.
        tasks_per_container: inputs that justify one container.
        min_containers: kept even when idle (only of the latest version).
        buffer_containers: ready for the next inputs beyond those that the present ones take, as long as
            any wait or run; afterwards they go after keep_warm_seconds, like all.
    """

    max_containers: int
    tasks_per_container: int
    min_containers: int
    buffer_containers: int

    def __init__(
        self,
        max_containers: int = 1,
        tasks_per_container: int = 1,
        min_containers: int = 0,
        buffer_containers: int = 0,
        **others: Any,
    ) -> None:
        refuse_parameters("QueueDepthAutoscaler", others)
        check_whole("max_containers", max_containers, 1, 100_000)
        check_whole("tasks_per_container", tasks_per_container, 1, 1_000_000)
        check_whole("min_containers", min_containers, 0, max_containers)
        check_whole("buffer_containers", buffer_containers, 0, max_containers)
        if buffer_containers == max_containers:
            raise ValueError(
                f"buffer_containers={buffer_containers}: max_containers={max_containers} leaves no room "
                "for it beside a container that works; give a larger max_containers"
            )
        object.__setattr__(self, "max_containers", max_containers)
        object.__setattr__(self, "tasks_per_container", tasks_per_container)
        object.__setattr__(self, "min_containers", min_containers)
        object.__setattr__(self, "buffer_containers", buffer_containers)


@dataclass(frozen=True, init=False)
class TaskPolicy:
    """When a failed attempt is tried again, and how long anything may take.

    Attributes:
        max_retries: tries beyond the first for exceptions of the user's code; 0 means none.
        timeout: seconds for one attempt; −1 = none; None = the decorator's.
        ttl: seconds after which work that has not started expires; None = never.
        retry_delay_seconds: pause before the first retry.
        backoff: each later pause is so many times the one before.
        max_delay_seconds: and never longer than this.
        jitter: the share of each pause that chance may take away: 0 none, 1 (or True) all of it.
        keep_result_seconds: how long the result can be fetched after the end.
        dead_letter_keep_seconds: how long work of a queue that ended unsuccessfully is kept as a dead
            letter; 0 = none are made.
    """

    max_retries: int | None
    timeout: float | None
    ttl: float | None
    retry_delay_seconds: float
    backoff: float
    max_delay_seconds: float
    jitter: float
    keep_result_seconds: float
    dead_letter_keep_seconds: float

    def __init__(  # noqa: PLR0913, PLR0917 - the parameters are the public surface
        self,
        max_retries: int | None = None,
        timeout: float | None = None,
        ttl: float | None = None,
        retry_delay_seconds: float = 0.0,
        backoff: float = 1.0,
        max_delay_seconds: float = 600.0,
        jitter: float = 0.0,
        keep_result_seconds: float = 86_400.0,
        dead_letter_keep_seconds: float = 14 * 86_400.0,
        **others: Any,
    ) -> None:
        refuse_parameters("TaskPolicy", others)
        if max_retries is not None:
            check_whole("max_retries", max_retries, 0, 1000)
        if timeout is not None:
            check_timeout("timeout", timeout)
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl={ttl!r}: give seconds above 0, or None for never")
        if retry_delay_seconds < 0 or max_delay_seconds < 0:
            raise ValueError("retry_delay_seconds and max_delay_seconds can't be negative")
        if backoff < 1:
            raise ValueError(f"backoff={backoff!r}: must be at least 1")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter={jitter!r}: give a share from 0 to 1")
        if not 0 <= keep_result_seconds <= KEEP_SECONDS_MAX:
            raise ValueError(f"keep_result_seconds={keep_result_seconds!r}: give 0 to 366 days")
        if not 0 <= dead_letter_keep_seconds <= KEEP_SECONDS_MAX:
            raise ValueError(
                f"dead_letter_keep_seconds={dead_letter_keep_seconds!r}: give 0 to 366 days"
            )
        object.__setattr__(self, "max_retries", max_retries)
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "ttl", ttl)
        object.__setattr__(self, "retry_delay_seconds", float(retry_delay_seconds))
        object.__setattr__(self, "backoff", float(backoff))
        object.__setattr__(self, "max_delay_seconds", float(max_delay_seconds))
        object.__setattr__(self, "jitter", float(jitter))
        object.__setattr__(self, "keep_result_seconds", float(keep_result_seconds))
        object.__setattr__(self, "dead_letter_keep_seconds", float(dead_letter_keep_seconds))


_RATE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smhd]))?\s*\Z")
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
RATE_COUNT_MAX = 100_000


def parse_rate(value: object) -> tuple[int, float]:
    """Return (starts, in so many seconds) for "10/s", "100/m", "5/h", or a number per second.

    (0, 1.0) stands for no limit. "0.5" or 0.5 per second is one in two seconds.

    Raises: TypeError or ValueError with a sentence.
    """
    if value is None:
        return 0, 1.0
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f'rate_limit={value!r}: give "10/s", "100/m", "5/h" or a number per second')
    found = _RATE.match(value if isinstance(value, str) else f"{value:f}")
    number = float(found[1]) if found else 0.0
    if found is None or not 0 < number <= RATE_COUNT_MAX:
        raise ValueError(
            f'rate_limit={value!r}: give "10/s", "100/m", "5/h" or a number per second'
        )
    period = _PERIODS[found[2] or "s"]
    if number == int(number):
        return int(number), period
    return 1, period / number


def check_whole(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is a whole number of that range.

    Raises: TypeError or ValueError with a sentence.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: give a whole number")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be between {low} and {high}")
    return value


def check_timeout(name: str, value: object) -> float:
    """Return seconds above 0, or −1 for none.

    Raises: TypeError or ValueError with a sentence.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: give seconds, or -1 for none")
    if value != FOREVER and not value > 0:
        raise ValueError(f"{name}={value!r}: give seconds above 0, or -1 for none")
    return float(value)
