"""The words between worker and runner: frames on one socketpair per runner process.

A frame is a 4-byte big-endian header length, a 4-byte body length, a JSON header and a raw body. The
header's `type` names one of the structs below. Bytes larger than one frame travel as several frames of
the same type and ids, all but the last with `more`. Pure: bytes in, values out.

Whatever comes from a runner is hostile: lengths are checked before anything is kept, headers are
decoded into these types, and what does not fit is a `FrameError`, which ends the container.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.messages.deployment import FieldSpec
from glowplug_contracts.messages.invocation import RemoteError

HEADER_BYTES_MAX = 1024 * 1024
BODY_BYTES_MAX = 1024 * 1024
_PREFIX_BYTES = 8


class FrameError(Exception):
    """Bytes of a runner that are no frame it may send."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    pass


# -- worker → runner ----------------------------------------------------------------------------


class Init(_Header, tag="init", frozen=True, kw_only=True):
    """What this runner process is for. Blob frames follow: `pickled`, `on_start_pickled`, `on_exit_pickled`.

    These are sizes in bytes; 0 = no such blob follows. `source` and `layer`
    are directories as the container sees them, "" = none. `site`: the interpreter is an image's own, with
    packages of its own. `mode` is "function" or "session"; a template of
    no function is "bare".
    """

    mode: Literal["function", "session", "bare"]
    handler: str = ""
    source: str = ""
    layer: str = ""
    pickled: int = 0
    on_start: str = ""
    on_start_pickled: int = 0
    on_exit: str = ""
    on_exit_pickled: int = 0
    share_on_start: bool = False
    is_generator: bool = False
    outputs_schema: dict[str, FieldSpec] | None = None
    concurrency: int = 1
    env: dict[str, str] = {}
    name: str = ""
    container_id: str = ""
    deployment_id: str = ""
    timeout_s: float = 0.0
    site: bool = False


class Blob(_Header, tag="blob", frozen=True, kw_only=True):
    """A piece of one of the blobs that `Init` announced; `name` says which."""

    name: Literal["pickled", "on_start_pickled", "on_exit_pickled"]
    more: bool = False


class Run(_Header, tag="run", frozen=True, kw_only=True):
    """Run one input. The body holds the arguments in `format`. `timeout_s`: its own, if it has one.

    `passed`: results of others, which follow the arguments in the body: (format, bytes) of each. `pass_as`
    "value" gives the one before the own arguments, "list" a list of all, "error" a dictionary.

    Several inputs of one invocation may be sent ahead; a runner with concurrency 1 runs them in order.
    """

    id: str
    index: int
    format: str
    attempt: int
    method: str = ""
    stream: bool = False
    timeout_s: float = 0.0
    scheduled_for: float = 0.0
    passed: tuple[tuple[str, int], ...] = ()
    pass_as: str = ""
    more: bool = False


class Cancel(_Header, tag="cancel", frozen=True, kw_only=True):
    """Stop this invocation and forget its inputs that have not begun; each still gets a result."""

    id: str


class Credit(_Header, tag="credit", frozen=True, kw_only=True):
    """A stream may send items numbered below `until` (at first 64); the generator blocks there."""

    id: str
    index: int = 0
    until: int


class Exec(_Header, tag="exec", frozen=True, kw_only=True):
    """Run code (the body, in a named context) or a command in a session."""

    exec_id: str
    mode: Literal["code", "command"]
    context: str = "default"
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    timeout_s: float = 0.0
    more: bool = False


class KillExec(_Header, tag="kill_exec", frozen=True, kw_only=True):
    """End an exec; it still reports `ended`."""

    exec_id: str


class Answer(_Header, tag="answer", frozen=True, kw_only=True):
    """A piece of the answer to an ask; the first one has status and headers, the last no `more`.

    `failed` says that the rest will not come.
    """

    ask_id: int
    status: int = 0
    headers: dict[str, str] = {}
    more: bool = False
    failed: str = ""


class Stop(_Header, tag="stop", frozen=True, kw_only=True):
    """Finish what runs, say `bye` and exit; after `grace_s` the worker kills."""

    grace_s: float


# -- runner → worker ----------------------------------------------------------------------------


class Hello(_Header, tag="hello", frozen=True, kw_only=True):
    """The runner process lives. `pid` is its own view and never used by the worker."""

    pid: int
    python: str


class Ready(_Header, tag="ready", frozen=True, kw_only=True):
    """Code imported, on_start done; `phases` holds seconds by name (import_s, on_start_s)."""

    phases: dict[str, float] = {}


class StartFailed(_Header, tag="start_failed", frozen=True, kw_only=True):
    """Import or on_start raised."""

    error: RemoteError


