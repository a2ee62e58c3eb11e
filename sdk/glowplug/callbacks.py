"""The receiver's side of callbacks: whether a request really came from the platform, and just now."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from glowplug.errors import GlowplugError

TOLERANCE_S = 300.0
HEADER_TIMESTAMP = "glowplug-timestamp"
HEADER_SIGNATURE = "glowplug-signature"


class BadSignatureError(GlowplugError):
    """A request that claims to be a callback, and is none; or is too old."""


def verify_callback(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_seconds: float = TOLERANCE_S,
    now: float | None = None,
) -> dict[str, Any]:
    """Return what a callback says, if it is genuine.

    Args:
        secret: what `glowplug callback secret` prints.
        headers: the request's, whatever their case.
        body: the request's, exactly as it came.
        tolerance_seconds: how old it may be, or how far ahead its clock.
        now: Unix time, for tests.

    A callback may come more than once, always with the same `Glowplug-Callback-Id` and `task_id`.

    Raises: BadSignatureError.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = given.get(HEADER_TIMESTAMP, ""), given.get(HEADER_SIGNATURE, "")
    if not (timestamp.isascii() and timestamp.isdigit()) or not signature:
        raise BadSignatureError("the request is not signed: headers are missing")
    signed = timestamp.encode() + b"." + body
    expected = "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise BadSignatureError("the signature does not fit the secret, the time and the body")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance_seconds:
        raise BadSignatureError(f"the request is not from the last {tolerance_seconds:g} s")
    found: dict[str, Any] = json.loads(body)
    return found
