"""Read a call's id and arguments from a request, within the bounds."""

from __future__ import annotations

import re

import msgspec
from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import InvocationId, check_digest, check_id
from glowplug_contracts.messages.http import (
    HEADER_BLOB,
    HEADER_FIRST,
    HEADER_FORMAT,
    HEADER_IDEMPOTENCY,
    HEADER_INVOCATION,
    HEADER_OPTIONS,
    HEADER_SIZE,
    PutOptions,
)
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX, Format, Payload

from glowplug_gateway.blobs import OwnBlobs
from glowplug_gateway.http.door import too_large
from glowplug_gateway.ports import Time
from glowplug_gateway.put_options import read_options

DEADLINE_MAX_S = 7 * 86_400.0
HEADER_DEADLINE = "Glowplug-Deadline-S"
_SIZE = re.compile(r"[0-9]{1,18}")


def is_first(request: web.BaseRequest) -> bool:
    """Return whether the call's id was surely never sent before: it is new here, or its maker says so."""
    headers = request.headers
    return HEADER_INVOCATION not in headers or headers.get(HEADER_FIRST) == "1"


def invocation_id(request: web.BaseRequest, clock: Time) -> InvocationId:
    """Return the id that the caller made, or a new one. Raises: InvalidRequestError."""
    given = request.headers.get(HEADER_INVOCATION)
    return InvocationId(check_id("invocation", given) if given else clock.id("invocation"))


def deadline_s(request: web.BaseRequest) -> float:
    """Return how long the caller waits, 0 for ever. Raises: InvalidRequestError."""
    text = request.headers.get(HEADER_DEADLINE)
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= DEADLINE_MAX_S:
        raise _bad_header(HEADER_DEADLINE, f"a number of seconds from 0 to {DEADLINE_MAX_S:g}")
    return seconds


def put_options(request: web.BaseRequest, parent: str) -> PutOptions:
    """Return what the caller says about its durable work. Raises: InvalidRequestError.

    `parent`: the invocation whose code asks, where the platform knows it.
    """
    headers = request.headers
    options = read_options(headers.get(HEADER_OPTIONS), headers.get(HEADER_IDEMPOTENCY))
    return msgspec.structs.replace(options, parent=parent) if parent else options


async def body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """Return the body. Raises: InvalidRequestError (request.too_large, as 413)."""
    length = request.content_length
    if length is not None and length > bytes_max:
        raise too_large(
            f"the body has {length} bytes and may have {bytes_max}: upload large data as a blob"
        )
    return await request.read()


async def arguments(request: web.BaseRequest, blobs: OwnBlobs, bytes_max: int) -> Payload:
    """Return the arguments: the body, or the blob that the headers name.

    Raises: InvalidRequestError; UnavailableError (the body must become a blob and can't).
    """
    form = _format(request)
    blob = request.headers.get(HEADER_BLOB)
    if blob is None:
        data = await body(request, bytes_max)
        if len(data) > INLINE_BYTES_MAX:
            return await blobs.payload(data, form)
        return Payload(format=form, data=data, size=len(data))
    size = request.headers.get(HEADER_SIZE, "")
    if not _SIZE.fullmatch(size):
        raise _bad_header(HEADER_SIZE, "the blob's number of bytes")
    return Payload(format=form, blob=check_digest(blob), size=int(size))


def _format(request: web.BaseRequest) -> Format:
    text = request.headers.get(HEADER_FORMAT, Format.PICKLE.value)
    form = _FORMATS.get(text)
    if form is None:
        raise _bad_header(HEADER_FORMAT, " or ".join(_FORMATS))
    return form


_FORMATS = {one.value: one for one in Format}


def _bad_header(name: str, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(
        "request.invalid", f"the header {name} must be {wanted}", details={"fields": {name: wanted}}
    )
