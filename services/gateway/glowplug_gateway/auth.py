"""Who a bearer token stands for: the pure part.

Tokens are never kept: the table holds SHA-256 digests, as the bucket does. A lookup goes by digest, so
its time tells nothing about a token's first characters, and the final comparison is constant-time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec
from glowplug_contracts.errors import UnauthenticatedError
from glowplug_contracts.ids import WorkspaceId, check_id, check_token
from glowplug_contracts.inside import (
    INSIDE_CONTAINER,
    INSIDE_DEPLOYMENT,
    INSIDE_PARENT,
    INSIDE_WORKSPACE,
)
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


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """A container that asks through its worker; the worker vouches for every word.

    Attributes:
        parent: the invocation whose code asked, "" where none did.
    """

    workspace: WorkspaceId
    container_id: str
    deployment_id: str
    parent: str = ""


def shows_internal(header: str, internal_token: str) -> bool:
    """Return whether an Authorization header holds the services' own token ("" is nobody's)."""
    expected = f"Bearer {internal_token}".encode()
    return bool(internal_token) and hmac.compare_digest(
        header.encode("utf-8", "surrogateescape"), expected
    )


def inside_of(headers: Mapping[str, str]) -> Inside:
    """Return who asks, from headers beside the internal token.

    Raises: UnauthenticatedError if they name no container; InvalidRequestError for what no id is.
    """
    workspace = headers.get(INSIDE_WORKSPACE, "")
    if not workspace:
        raise UnauthenticatedError("auth.bad_token", "the internal token asks for a container only")
    parent = headers.get(INSIDE_PARENT, "")
    return Inside(
        workspace=WorkspaceId(check_token(workspace)),
        container_id=check_token(headers.get(INSIDE_CONTAINER, "")),
        deployment_id=check_token(headers.get(INSIDE_DEPLOYMENT, "")),
        parent=check_id("invocation", parent) if parent else "",
    )


_NOBODY: tuple[str, None] = ("", None)


def _slot(digest: str) -> bytes:
    """Return where a digest is looked up: half of it, so that the other half is left to compare."""
    return digest[:32].encode()
