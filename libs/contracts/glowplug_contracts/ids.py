"""Ids: a short prefix that says the kind, and 26 characters of Crockford base 32.

Each kind has its own type, so that a worker id where a container id belongs does not type-check. The
26 characters are a ULID (48 bits of milliseconds, 80 bits of entropy) or 128 bits of a keyed hash;
nothing may parse them for time. Makers are pure: time and entropy are arguments.
Source: the ULID specification.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from glowplug_contracts.errors import InvalidRequestError

InvocationId = NewType("InvocationId", str)
DeploymentId = NewType("DeploymentId", str)
ContainerId = NewType("ContainerId", str)
WorkerId = NewType("WorkerId", str)
SandboxId = NewType("SandboxId", str)
EventId = NewType("EventId", str)
OutputId = NewType("OutputId", str)
ImageDigest = NewType("ImageDigest", str)
Digest = NewType("Digest", str)
WorkspaceId = NewType("WorkspaceId", str)

PREFIXES: dict[str, str] = {
    "invocation": "inv",
    "deployment": "dep",
    "container": "ctr",
    "worker": "wrk",
    "sandbox": "sbx",
    "build": "bld",
    "instance": "ins",
    "exec": "exe",
    "event": "evt",
    "output": "out",
    "pull": "pul",
}

DEFAULT_WORKSPACE = WorkspaceId("default")

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BODY = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}\Z")
_DIGEST = re.compile(r"^[0-9a-f]{64}\Z")
# What may become one token of a subject: no dots, wildcards, spaces or control characters.
_TOKEN = re.compile(r"^[A-Za-z0-9_-]{1,96}\Z")
_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z")

ENTROPY_BYTES = 10


def make_id(kind: str, now_ms: int, entropy: bytes) -> str:
    """Return a new id of a kind of `PREFIXES`.

    Args:
        kind: a key of `PREFIXES`.
        now_ms: Unix milliseconds, 0 … 2**48 − 1; only makes ids of one maker sort by age.
        entropy: exactly ten random bytes.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"an id takes {ENTROPY_BYTES} bytes of entropy, not {len(entropy)}")
    return _spell(kind, (now_ms << 80) | int.from_bytes(entropy))


def derive_id(kind: str, key: bytes) -> str:
    """Return the id that 16 bytes of a keyed hash stand for: the same key, the same id."""
    if len(key) != 16:  # noqa: PLR2004
        raise ValueError(f"a derived id takes 16 bytes, not {len(key)}")
    return _spell(kind, int.from_bytes(key))


def derived(workspace: WorkspaceId, kind: str, key: str) -> InvocationId:
    """Return the invocation id that `key` stands for: whoever makes the same work makes the same id.

    128 bits of BLAKE2b over `kind` and `key`, keyed by the workspace. There is no secret that every
    service holds yet, so the workspace's name is the hash's key: two workspaces never meet in an id,
    but somebody who knows a workspace's name and a key can compute it. An id is no permission; every
    door checks the workspace.

    Args:
        workspace: whose work it is.
        kind: what derives it, one word, so that one key of two makers gives two ids: "event",
            "schedule", "idempotency", "member" …
        key: names the work within the kind, and nothing else does: for an event "trigger/source/id",
            for a schedule "schedule/due time". Any text of any length.
    """
    hashed = hashlib.blake2b(digest_size=16, key=hashlib.blake2b(workspace.encode()).digest())
    hashed.update(kind.encode())
    hashed.update(b"\0")  # no kind holds it, so no kind and key read as another pair
    hashed.update(key.encode("utf-8", "surrogatepass"))
    if "\0" in kind:
        raise ValueError(f"{kind!r}: a kind is one word")
    return InvocationId(derive_id("invocation", hashed.digest()))


def check_id(kind: str, text: str) -> str:
    """Return `text` if it is an id of this kind.

    Raises: InvalidRequestError (request.bad_id) otherwise; ids come from outside.
    """
    prefix, _, body = text.partition("_")
    if prefix != PREFIXES[kind] or not _BODY.match(body):
        raise InvalidRequestError(
            "request.bad_id", f"{text[:64]!r} is no {kind} id ({PREFIXES[kind]}_ and 26 characters)"
        )
    return text


def check_digest(text: str) -> Digest:
    """Return `text` if it is the hexadecimal BLAKE3 name of some bytes (64 characters)."""
    if not _DIGEST.match(text):
        raise InvalidRequestError("request.bad_digest", f"{text[:80]!r} is no BLAKE3 digest")
    return Digest(text)


def check_name(text: str, what: str = "name") -> str:
    """Return `text` if it may name an app or a deployment: 1–63 letters, digits, '-' and '_'."""
    if not _NAME.match(text):
        raise InvalidRequestError(
            "request.bad_name",
            f"{what} {text[:80]!r}: use 1 to 63 letters, digits, '-' or '_', "
            "starting and ending with a letter or digit",
        )
    return text


def check_token(text: str) -> str:
    """Return `text` if it may stand as one token of a subject."""
    if not _TOKEN.match(text):
        raise InvalidRequestError("request.bad_token", f"{text[:80]!r} can't be part of a subject")
    return text


def _spell(kind: str, number: int) -> str:
    letters = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{PREFIXES[kind]}_{''.join(letters)}"
