"""Reads how a registry wants to be asked: WWW-Authenticate challenges and token services' answers. Pure.

A header may hold several challenges, and a parameter's value may hold commas (scopes do), so it is read
by its grammar (RFC 9110, 11.6.1). What can't be read is left out: then the registry gets no credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from glowplug_contracts.errors import UnavailableError

HEADER_CHARS_MAX: Final = 8 * 1024
TOKEN_CHARS_MAX: Final = 32 * 1024
# What the protocol says where a token service does not.
EXPIRES_S: Final = 60.0
# A token service can't make us keep a token for ever.
EXPIRES_MAX_S: Final = 3600.0
# Tokens are renewed before they end: requests take time to arrive.
RENEWED_EARLY_S: Final = 10.0

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a word
_PIECE: Final = re.compile(
    rf"""[\s,]*(?:
      (?P<key>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"=]+)(?=[\s,]|\Z))
    | (?P<scheme>{_TOKEN})(?=[\s,]|\Z)
    | [A-Za-z0-9._~+/-]+=*(?=[\s,]|\Z)  # "token68", of schemes that we have no answer to
    )""",
    re.VERBOSE,
)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+\Z")


class Challenge(msgspec.Struct, frozen=True):
    """One way in that a registry offers."""

    scheme: str  # lower case
    parameters: dict[str, str] = {}


class Token(msgspec.Struct, frozen=True):
    """What a token service gave. `until` is on the clock that `read_token` was told."""

    value: str
    until: float

    def __repr__(self) -> str:
        return f"Token(until={self.until})"


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges that the headers hold, in order; stops at what it can't read."""
    found: list[Challenge] = []
    for header in headers:
        text = header[:HEADER_CHARS_MAX].rstrip(" \t,")
        at = 0
        while at < len(text) and (piece := _PIECE.match(text, at)):
            at = piece.end()
            if piece["scheme"]:
                found.append(Challenge(piece["scheme"].lower(), {}))
            elif found and piece["key"]:
                quoted = piece["quoted"]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else piece["plain"]
                found[-1].parameters.setdefault(piece["key"].lower(), value)
    return found


def choose_challenge(challenges: Sequence[Challenge]) -> Challenge | None:
    """Return the best that we can answer: Bearer with a realm, then Basic, or None."""
    for one in challenges:
        if one.scheme == "bearer" and one.parameters.get("realm"):
            return one
    return next((one for one in challenges if one.scheme == "basic"), None)


def read_token(data: bytes, now: float) -> Token:
    """Return the token in a token service's answer.

    Raises: UnavailableError (registry.unavailable) if there is none that can be sent.
    """
    try:
        answer = msgspec.json.decode(data, type=_Answer, strict=False)
    except msgspec.MsgspecError as err:
        raise UnavailableError(
            "registry.unavailable", f"the registry's token service sent no token: {err}"
        ) from err
    value = answer.token or answer.access_token
    if len(value) > TOKEN_CHARS_MAX or not _PRINTABLE.match(value):
        raise UnavailableError(
            "registry.unavailable", "the registry's token service sent no token that can be used"
        )
    lasts_s = EXPIRES_S if answer.expires_in is None else answer.expires_in
    # Not a number and negative ones are of no use: the token serves this once.
    lasts_s = min(lasts_s, EXPIRES_MAX_S) if lasts_s > RENEWED_EARLY_S else 0.0
    return Token(value, now + max(0.0, lasts_s - RENEWED_EARLY_S))
