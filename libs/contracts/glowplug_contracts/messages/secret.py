"""Secrets as they are kept: sealed under a key of the workspace, which is wrapped by the master key.

No message, record or log holds a value; the sealed bytes are useless without the master key.
"""

from __future__ import annotations

from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages import Message


class WorkspaceKey(Message, frozen=True, kw_only=True):
    """A workspace's own key, wrapped. Attributes: master: names the master key that wrapped it."""

    workspace: WorkspaceId
    master: str
    nonce: bytes
    wrapped: bytes
    created_at: float = 0.0


class SecretRecord(Message, frozen=True, kw_only=True):
    """One secret: environment variables by name, as sealed JSON.

    Attributes:
        version: counts up with every change; bound into the seal, as workspace and name are.
        keys: names of the variables; they are shown.
    """

    name: str
    workspace: WorkspaceId
    version: int
    keys: tuple[str, ...]
    nonce: bytes
    sealed: bytes
    created_at: float = 0.0
    updated_at: float = 0.0
