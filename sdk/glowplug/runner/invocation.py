"""One input being run: its arguments, its credit for items, and whether somebody cancelled it."""

from __future__ import annotations

import _thread

from glowplug.runner.frames import CREDIT_AT_FIRST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from glowplug.events import Event
    from glowplug.runner.context import Context
    from glowplug.runner.frames import Header


class CancelledError(KeyboardInterrupt):
    """Raised in the user's code when its caller gave up; like Ctrl-C it passes `except Exception`."""


class Invocation:
    """What a `run` frame asked for.

    Attributes:
        cancelled: its caller gave up; set by the reading thread.
        stoppable: user code runs that `interrupt` may stop; set by the lane.
        reported: its result frame is out, or about to be.
        interrupt: stops the user's code; set by the lane that runs it.
        passed, pass_as: results of others that it waited for, and what its function gets of them.
        context: what its function was given, if it asked for one.
        on_credit: called when credit grows (async lane).
        events: the batch that it delivers, of which some may fail; None where it delivers none.
    """

    def __init__(self, header: Header, body: bytes) -> None:
        self.id = str(header["id"])
        self.index = int(header.get("index", 0))
        self.key = (self.id, self.index)
        self.format = str(header["format"])
        self.attempt = int(header.get("attempt", 1))
        self.stream = bool(header.get("stream"))
        self.timeout_s = float(header.get("timeout_s", 0.0))
        self.context: Context | None = None
        self.method = str(header.get("method", ""))
        self.scheduled_for = float(header.get("scheduled_for") or 0.0)
        self.pass_as = str(header.get("pass_as", ""))
        self.body, self.passed = _cut_off(body, header.get("passed") or ())
        self.cancelled = False
        self.stoppable = False
        self.reported = False
        self.interrupt: Callable[[], object] | None = None
        self.on_credit: Callable[[], object] | None = None
        self.events: list[Event] | None = None
        self._until = CREDIT_AT_FIRST
        self._more = _thread.allocate_lock()
        self._more.acquire()

    def begin(self) -> None:
        """Mark the start of user code. Raises: CancelledError if the caller gave up already."""
        self.stoppable = True
        if self.cancelled:
            raise CancelledError

    def cancel(self) -> None:
        """Stop it, or see to it that it does not begin."""
        self.cancelled = True
        interrupt = self.interrupt
        if self.stoppable and interrupt is not None:
            interrupt()

    def may_send(self, number: int) -> bool:
        """Return whether item `number` is within the credit."""
        return number < self._until

    def grant(self, until: int) -> None:
        """Raise the credit; it never falls."""
        if until <= self._until:
            return
        self._until = until
        self._wake()

    def _wake(self) -> None:
        if self._more.locked():
            self._more.release()
        on_credit = self.on_credit
        if on_credit is not None:
            on_credit()

    def wait_for_credit(self, number: int) -> None:
        """Block the generator's thread until item `number` may be sent. An interrupt ends it."""
        while not self.may_send(number):
            # In slices: an interrupt raised in a thread is not seen inside a lock.
            self._more.acquire(timeout=0.5)
            if self.cancelled:
                raise CancelledError


def _cut_off(body: bytes, sizes: Any) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return the arguments, and the results of others that follow them: (format, bytes) of each."""
    passed = []
    end = len(body)
    for form, size in reversed(sizes):
        passed.append((str(form), body[end - size : end]))
        end -= size
    return body[:end] if passed else body, passed[::-1]
