"""Who a bearer token stands for: the pure part.

Tokens are never kept: the table holds SHA-256 digests, as the bucket does. A lookup goes by digest, so
its time tells nothing about a token's first characters, and the final comparison is constant-time.
"""

from __future__ import annotations

import hashlib
import hmac

from glowplug_contracts.errors import UnauthenticatedError
from glowplug_contracts.messages.deployment import Principal

TOKEN_CHARS_MAX = 512


def token_digest(token: str) -> str:
    """Return the name under which the bucket keeps a token's principal."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def bearer_token(header: str) -> str:
    """Return the token in an Authorization header.

    Raises: UnauthenticatedError (auth.no_token) if it holds none.
    """
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("auth.no_token", "send `Authorization: Bearer <token>`")
    if len(token) > TOKEN_CHARS_MAX:
        raise UnauthenticatedError("auth.bad_token", "the token is unknown or revoked")
    return token


class TokenTable:
    """The principals this gateway knows, by digest."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, Principal]] = {}

    def learn(self, digest: str, principal: Principal | None) -> None:
        """A token was made, changed, or (None) revoked."""
        if principal is None:
            self._known.pop(_slot(digest), None)
        else:
            self._known[_slot(digest)] = digest, principal

    def principal(self, header: str) -> Principal:
        """Return who the Authorization header stands for.

        Raises: UnauthenticatedError (auth.no_token, auth.bad_token).
        """
        digest = token_digest(bearer_token(header))
        kept, principal = self._known.get(_slot(digest), _NOBODY)
        if principal is None or not hmac.compare_digest(digest, kept):
            raise UnauthenticatedError("auth.bad_token", "the token is unknown or revoked")
        return principal


_NOBODY: tuple[str, None] = ("", None)


def _slot(digest: str) -> bytes:
    """Return where a digest is looked up: half of it, so that the other half is left to compare."""
    return digest[:32].encode()