class Result(_Header, tag="result", frozen=True, kw_only=True):
    """One input's end. The body holds the result in `format` (when it succeeded)."""

    id: str
    index: int
    state: Literal["succeeded", "failed"]
    format: str = "pickle"
    run_ms: float = 0.0
    items: int = 0
    error: RemoteError | None = None
    more: bool = False


class Item(_Header, tag="item", frozen=True, kw_only=True):
    """One item of a generator, numbered from 0."""

    id: str
    index: int
    number: int
    format: str = "pickle"
    more: bool = False


class Log(_Header, tag="log", frozen=True, kw_only=True):
    """Output of user code: one or more whole or partial lines. `id` = invocation or exec, or "".

    `dropped`: lines that the runner itself gave up before this frame, because nobody read.
    """

    stream: str
    id: str = ""
    index: int = 0
    at: float = 0.0
    dropped: int = 0


class Progress(_Header, tag="progress", frozen=True, kw_only=True):
    """How far an input is, in its own words: `fraction` 0 … 1."""

    id: str
    index: int = 0
    fraction: float
    message: str = ""


class ExecEvent(_Header, tag="exec_event", frozen=True, kw_only=True):
    """What an exec did: "stdout", "stderr", "result" (body), or "ended" (exit_code, error)."""

    exec_id: str
    kind: Literal["stdout", "stderr", "result", "ended"]
    exit_code: int | None = None
    error: RemoteError | None = None
    more: bool = False


class Ask(_Header, tag="ask", frozen=True, kw_only=True):
    """A request to a gateway, by the invocation `id` ("" = none): the worker decides whether it may go."""

    ask_id: int
    method: str
    path: str
    headers: dict[str, str] = {}
    id: str = ""
    more: bool = False


class AskCredit(_Header, tag="ask_credit", frozen=True, kw_only=True):
    """The answer's body may be sent up to `until` bytes."""

    ask_id: int
    until: int


class AskDrop(_Header, tag="ask_drop", frozen=True, kw_only=True):
    """Nobody waits for this answer any more."""

    ask_id: int


class Bye(_Header, tag="bye", frozen=True, kw_only=True):
    """The runner ends by itself, as asked."""


ToRunner = Init | Blob | Run | Cancel | Credit | Exec | KillExec | Answer | Stop
FromRunner = (
    Hello
    | Ready
    | StartFailed
    | Result
    | Item
    | Log
    | Progress
    | ExecEvent
    | Ask
    | AskCredit
    | AskDrop
    | Bye
)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[FromRunner] = msgspec.json.Decoder(FromRunner)


def encode_frame(header: ToRunner | FromRunner, body: bytes | memoryview = b"") -> bytes:
    """Return one frame; the body must fit."""
    head = _ENCODER.encode(header)
    assert len(head) <= HEADER_BYTES_MAX  # noqa: S101
    assert len(body) <= BODY_BYTES_MAX  # noqa: S101
    return b"".join((len(head).to_bytes(4), len(body).to_bytes(4), head, body))


def encode_frames(header: Blob | Run | Exec | Result | Item | Ask, body: bytes) -> Iterator[bytes]:
    """Yield the frames that carry a body of any size."""
    if len(body) <= BODY_BYTES_MAX:
        yield encode_frame(header, body)
        return
    view = memoryview(body)
    piece = msgspec.structs.replace(header, more=True)
    last = (len(body) - 1) // BODY_BYTES_MAX * BODY_BYTES_MAX
    for start in range(0, last, BODY_BYTES_MAX):
        yield encode_frame(piece, view[start : start + BODY_BYTES_MAX])
    yield encode_frame(header, view[last:])


class FrameReader:
    """Cuts a runner's byte stream into frames.

    Holds at most one unfinished frame (≤ 2 MiB and 8 bytes) beyond the piece just fed.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[FromRunner, bytes]]:
        """Yield the frames that are complete now. Raises: FrameError.

        A piece costs what it is long, however much of its frame is here already: a runner may send it byte
        by byte.
        """
        buffer = self._buffer
        buffer += piece
        at, size = 0, len(buffer)
        try:
            while size - at >= _PREFIX_BYTES:
                head_size = int.from_bytes(buffer[at : at + 4])
                body_size = int.from_bytes(buffer[at + 4 : at + 8])
                if head_size > HEADER_BYTES_MAX or body_size > BODY_BYTES_MAX:
                    at = size
                    raise FrameError(f"a frame of {head_size} + {body_size} bytes is too large")
                body_at = at + _PREFIX_BYTES + head_size
                end = body_at + body_size
                if end > size:
                    break
                head, body = bytes(buffer[at + _PREFIX_BYTES : body_at]), bytes(buffer[body_at:end])
                at = end
                yield _decode(head), body
        finally:
            del buffer[:at]


def _decode(head: bytes) -> FromRunner:
    try:
        return _DECODER.decode(head)
    except UNREADABLE as err:
        raise FrameError(f"a header is not one of a runner's: {err}") from err
