"""Bodies that the SDK and the gateway exchange in binary; everything else over HTTP is JSON.

A framed body is a sequence of [4 bytes big-endian length][msgpack message].
"""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId, Digest, InvocationId
from glowplug_contracts.messages import Message
from glowplug_contracts.messages.invocation import Format, Input, Payload, RemoteError

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
# PutOptions as a JSON object, at every door that accepts durable work.
HEADER_OPTIONS = "Glowplug-Options"
# The caller's idempotency key alone, as HTTP clients know it.
HEADER_IDEMPOTENCY = "Idempotency-Key"

# On callbacks: the task's id, the same at every try; and what the signature is over.
HEADER_CALLBACK_ID = "Glowplug-Callback-Id"
HEADER_CALLBACK_ATTEMPT = "Glowplug-Callback-Attempt"
HEADER_CALLBACK_TIMESTAMP = "Glowplug-Timestamp"
HEADER_CALLBACK_SIGNATURE = "Glowplug-Signature"

FRAMES_TYPE = "application/x-glowplug-frames"
MSGPACK_TYPE = "application/msgpack"

BATCH_INPUTS_MAX = 256
BATCH_BYTES_MAX = 64 * 1024


class MapRequest(Message, frozen=True, kw_only=True):
    """One batch of a map: at most BATCH_INPUTS_MAX inputs or BATCH_BYTES_MAX bytes (one may be larger)."""

    invocation_id: InvocationId
    inputs: tuple[Input, ...]


class PutOptions(Message, frozen=True, kw_only=True):
    """What a caller may say about one piece of durable work; what is None is the function's to say.

    Attributes:
        delay_s, eta: not before so many seconds from now, or not before this Unix time.
        ttl_s: EXPIRED if not started so long after acceptance (after `eta`, where that is later).
        idempotency_key: the same key of the same function within `idempotency_window_s` means the same
            task; `fingerprint` says what was asked for, so that other work under the key is refused
            ("" = the arguments' own bytes say it).
        concurrency_key, concurrency_limit: so many of one key and function run at once.
        fifo_key: of one key and function one at a time, strictly in the order of acceptance.
        parent: the invocation whose code asks.
    """

    priority: int | None = None
    delay_s: float | None = None
    eta: float | None = None
    ttl_s: float | None = None
    timeout_s: float | None = None
    idempotency_key: str = ""
    idempotency_window_s: float = 86_400.0
    fingerprint: str = ""
    concurrency_key: str = ""
    concurrency_limit: int = 1
    fifo_key: str = ""
    tags: dict[str, str] = {}
    callback_url: str | None = None
    keep_result_s: float | None = None
    parent: str = ""


PUTS_MAX = 1_000


class PutItem(Message, frozen=True, kw_only=True):
    """One piece of durable work among many; `args` hold data, or name a blob."""

    invocation_id: InvocationId
    args: Payload
    options: PutOptions = PutOptions()


class PutManyRequest(Message, frozen=True, kw_only=True):
    """Much durable work for one deployment, at most PUTS_MAX pieces, written together."""

    puts: tuple[PutItem, ...]


class ComposedTask(Message, frozen=True, kw_only=True):
    """One task of a composition: its arguments (inline as base64, or a blob), and what it waits for.

    Attributes:
        after: earlier tasks of the same composition whose ends it waits for.
        after_if, pass_as: as in InvocationRecord.
    """

    task_id: InvocationId
    deployment_id: DeploymentId
    format: Format = Format.PICKLE
    args: bytes = b""
    blob: Digest | None = None
    size: int = 0
    options: PutOptions = PutOptions()
    after: tuple[InvocationId, ...] = ()
    after_if: str = "succeeded"
    pass_as: str = ""


class ComposeRequest(Message, frozen=True, kw_only=True):
    """Tasks that are accepted together, each before those that wait for it."""

    tasks: tuple[ComposedTask, ...]


class StreamItem(Message, frozen=True, kw_only=True):
    """One frame of a streamed call: `kind` is "item", "end" or "error"."""

    kind: str
    item: Payload | None = None
    error: RemoteError | None = None


class SigningSecret(Message, frozen=True, kw_only=True):
    """With what a workspace's callbacks are signed.

    Attributes:
        secret: in the clear, where the platform has no master key; else "".
        sealed, nonce: under the workspace's key, as its secrets are.
    """

    secret: str
    sealed: bytes = b""
    nonce: bytes = b""
