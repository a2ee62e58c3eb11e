"""A PlatformError across a request's answer: to headers and body, and back to the same class."""

from __future__ import annotations

import msgspec
from glowplug_contracts import errors
from glowplug_contracts.errors import PlatformError

HEADER_ERROR = "Glowplug-Error"

_TYPES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, PlatformError)
}


class _Written(msgspec.Struct):
    type: str
    code: str
    message: str
    retry_after_s: float | None = None
    details: dict[str, object] = {}


def write_error(error: PlatformError) -> bytes:
    """Return the error as bytes that `read_error` understands."""
    written = _Written(
        type=type(error).__name__,
        code=error.code,
        message=error.message,
        retry_after_s=error.retry_after_s,
        details=error.details,
    )
    return msgspec.json.encode(written)


def read_error(data: bytes) -> PlatformError:
    """Return the error in `data`; a class this version does not know becomes its base."""
    written = msgspec.json.decode(data, type=_Written)
    return _TYPES.get(written.type, PlatformError)(
        written.code,
        written.message,
        retry_after_s=written.retry_after_s,
        details=written.details,
    )
