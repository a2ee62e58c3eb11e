"""What a caller may say about one piece of durable work, beside its arguments.

Checked here, in the caller's units, so that a mistake raises where it was written; sent as a header.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from glowplug.asked import PRIORITY_MAX
from glowplug.policies import check_timeout, check_whole

DAY_S = 86_400.0


class PutOptions(TypedDict, total=False):
    """What `options(…)` takes.

    Attributes:
        priority: −10 … 10; higher goes first.
        delay: not before so many seconds from now.
        eta: not before this moment: a datetime with a time zone, or a Unix time.
        ttl: seconds after which work that has not started expires (counted from `eta`, if that is later).
        timeout: seconds for one attempt; −1 = none.
        idempotency_key: the same key within its window means the same task.
        idempotency_window: seconds; a day unless given, seven days at most.
        concurrency_key: of one key at most `concurrency_limit` (1) run at once.
        fifo_key: of one key one runs at a time, strictly in the order they were put.
        tags: your own words, for lists.
        keep_result: seconds for which the result can be fetched after the end.
    """

    priority: int | None
    delay: float | None
    eta: datetime | float | None
    ttl: float | None
    timeout: float | None
    idempotency_key: str | None
    idempotency_window: float | None
    concurrency_key: str | None
    concurrency_limit: int | None
    fifo_key: str | None
    tags: Mapping[str, str] | None
    keep_result: float | None


def put_options(  # noqa: PLR0913 - each is one thing that can be said
    *,
    priority: int | None = None,
    delay: float | None = None,
    eta: datetime | float | None = None,
    ttl: float | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
    idempotency_window: float | None = None,
    concurrency_key: str | None = None,
    concurrency_limit: int | None = None,
    fifo_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    keep_result: float | None = None,
) -> dict[str, Any]:
    """Return the options under the platform's names, only those that were given.

    Raises: TypeError or ValueError with a sentence.
    """
    if delay is not None and eta is not None:
        raise ValueError("give delay= or eta=, not both")
    if fifo_key and concurrency_key:
        raise ValueError("give fifo_key= or concurrency_key=, not both")
    if fifo_key and (delay or eta):
        raise ValueError("fifo_key= keeps the order; work in order can't have a time of its own")
    if concurrency_limit is not None and not concurrency_key:
        raise ValueError("concurrency_limit= needs concurrency_key=")
    if idempotency_window is not None and not idempotency_key:
        raise ValueError("idempotency_window= needs idempotency_key=")
    given: dict[str, Any] = {
        "priority": None
        if priority is None
        else check_whole("priority", priority, -PRIORITY_MAX, PRIORITY_MAX),
        "delay_s": _seconds("delay", delay, zero=True),
        "eta": _moment(eta),
        "ttl_s": _seconds("ttl", ttl),
        "timeout_s": None if timeout is None else check_timeout("timeout", timeout),
        "idempotency_key": _text("idempotency_key", idempotency_key),
        "idempotency_window_s": _seconds("idempotency_window", idempotency_window),
        "concurrency_key": _text("concurrency_key", concurrency_key),
        "concurrency_limit": None
        if concurrency_limit is None
        else check_whole("concurrency_limit", concurrency_limit, 1, 100_000),
        "fifo_key": _text("fifo_key", fifo_key),
        "tags": _tags(tags),
        "keep_result_s": _seconds("keep_result", keep_result, zero=True),
    }
    return {name: value for name, value in given.items() if value is not None}


def header_value(options: Mapping[str, Any]) -> str:
    """Return the options as one header's value (ASCII)."""
    return json.dumps(options, separators=(",", ":"))


def celery_options(
    *, countdown: float | None = None, expires: datetime | float | None = None, **others: Any
) -> dict[str, Any]:
    """Return the options of `apply_async` under our names: countdown is delay, expires is ttl.

    Raises: TypeError or ValueError with a sentence.
    """
    if countdown is not None:
        others["delay"] = countdown
    if isinstance(expires, datetime):
        left = _aware("expires", expires).timestamp() - time.time()
        others["ttl"] = max(left, 0.001)
    elif expires is not None:
        others["ttl"] = expires
    return put_options(**others)


def _seconds(name: str, value: object, *, zero: bool = False) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: give seconds")
    if not (value > 0 or (zero and value == 0)):
        raise ValueError(f"{name}={value!r}: give seconds{'' if zero else ' above 0'}")
    return float(value)


def _moment(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return _aware("eta", value).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"eta={value!r}: give a datetime with a time zone, or a Unix time")
    return float(value)


def _aware(name: str, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(
            f"{name}={value!r} has no time zone, so it means another moment elsewhere; add one, as in "
            "datetime.now(timezone.utc) + timedelta(minutes=5)"
        )
    return value


def _text(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: give a string")
    if not 0 < len(value) <= 256:  # noqa: PLR2004
        raise ValueError(f"{name}={value[:40]!r}: give 1 to 256 characters")
    return value


def _tags(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(word, str) for pair in value.items() for word in pair
    ):
        raise TypeError(f"tags={value!r}: give a dictionary of strings")
    return dict(value)
