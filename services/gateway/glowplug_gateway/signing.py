"""Each workspace's secret for signing callbacks, and the signature itself.

The signature is HMAC-SHA256 over "timestamp.body", so that neither can be changed and an old request can't
be sent again for ever. `glowplug.verify_callback` is its other side. Like users' secrets, it lies sealed under
the workspace's key wherever the platform has a master key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os

from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.http import SigningSecret
from glowplug_contracts.streams import SIGNING
from glowplug_runtime.bus import Bus

from glowplug_gateway.secrets import Secrets

SECRET_BYTES = 32
NAME = "callbacks"


class SigningSecrets:
    """See the module."""

    def __init__(self, bus: Bus, vault: Secrets) -> None:
        self._bucket = bus.bucket(SIGNING)
        self._vault = vault
        self._known: dict[WorkspaceId, str] = {}

    async def of(self, workspace: WorkspaceId) -> str:
        """Return a workspace's secret, made at the first use.

        Raises: UnavailableError; RejectedError (sealed under another master key); InvalidRequestError
            (sealed, and this gateway was started without the master key).
        """
        known = self._known.get(workspace)
        if known is None:
            known = self._known[workspace] = await self._kept(workspace)
        return known

    async def _kept(self, workspace: WorkspaceId) -> str:
        found = await self._bucket.get(workspace)
        if found is None or found.value is None:
            secret = os.urandom(SECRET_BYTES).hex()
            try:
                await self._bucket.create(workspace, await self._closed(workspace, secret))
            except ConflictError:
                return await self._kept(workspace)  # another gateway was first
            return secret
        held = found.value
        if held.sealed:
            plain = await self._vault.open_own(workspace, NAME, held.nonce, held.sealed)
            return plain.decode()
        if self._vault.keeps:  # made before there was a master key
            with contextlib.suppress(ConflictError):
                closed = await self._closed(workspace, held.secret)
                await self._bucket.update(workspace, closed, found.revision)
        return held.secret

    async def _closed(self, workspace: WorkspaceId, secret: str) -> SigningSecret:
        if not self._vault.keeps:
            return SigningSecret(secret=secret)
        nonce, sealed = await self._vault.seal_own(workspace, NAME, secret.encode())
        return SigningSecret(secret="", nonce=nonce, sealed=sealed)


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return the value of the signature's header."""
    signed = b"%d.%b" % (timestamp, body)
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
