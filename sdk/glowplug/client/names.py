"""Names and small numbers of the wire that the SDK shares with the gateway, from the standard library only.

The contracts own them (a test compares), but the contracts do not exist inside a container, where the same
client code runs over the runner's door.
"""

from __future__ import annotations

import os
import time

from glowplug.remote import is_remote

HEADER_INVOCATION = "Glowplug-Invocation-Id"
HEADER_FIRST = "Glowplug-First"
HEADER_FORMAT = "Glowplug-Format"
HEADER_STATE = "Glowplug-State"
HEADER_BLOB = "Glowplug-Blob"
HEADER_SIZE = "Glowplug-Size"
HEADER_STREAM = "Glowplug-Stream"
HEADER_RUN_MS = "Glowplug-Run-Ms"
HEADER_OPTIONS = "Glowplug-Options"
HEADER_TRACE = "traceparent"

PICKLE = "pickle"
JSON = "json"
SUCCEEDED = "succeeded"
INLINE_BYTES_MAX = 256 * 1024

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_invocation_id() -> str:
    """Return a fresh invocation id."""
    number = ((time.time_ns() // 1_000_000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "inv_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def new_trace() -> str:
    """Return a W3C traceparent that begins a trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def state_named(text: str) -> str:
    """Return a state: the contracts' own value, or its bare name where there are no contracts."""
    if is_remote():
        return text
    from glowplug_contracts.messages.invocation import State  # noqa: PLC0415 - not in containers

    return State(text)
