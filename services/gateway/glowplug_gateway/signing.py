"""Each workspace's secret for signing callbacks, and the signature itself.

The signature is HMAC-SHA256 over "timestamp.body", so that neither can be changed and an old request can't
be sent again for ever. `glowplug.verify_callback` is its other side.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.http import SigningSecret
from glowplug_contracts.streams import SIGNING
from glowplug_runtime.bus import Bus

SECRET_BYTES = 32


class SigningSecrets:
    """See the module."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = bus.bucket(SIGNING)
        self._known: dict[WorkspaceId, str] = {}

    async def of(self, workspace: WorkspaceId) -> str:
        """Return a workspace's secret, made at the first use. Raises: UnavailableError."""
        known = self._known.get(workspace)
        if known is not None:
            return known
        found = await self._bucket.get(workspace)
        if found is None or found.value is None:
            made = SigningSecret(secret=os.urandom(SECRET_BYTES).hex())
            try:
                await self._bucket.create(workspace, made)
            except ConflictError:
                return await self.of(workspace)  # another gateway was first
            self._known[workspace] = made.secret
            return made.secret
        self._known[workspace] = found.value.secret
        return found.value.secret


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return the value of the signature's header."""
    signed = b"%d.%b" % (timestamp, body)
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
