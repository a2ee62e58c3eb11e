"""The option --since: 90s, 15m, 6h, 2d ago, a Unix time, or a date in ISO 8601."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Any

import click

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Since(click.ParamType[float]):
    """See the module."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the Unix time."""
        text = str(value)
        ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
        if ago:
            return time.time() - float(ago[1]) * UNITS[ago[2]]
        try:
            return float(text)
        except ValueError:
            pass
        try:
            return dt.datetime.fromisoformat(text).astimezone().timestamp()
        except ValueError:
            self.fail(f"{text!r} is no time: 15m, 6h, 2d, or 2026-11-22T10:00", param, ctx)


since_option = click.option("--since", type=Since(), default=None, help="15m, 6h, 2d, or a date.")
