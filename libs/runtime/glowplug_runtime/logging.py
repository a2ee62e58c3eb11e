"""Structured logs: an event name and fields, never prose. JSON when nobody watches."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TextIO

import structlog


class Lines:
    """Writes lines; one that can't be written (a full disk, a reader that is gone) ends no service.

    It is dropped, and how many were is said before the next one that can.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._dropped = 0
        self._one_at_a_time = threading.Lock()

    def msg(self, message: str) -> None:
        """Write a line."""
        with self._one_at_a_time:
            try:
                if self._dropped:
                    self._file.write(f'{{"event": "log.dropped", "lines": {self._dropped}}}\n')
                self._file.write(message + "\n")
                self._file.flush()
                self._dropped = 0
            except OSError:
                self._dropped += 1

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(service: str, instance: str, level: str) -> None:
    """Set up structlog for this process; every line names service and instance."""
    number = _LEVELS.get(level, logging.INFO)
    people = sys.stderr.isatty()
    lines = Lines(sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            *(
                [structlog.dev.ConsoleRenderer()]
                if people
                else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, instance=instance)
    # Libraries that log the ordinary way are heard from "warning" on.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(message)s")
    logging.getLogger("nats").setLevel(logging.CRITICAL)
