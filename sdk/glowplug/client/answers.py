"""What a gateway answered, whichever way the answer came: over HTTP or through a container's door.

Standard library only, because it runs inside containers, too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from glowplug.errors import GlowplugError, error_for

LINE_BYTES_MAX = 16 * 1024 * 1024
BUSY = 503


class BrokenAnswerError(ConnectionError):
    """An answer ended before it was complete: the same as a lost connection."""


class BusyError(Exception):
    """The gateway can't just now (503); trying again makes sense."""

    def __init__(self, error: GlowplugError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Response(Protocol):
    """An answer whose body is still to come."""

    @property
    def content(self) -> Any:
        """The body: `content.iter_any()` yields its pieces."""


async def json_lines(response: Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a body of JSON lines as they arrive.

    Raises: BrokenAnswerError for a line beyond LINE_BYTES_MAX.
    """
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise BrokenAnswerError(f"a line is longer than {LINE_BYTES_MAX} bytes")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if rest.strip():
        yield json.loads(rest)


def refusal_of(answer: Answer) -> Exception:
    """Return the exception for an answer of 400 or more."""
    try:
        error = answer.json()["error"]
        code, message = str(error["code"]), str(error["message"])
        details, after = error.get("details") or {}, error.get("retry_after_s")
    except (ValueError, KeyError, TypeError):
        code, details, after = "", {}, None
        text = answer.body[:200].decode("utf-8", "replace")
        message = f"the gateway answered {answer.status}: {text}"
    if after is None and answer.headers.get("Retry-After", "").isdigit():
        after = float(answer.headers["Retry-After"])
    error_found = error_for(
        code, message, status=answer.status, details=details, retry_after_s=after
    )
    if answer.status == BUSY:
        return BusyError(error_found)
    return error_found
