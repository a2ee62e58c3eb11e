"""When a schedule is due: cron with a time zone, `@daily` and its like, `every 30s`.

Pure: a due time is a function of the text, the zone and the time before, so that whoever asks, whenever,
counts the same ones. Cron is evaluated by cronsim, which does at changes of the clock what Debian's cron does:

* A fixed time ("30 2 * * *") that the change skips fires once, right after the gap. One that comes twice
  fires once, the first time.
* What repeats (a minute or hour field that begins with "*", or six fields) follows elapsed time: nothing
  in the gap, and both of the hours that come twice.

`every` counts from the epoch, in UTC: "every 30s" is due at :00 and :30, whatever was deployed when.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
import re
import zoneinfo
from typing import Final

from cronsim import CronSim, CronSimError
from glowplug_contracts.errors import InvalidRequestError

TEXT_MAX: Final = 200
EVERY_MAX_S: Final = 366 * 86_400
# Asked in an hour that comes twice, the library first names times of the first pass; so many at most.
STEPS_MAX: Final = 200

NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@minutely": "* * * * *",
}
UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EVERY = re.compile(
    r"every\s+(\d{1,9})\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)", re.IGNORECASE
)
NEVER: Final = 0.0


class DueTimes:
    """The due times of one schedule. Equal texts and zones are the same object."""

    def __init__(self, every_s: int, cron: str, zone: dt.tzinfo) -> None:
        self._every_s = every_s
        self._cron = cron
        self._zone = zone

    def after(self, unix: float) -> float:
        """Return the first due time later than `unix`, in whole Unix seconds; NEVER if there is none."""
        if self._every_s:
            return float((math.floor(unix) // self._every_s + 1) * self._every_s)
        try:
            local = dt.datetime.fromtimestamp(math.floor(unix), self._zone)
            for found in itertools.islice(CronSim(self._cron, local), STEPS_MAX):
                if found.timestamp() > unix:
                    return found.timestamp()
        except (OverflowError, ValueError):
            pass  # beyond the calendar
        return NEVER


@functools.lru_cache(maxsize=10_000)
def due_times(when: str, timezone: str = "UTC") -> DueTimes:
    """Return a schedule's due times.

    Raises: InvalidRequestError (request.invalid), whose `details["fields"]` says which word is wrong.
    """
    if len(when) > TEXT_MAX:
        raise _invalid("when", f"has more than {TEXT_MAX} characters")
    text = when.strip()
    every = _EVERY.fullmatch(text)
    if every is not None:
        if timezone.upper() != "UTC":
            raise _invalid(
                "timezone", "changes nothing about elapsed time: leave it out, or use cron"
            )
        seconds = int(every[1]) * UNITS[every[2][0].lower()]
        if not 0 < seconds <= EVERY_MAX_S:
            raise _invalid("when", f"{when!r}: from 1 second to 366 days")
        return DueTimes(seconds, "", dt.UTC)
    cron = NAMED.get(text.lower(), text)
    if cron.startswith("@"):
        raise _invalid("when", f"{when!r}: known are {', '.join(NAMED)}")
    made = DueTimes(0, cron, zone_of(timezone))
    try:
        CronSim(cron, dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
    except CronSimError as err:
        raise _invalid(
            "when",
            f"{when!r} is no schedule ({err}): give five or six fields of cron, @hourly and the like, or "
            "'every 30s'",
        ) from err
    return made


def zone_of(timezone: str) -> dt.tzinfo:
    """Return a time zone by its IANA name. Raises: InvalidRequestError."""
    if timezone.upper() == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise _invalid(
            "timezone", f"{timezone[:80]!r} is no IANA time zone (like Europe/Berlin)"
        ) from err


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(
        "request.invalid",
        f"schedule.{field} {message}",
        details={"fields": {f"schedule.{field}": message}},
    )
