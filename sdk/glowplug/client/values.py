"""Values that maps and queues hold, as bytes: plain ones as JSON, all others as pickles.

Plain values (None, bools, whole numbers, finite floats, text) are JSON so that other languages, and the
exact `add` of a map, can read them. Whoever reads a pickle runs what it says: a workspace trusts itself.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

from glowplug.client import wire
from glowplug.client.names import JSON, PICKLE
from glowplug.errors import InvalidInputError, RequestError

VALUE_BYTES_MAX = 1024 * 1024


def dump_value(value: Any) -> tuple[str, bytes]:
    """Return the format and the bytes. Raises: InvalidInputError for what is too large or no pickle."""
    if _is_plain(value):
        form, data = JSON, json.dumps(value).encode()
    else:
        form, data = PICKLE, _pickled(value)
    if len(data) > VALUE_BYTES_MAX:
        raise InvalidInputError(
            f"a value of {len(data)} bytes; at most {VALUE_BYTES_MAX} fit. Keep large data in a volume, or "
            "return it as a result, and put its name here",
            code="request.too_large",
        )
    return form, data


def load_value(form: str, data: bytes) -> Any:
    """Return the value."""
    if form == JSON:
        return json.loads(data)
    return wire.load(data)


def new_write_id() -> str:
    """Return a name for one write, by which a repeat is known."""
    return os.urandom(12).hex()


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return True
    if kind is float:
        return math.isfinite(value)
    return kind is str and value.isascii()


def _pickled(value: Any) -> bytes:
    try:
        return wire.dump(value)
    except RequestError:
        raise
    except Exception as err:
        raise InvalidInputError(
            f"a value of type {type(value).__name__} can't be pickled: {err}"
        ) from err
