"""Bodies that the SDK and the gateway exchange in binary; everything else over HTTP is JSON.

A framed body is a sequence of [4 bytes big-endian length][msgpack message].
"""

from __future__ import annotations

from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import Input, Payload, RemoteError

# Headers of the Python door (`/api/v1/deployments/{id}/call|spawn`).
HEADER_INVOCATION = "Glowplug-Invocation-Id"
HEADER_FORMAT = "Glowplug-Format"
HEADER_STATE = "Glowplug-State"
HEADER_BLOB = "Glowplug-Blob"
HEADER_SIZE = "Glowplug-Size"
HEADER_STREAM = "Glowplug-Stream"
HEADER_RUN_MS = "Glowplug-Run-Ms"
# "1" on the first request that carries an invocation's id: there can be no outcome of it yet.
HEADER_FIRST = "Glowplug-First"
HEADER_TRACE = "traceparent"

FRAMES_TYPE = "application/x-glowplug-frames"
MSGPACK_TYPE = "application/msgpack"

BATCH_INPUTS_MAX = 256
BATCH_BYTES_MAX = 64 * 1024


class MapRequest(Message, frozen=True, kw_only=True):
    """One batch of a map: at most BATCH_INPUTS_MAX inputs or BATCH_BYTES_MAX bytes (one may be larger)."""

    invocation_id: InvocationId
    inputs: tuple[Input, ...]


class StreamItem(Message, frozen=True, kw_only=True):
    """One frame of a streamed call: `kind` is "item", "end" or "error"."""

    kind: str
    item: Payload | None = None
    error: RemoteError | None = None
