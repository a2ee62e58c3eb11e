"""The frames between a worker and a runner: this file is the protocol, for both sides.

A frame is a 4-byte big-endian header length, a 4-byte big-endian body length, the header (a JSON object
with a "type") and the body (raw bytes). A header or body has at most 1 MiB; a larger payload travels as
several frames of the same type and ids with `"more": true` on all but the last.

worker → runner
    init        mode "function" | "session", source, layer (directories as the container sees them, "" =
                none), env {}, name, container_id, deployment_id, timeout_s; for functions also: handler
                "module:qualname" or "", on_start and on_exit likewise, pickled,
                on_start_pickled, on_exit_pickled (bytes that follow in `blob` frames, 0 = none),
                is_generator, concurrency, outputs_schema (field → spec, or
                null), share_on_start (a template runs on_start, too)
    blob        name "pickled" | "on_start_pickled" | "on_exit_pickled", more; body
    run         id, index, format "pickle" | "json", attempt, method, stream, more; body = arguments.
                At most `concurrency` run at once; further ones wait in order
    cancel      id: every input of it, waiting or running
    credit      id, index (default 0), until: items numbered below `until` may be sent (at first 64)
    exec        exec_id, mode "code" | "command", context, argv, env, cwd, timeout_s, more; body = code
    kill_exec   exec_id
    answer      ask_id, status, headers {} (both in the first frame of an answer only), more; body = the
                next piece of the answer. "failed" (a sentence) instead of the rest that will not come
    stop        grace_s: finish what runs, at most so long, then `bye` and exit 0
runner → worker
    hello       pid, python "3.11.7": first frame, before anything of the user's is loaded
    ready       phases {import_s, on_start_s}
    start_failed  error; the process then ends with exit code 1
    result      id, index, state "succeeded" | "failed", format, run_ms, items (of a generator), error,
                more; body = result. Cancelled: state "failed", error code "invocation.cancelled"
    item        id, index, number from 0, format, more; body
    log         stream "stdout" | "stderr", id (of the invocation, "" = none), index, at (Unix s),
                dropped (lines lost before this frame, absent = 0); body = whole or partial lines.
                All of an invocation's output precedes its `result`
    progress    id, index, fraction, message
    exec_event  exec_id, kind "stdout" | "stderr" | "result" | "ended", exit_code, error; body
    ask         ask_id (from 1, never used again), method, path (with its query), headers {}, id (of the
                invocation whose code asks, "" = none), more; body = at most ASK_BYTES_MAX
    ask_credit  ask_id, until: bytes of the answer's body that may be sent (at first ANSWER_CREDIT)
    ask_drop    ask_id: nobody waits for the answer any more
    bye         last frame of an orderly end
An `error` is a RemoteError as JSON: code, type, message, traceback, pickled (base64 or null), details
(`mro`: names of the exception's classes, most derived first).
"""

from __future__ import annotations

from glowplug.runner import short_json

HEADER_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 1 << 20
PREFIX_BYTES = 8
CREDIT_AT_FIRST = 64
ASK_BYTES_MAX = 16 * 1024 * 1024
ANSWER_CREDIT = 512 * 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # A JSON object; what is in it depends on its "type".
    Header = dict[str, Any]


class FrameError(Exception):
    """The peer does not speak this protocol; nothing after it can be trusted."""


def encode_prefix_and_header(header: Header, body_bytes: int) -> bytes:
    """Return everything of a frame but its body."""
    text = short_json.dumps(header).encode()
    if len(text) > HEADER_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise FrameError(f"frame too large: header {len(text)} bytes, body {body_bytes} bytes")
    return len(text).to_bytes(4, "big") + body_bytes.to_bytes(4, "big") + text


def encode(header: Header, body: bytes = b"") -> bytes:
    """Return one whole frame."""
    return encode_prefix_and_header(header, len(body)) + body


def encode_large(header: Header, body: bytes) -> list[bytes]:
    """Return a payload of any size as frames, all but the last marked `more`."""
    view = memoryview(body)
    frames = []
    at = 0
    while len(view) - at > BODY_BYTES_MAX:
        piece = view[at : at + BODY_BYTES_MAX]
        frames.append(encode_prefix_and_header({**header, "more": True}, len(piece)) + piece)
        at += BODY_BYTES_MAX
    frames.append(encode_prefix_and_header(header, len(view) - at) + view[at:])
    return frames


class FrameParser:
    """Turns a byte stream into frames. Holds at most one unfinished frame (≤ 2 MiB and 8 bytes)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Return the frames that `data` completes.

        Raises: FrameError when lengths exceed the bounds or a header is no JSON object with a type.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= PREFIX_BYTES:
            header_bytes = int.from_bytes(buffer[start : start + 4], "big")
            body_bytes = int.from_bytes(buffer[start + 4 : start + 8], "big")
            if header_bytes > HEADER_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
                raise FrameError(f"frame of {header_bytes} + {body_bytes} bytes is over the bound")
            body_at = start + PREFIX_BYTES + header_bytes
            end = body_at + body_bytes
            if len(buffer) < end:
                break
            header = _decode_header(bytes(buffer[start + PREFIX_BYTES : body_at]))
            frames.append((header, bytes(buffer[body_at:end])))
            start = end
        del buffer[:start]
        return frames


def _decode_header(text: bytes) -> Header:
    try:
        header = short_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError("frame header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise FrameError("frame header is not an object with a type")
    return header
