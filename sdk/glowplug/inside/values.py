"""The contracts' values that a container reads, from JSON and without the contracts."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RemoteError:
    """What went wrong in another container; fields as in the contracts."""

    code: str
    type: str = ""
    message: str = ""
    traceback: str = ""
    pickled: bytes | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Payload:
    """A result's bytes, or the blob that holds them."""

    format: str
    data: bytes | None = None
    blob: str | None = None


@dataclass(frozen=True)
class StreamItem:
    """One line of a streamed call: `kind` is "item", "end" or "error"."""

    kind: str
    item: Payload | None = None
    error: RemoteError | None = None


def remote_error(value: Any) -> Any:
    """Return the error in an answer's JSON; None for null."""
    if not value:
        return None
    pickled = value.get("pickled")
    return RemoteError(
        code=str(value.get("code", "")),
        type=str(value.get("type", "")),
        message=str(value.get("message", "")),
        traceback=str(value.get("traceback", "")),
        pickled=base64.b64decode(pickled) if pickled else None,
        details=dict(value.get("details") or {}),
    )


def stream_item(value: dict[str, Any]) -> StreamItem:
    """Return one line of a stream."""
    item = value.get("item")
    payload = None
    if item:
        data = item.get("data")
        payload = Payload(
            format=str(item.get("format", "pickle")),
            data=None if data is None else base64.b64decode(data),
            blob=item.get("blob"),
        )
    return StreamItem(str(value.get("kind", "")), payload, remote_error(value.get("error")))
