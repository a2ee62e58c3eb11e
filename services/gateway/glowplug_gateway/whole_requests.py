"""Endpoints that take a whole request, as `lambda_handler(event, context)` does. Pure.

The event says method, path, headers, query and body, in our words and in those of AWS's proxy integration,
so that handlers written for either run unchanged. What such a function returns becomes the answer:
`statusCode`, `headers` and `body`; anything else is answered as JSON. Its words come from user code.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

import msgspec
from glowplug_contracts.codec import UNREADABLE

HEADERS_MAX: Final = 100
VALUE_CHARS_MAX: Final = 8 * 1024
STATUS_MIN, STATUS_MAX = 200, 599
_STATUS = re.compile(r"[0-9]{3}")
# Of one connection and not of the message, or ours to write.
NOT_PASSED: Final = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_VALUE = re.compile(r"[\x20-\x7e\t\x80-\uffff]*")


class WholeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What came over HTTP. `token_ours`: its Authorization header was for us, not for the function."""

    method: str
    path: str
    raw_query: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str
    token_ours: bool


class WholeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class BadAnswerError(Exception):
    """What the function returned is no answer; the text says why."""


def event_of(request: WholeRequest) -> dict[str, object]:
    """Return the event that the function is called with."""
    hidden = NOT_PASSED | ({"authorization"} if request.token_ours else set())
    headers = _joined(
        (name.lower(), value) for name, value in request.headers if name.lower() not in hidden
    )
    query = _joined(request.query)
    try:
        body, encoded = request.body.decode(), False
    except UnicodeError:
        body, encoded = base64.b64encode(request.body).decode(), True
    return {
        "method": request.method,
        "path": request.path,
        "headers": headers,
        "query": query,
        "body": body,
        "isBase64Encoded": encoded,
        # AWS's names for the same: version 1.0 and 2.0 of the proxy integration.
        "version": "2.0",
        "httpMethod": request.method,
        "rawPath": request.path,
        "rawQueryString": request.raw_query,
        "queryStringParameters": query or None,
        "requestContext": {
            "requestId": request.request_id,
            "http": {"method": request.method, "path": request.path},
        },
    }


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        clean = value.encode("utf-8", "replace").decode()
        found[name] = f"{found[name]},{clean}" if name in found else clean
    return found


def answer_of(result: bytes) -> WholeAnswer:
    """Return the answer that a function's result (JSON) stands for. Raises: BadAnswerError."""
    try:
        value = msgspec.json.decode(result or b"null")
    except UNREADABLE as error:
        raise BadAnswerError(f"the result is no JSON: {error}") from error
    if not isinstance(value, dict) or "statusCode" not in value:
        return WholeAnswer(
            status=200, headers=(("content-type", "application/json"),), body=result or b"null"
        )
    status = value["statusCode"]
    if isinstance(status, bool) or not isinstance(status, int | str):
        raise BadAnswerError(f"statusCode is {status!r}; give a number")
    text = str(status)
    if not _STATUS.fullmatch(text) or not STATUS_MIN <= int(text) <= STATUS_MAX:
        raise BadAnswerError(f"statusCode is {text[:32]!r}; give {STATUS_MIN} to {STATUS_MAX}")
    headers = [*_headers(value.get("headers")), *_many(value.get("multiValueHeaders"))]
    if len(headers) > HEADERS_MAX:
        raise BadAnswerError(f"there are {len(headers)} headers; an answer has {HEADERS_MAX}")
    body = _body(value.get("body"), encoded=value.get("isBase64Encoded") is True)
    if not any(name.lower() == "content-type" for name, _ in headers):
        plain = isinstance(value.get("body"), str)
        headers.append(("content-type", "text/plain" if plain else "application/json"))
    return WholeAnswer(status=int(text), headers=tuple(headers), body=body)


def _headers(given: object) -> list[tuple[str, str]]:
    if given is None:
        return []
    if not isinstance(given, dict):
        raise BadAnswerError("headers must be an object")
    return [pair for name, value in given.items() for pair in _checked(str(name), value)]


def _many(given: object) -> list[tuple[str, str]]:
    if given is None:
        return []
    if not isinstance(given, dict) or not all(isinstance(one, list) for one in given.values()):
        raise BadAnswerError("multiValueHeaders must be an object of lists")
    return [
        pair
        for name, values in given.items()
        for one in values
        for pair in _checked(str(name), one)
    ]


def _checked(name: str, value: object) -> list[tuple[str, str]]:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(text) or len(text) > VALUE_CHARS_MAX:
        raise BadAnswerError(f"the header {name[:64]!r} can't be sent")
    return [] if name.lower() in NOT_PASSED else [(name, text)]


def _body(given: object, *, encoded: bool) -> bytes:
    if given is None:
        return b""
    if not isinstance(given, str):
        return msgspec.json.encode(given)
    if not encoded:
        return given.encode("utf-8", "replace")
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadAnswerError(f"the body is no base64: {error}") from error
