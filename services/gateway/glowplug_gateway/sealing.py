"""Seal and open secrets: AES-256-GCM, in an envelope. Pure: keys, nonces and bytes are arguments.

The master key wraps one key per workspace; that key seals the workspace's secrets. What a seal belongs to
(workspace, name, version) is bound into it, so that no record can be passed off as another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

from glowplug_contracts.errors import InvariantError, RejectedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_DISTINCT_BYTES_MIN: Final = 8
# What documents and other people's default configurations show; nobody may run on these.
_KNOWN: Final = frozenset(
    hashlib.sha256(text.encode()).digest()
    for text in ("changeme", "secret", "password", "glowplug", "master", "default", "test")
)


class WeakKeyError(ValueError):
    """The master key is missing, too short, or one that everybody knows."""


def read_master_key(text: str) -> bytes:
    """Return the key in a key file: 32 random bytes as hexadecimal or base64.

    Raises: WeakKeyError with a sentence; it never shows the key.
    """
    text = text.strip()
    if not text:
        raise WeakKeyError("the master key's file is empty")
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else _base64(text)
    except ValueError as err:
        raise WeakKeyError("the master key is neither hexadecimal nor base64") from err
    if len(key) != KEY_BYTES:
        raise WeakKeyError(f"the master key has {len(key)} bytes; it must have {KEY_BYTES}")
    if len(set(key)) < _DISTINCT_BYTES_MIN or key == bytes(range(KEY_BYTES)) or key in _KNOWN:
        raise WeakKeyError("the master key is one that anybody could guess; make a random one")
    return key


def key_name(key: bytes) -> str:
    """Return what a key is called; says nothing about it."""
    return hashlib.sha256(b"glowplug master key\0" + key).hexdigest()[:16]


def wrap(master: bytes, workspace: str, key: bytes, nonce: bytes) -> bytes:
    """Return a workspace's key under the master key."""
    return bytes(_gcm(master).encrypt(nonce, key, f"workspace-key\0{workspace}".encode()))


def unwrap(master: bytes, workspace: str, wrapped: bytes, nonce: bytes) -> bytes:
    """Return a workspace's key. Raises: RejectedError if another master key wrapped it."""
    return _open(
        master,
        nonce,
        wrapped,
        f"workspace-key\0{workspace}".encode(),
        "the secrets of this workspace were sealed under another master key: start the gateways with the "
        "key file that they had",
    )


def seal(key: bytes, where: tuple[str, str, int], plain: bytes, nonce: bytes) -> bytes:
    """Return a secret's bytes under its workspace's key; `where` is (workspace, name, version)."""
    return bytes(_gcm(key).encrypt(nonce, plain, _bound(where)))


def unseal(key: bytes, where: tuple[str, str, int], sealed: bytes, nonce: bytes) -> bytes:
    """Return a secret's bytes. Raises: RejectedError if this is no such secret's seal."""
    return _open(
        key, nonce, sealed, _bound(where), f"secret {where[1]} was changed by somebody else"
    )


def _bound(where: tuple[str, str, int]) -> bytes:
    return f"secret\0{where[0]}\0{where[1]}\0{where[2]}".encode()


def _open(key: bytes, nonce: bytes, sealed: bytes, bound: bytes, why: str) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as in _gcm

    try:
        return bytes(_gcm(key).decrypt(nonce, sealed, bound))
    except InvalidTag as err:
        raise RejectedError("secret.unreadable", why) from err


def _gcm(key: bytes) -> Any:
    # Imported where a secret is touched: 30 ms that most gateways never need at their start.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    if len(key) != KEY_BYTES:
        raise InvariantError("platform.bug", f"a key of {len(key)} bytes")
    return AESGCM(key)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(
            text, altchars=b"-_" if set(text) & {"-", "_"} else None, validate=True
        )
    except binascii.Error as err:
        raise ValueError(str(err)) from err
