"""Public addresses of outputs: what is signed, what is checked, and how hostile bytes are answered. Pure.

An address names the output, its file name and the second after which it is worth nothing; all three are under
the signature (HMAC-SHA256), and the platform's key for it never leaves the gateways. What user code has saved
is shown from the gateway's own origin, so that nothing of it may run there: no script, no frame, no guess of
a type, and only pictures, sound, video and plain text are shown at all; everything else is a download.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from glowplug_contracts.errors import ForbiddenError, InvalidRequestError
from glowplug_contracts.messages.output import OUTPUT_NAME_BYTES_MAX, OutputPart

BYTES_TYPE: Final = "application/octet-stream"
# Nothing in these can run; SVG and PDF can.
SHOWN_TYPES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".txt": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
}
_POLICY: Final = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
)
_EXPIRES: Final = re.compile(r"[0-9]{1,12}\Z")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class Span(NamedTuple):
    """Bytes `first` up to and without `end` of an output."""

    first: int
    end: int


class UnsatisfiableError(InvalidRequestError):
    """A range that lies behind the end."""

    http_status = 416


def check_output_name(name: str) -> str:
    """Return a name that a file may have. Raises: InvalidRequestError."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    fine = 0 < size <= OUTPUT_NAME_BYTES_MAX and name.isprintable() and name not in {".", ".."}
    if not fine or "/" in name or "\\" in name:
        raise InvalidRequestError(
            "request.invalid",
            f"{name[:80]!r} can't name an output: use 1 to {OUTPUT_NAME_BYTES_MAX} printable bytes in UTF-8, "
            "without a slash",
        )
    return name


def signed_path(key: bytes, output_id: str, name: str, expires: int) -> str:
    """Return the public path of an output, with its query."""
    query = urlencode({"expires": expires, "sig": _signature(key, output_id, name, expires)})
    return f"/output/{output_id}/{quote(name, safe='')}?{query}"


def check_link(
    key: bytes, output_id: str, name: str, query: tuple[str, str], now_unix: float
) -> None:
    """Raise ForbiddenError unless a public address is one that was given out, and still good.

    Args:
        key: the platform's.
        output_id, name: as the path has them.
        query: `expires` and `sig`, as they came.
        now_unix: the time.
    """
    expires, shown = query
    good = _EXPIRES.match(expires) is not None and hmac.compare_digest(
        shown.encode("utf-8", "surrogateescape"),
        _signature(key, output_id, name, int(expires)).encode(),
    )
    if not good:
        raise ForbiddenError("output.bad_link", "this address is not one that was given out")
    if now_unix >= int(expires):
        raise ForbiddenError("output.link_expired", "this address is not good any more")


def _signature(key: bytes, output_id: str, name: str, expires: int) -> str:
    signed = "\n".join(("glowplug output v1", output_id, str(expires), name))
    return hmac.new(key, signed.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def headers_of(name: str) -> dict[str, str]:
    """Return the headers under which a file that user code made is sent."""
    _, dot, suffix = name.rpartition(".")
    shown = SHOWN_TYPES.get(dot + suffix.lower())
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return {
        "Content-Type": shown or BYTES_TYPE,
        "Content-Disposition": (
            f"{'inline' if shown else 'attachment'}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
        ),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": _POLICY,
        "X-Frame-Options": "DENY",
        # Other sites may show a picture; none learns the address, which is its own key.
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Referrer-Policy": "no-referrer",
        "Accept-Ranges": "bytes",
    }


def range_of(header: str, size: int) -> Span | None:
    """Return which bytes a Range header asks for; None: all of them, as for what is no single range.

    Raises: UnsatisfiableError (416).
    """
    found = _RANGE.match(header.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if not first:
        span = Span(max(0, size - int(last)), size)
    else:
        span = Span(int(first), min(size, int(last) + 1) if last else size)
        if last and int(last) < int(first):
            return None
    if span.first >= span.end:
        raise UnsatisfiableError(
            "request.invalid", f"there are {size} bytes, none of those asked for"
        )
    return span


def pieces_of(parts: tuple[OutputPart, ...], span: Span) -> list[tuple[OutputPart, Span]]:
    """Return the parts that hold these bytes, and which bytes of each."""
    found: list[tuple[OutputPart, Span]] = []
    at = 0
    for part in parts:
        inner = Span(max(0, span.first - at), min(part.size, span.end - at))
        if inner.first < inner.end:
            found.append((part, inner))
        at += part.size
    return found
