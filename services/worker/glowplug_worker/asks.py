"""What a container asks for, judged: which requests may go to a gateway, and how many at once.

A pure machine between the runner's frames and the forwarding shell (`door.py`). Everything a runner says
is hostile: what no honest runner sends ends the container, what its user may not ask is refused with an
answer. Bounds: ASKS_MAX requests and HELD_BYTES_MAX bytes of bodies in flight per container.
"""

from __future__ import annotations

from typing import Final

import msgspec
from glowplug_contracts.inside import (
    ANSWER_CREDIT_AT_FIRST,
    ASK_BYTES_MAX,
    allows,
    passing_headers,
)

from glowplug_worker.frames import Ask, FrameError

ASKS_MAX: Final = 64
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
# What may wait in the container's socket although nobody there reads; the runner grants far less.
CREDIT_AHEAD_MAX: Final = 4 * 1024 * 1024

FORBIDDEN: Final = 403
TOO_MANY: Final = 429


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """Let it through: these headers, beside the worker's own."""

    headers: dict[str, str]


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer it here."""

    status: int
    code: str
    message: str


class _Open(msgspec.Struct):
    size: int
    sent: int = 0
    until: int = ANSWER_CREDIT_AT_FIRST


class Asks:
    """One container's requests in flight, over all of its runner processes."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], _Open] = {}
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def take(self, process: int, ask: Ask, size: int) -> Forward | Refuse:
        """Judge a request whose body is whole. Raises: FrameError for what no runner may send."""
        key = (process, ask.ask_id)
        if key in self._open:
            raise FrameError(f"a second request {ask.ask_id}")
        if size > ASK_BYTES_MAX:
            raise FrameError(f"a request of {size} bytes")
        headers = passing_headers(ask.headers.items())
        if headers is None:
            raise FrameError("a request whose headers are none")
        if not allows(ask.method, ask.path):
            return Refuse(
                status=FORBIDDEN,
                code="auth.forbidden",
                message=f"code inside a container may not ask for {ask.method[:16]} {ask.path[:200]}",
            )
        if len(self._open) >= ASKS_MAX or self._held_bytes + size > HELD_BYTES_MAX:
            return Refuse(
                status=TOO_MANY,
                code="container.too_many_requests",
                message=f"this container has {len(self._open)} requests in flight; at most {ASKS_MAX}, "
                f"and {HELD_BYTES_MAX >> 20} MiB of bodies, may be",
            )
        self._open[key] = _Open(size=size)
        self._held_bytes += size
        return Forward(headers=headers)

    def sendable(self, process: int, ask_id: int) -> int:
        """Return how many bytes of the answer may go to the runner now."""
        one = self._open.get((process, ask_id))
        return 0 if one is None else max(0, one.until - one.sent)

    def sent(self, process: int, ask_id: int, size: int) -> None:
        """So much of the answer went out."""
        one = self._open.get((process, ask_id))
        if one is not None:
            one.sent += size

    def grant(self, process: int, ask_id: int, until: int) -> None:
        """The runner has taken some; credit never falls, and never runs far ahead of what was sent."""
        one = self._open.get((process, ask_id))
        if one is not None:
            one.until = max(one.until, min(until, one.sent + CREDIT_AHEAD_MAX))

    def end(self, process: int, ask_id: int) -> None:
        """It is answered, or nobody waits for it any more."""
        one = self._open.pop((process, ask_id), None)
        if one is not None:
            self._held_bytes -= one.size

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert len(self._open) <= ASKS_MAX  # noqa: S101
        assert self._held_bytes == sum(one.size for one in self._open.values())  # noqa: S101
        assert self._held_bytes <= HELD_BYTES_MAX  # noqa: S101
        for one in self._open.values():
            assert one.sent <= one.until  # noqa: S101
