"""Secrets of workspaces: kept sealed, shown without values, opened only for containers that start.

Whoever may deploy in a workspace may name its secrets; nobody can read one back over HTTP. Values are in this
process's memory while they are sealed or handed to a worker, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.errors import ConflictError, InvalidRequestError, NotFoundError
from glowplug_contracts.ids import WorkspaceId, check_name
from glowplug_contracts.messages.deployment import SecretRef
from glowplug_contracts.messages.secret import SecretRecord, WorkspaceKey
from glowplug_contracts.streams import SECRETS, WORKSPACE_KEYS
from glowplug_runtime.bus import Entry
from glowplug_runtime.failures import StartError

from glowplug_gateway.inputs import invalid
from glowplug_gateway.ports import Platform
from glowplug_gateway.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    WeakKeyError,
    key_name,
    read_master_key,
    seal,
    unseal,
    unwrap,
    wrap,
)

KEYS_MAX: Final = 100
VALUES_BYTES_MAX: Final = 64 * 1024
SECRETS_MAX: Final = 50
TRIES_MAX: Final = 20
STAMP_BYTES: Final = 16
# What a secret holds that a registry is shown.
LOGIN_KEYS: Final = ("REGISTRY_USERNAME", "REGISTRY_PASSWORD")
OWN: Final = "platform/"  # no name of a user's secret has a slash
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


def read_key_file(path: str) -> bytes | None:
    """Return the master key, or None where none is set.

    Raises: StartError for a file that is missing, open to others, or holds no good key.
    """
    if not path:
        return None
    file = Path(path)
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise StartError(f"the master key {path} can't be read: {err}") from err
    if mode & 0o077:
        raise StartError(f"the master key {path} is open to others (mode {mode:o}): chmod 600 it")
    try:
        return read_master_key(text)
    except WeakKeyError as err:
        raise StartError(f"{path}: {err}; `openssl rand -hex 32` makes one") from err


class Secrets:
    """See the module."""

    def __init__(self, platform: Platform, master: bytes | None) -> None:
        self._records = platform.bus.bucket(SECRETS)
        self._keys = platform.bus.bucket(WORKSPACE_KEYS)
        self._clock = platform.clock
        self._master = master

    async def create(
        self, workspace: WorkspaceId, name: str, values: dict[str, str]
    ) -> SecretRecord:
        """Keep a new secret. Raises: ConflictError if there is one of this name."""
        check_name(name, "secret")
        check_values(values)
        record = await self._sealed(workspace, name, values, version=1, created_at=0.0)
        try:
            await self._records.create(f"{workspace}.{name}", record)
        except ConflictError as err:
            raise ConflictError(
                "secret.exists",
                f"there is a secret {name}; `glowplug secret rotate {name}` changes it",
            ) from err
        return record

    async def rotate(
        self, workspace: WorkspaceId, name: str, values: dict[str, str]
    ) -> SecretRecord:
        """Replace a secret's values; containers that start from now on get the new ones."""
        check_values(values)
        for _ in range(TRIES_MAX):
            entry = await self._entry(workspace, name)
            held = entry.value
            assert held is not None  # noqa: S101 - `_entry` raised otherwise
            record = await self._sealed(
                workspace, name, values, version=held.version + 1, created_at=held.created_at
            )
            try:
                await self._records.update(entry.key, record, entry.revision)
            except ConflictError:
                continue
            return record
        raise ConflictError("secret.exists", f"secret {name} is being changed; try again")

    async def delete(self, workspace: WorkspaceId, name: str) -> None:
        """Forget a secret. Containers that have it keep it; none that needs it starts any more."""
        entry = await self._entry(workspace, name)
        await self._records.delete(entry.key)

    async def show(self, workspace: WorkspaceId, name: str) -> SecretRecord:
        """Return what is kept. Raises: NotFoundError."""
        found = (await self._entry(workspace, name)).value
        assert found is not None  # noqa: S101
        return found

    async def list(self, workspace: WorkspaceId) -> list[SecretRecord]:
        """Return what is kept, by name."""
        entries = await self._records.entries(str(workspace))
        found = [entry.value for entry in entries if entry.value is not None]
        return sorted(found, key=lambda record: record.name)

    async def check(self, workspace: WorkspaceId, refs: Sequence[SecretRef]) -> None:
        """Raise InvalidRequestError unless every secret is there, with the keys that are required."""
        if len(refs) > SECRETS_MAX:
            raise invalid({"secrets": f"may be {SECRETS_MAX}"})
        for ref in refs:
            check_name(ref.name, "secret")
            try:
                record = await self.show(workspace, ref.name)
            except NotFoundError as err:
                raise invalid({f"secrets.{ref.name}": str(err)}) from err
            missing = [key for key in ref.required_keys if key not in record.keys]
            if missing:
                held = ", ".join(record.keys)
                raise invalid(
                    {
                        f"secrets.{ref.name}": f"lacks {', '.join(missing)} (it has {held}); "
                        f"`glowplug secret rotate {ref.name}` adds them"
                    }
                )

    async def environment(
        self, workspace: WorkspaceId, refs: Iterable[SecretRef]
    ) -> dict[str, str]:
        """Return the variables of some secrets, for a container that starts; later ones win.

        Raises: NotFoundError, RejectedError (another master key).
        """
        found: dict[str, str] = {}
        for ref in refs:
            record = await self.show(workspace, ref.name)
            key = await self._workspace_key(workspace)
            plain = unseal(
                key, (workspace, record.name, record.version), record.sealed, record.nonce
            )
            found |= msgspec.json.decode(plain, type=dict[str, str])
        return found

    @property
    def keeps(self) -> bool:
        """Return whether there is a master key."""
        return self._master is not None

    async def seal_own(
        self, workspace: WorkspaceId, name: str, plain: bytes
    ) -> tuple[bytes, bytes]:
        """Seal something of the platform's own; return nonce and seal. No user's secret is called so."""
        nonce = os.urandom(NONCE_BYTES)
        key = await self._workspace_key(workspace)
        return nonce, seal(key, (workspace, OWN + name, 1), plain, nonce)

    async def open_own(
        self, workspace: WorkspaceId, name: str, nonce: bytes, sealed: bytes
    ) -> bytes:
        """Open what `seal_own` sealed. Raises: RejectedError."""
        key = await self._workspace_key(workspace)
        return unseal(key, (workspace, OWN + name, 1), sealed, nonce)

    async def _sealed(
        self,
        workspace: WorkspaceId,
        name: str,
        values: dict[str, str],
        *,
        version: int,
        created_at: float,
    ) -> SecretRecord:
        now, nonce = self._clock.unix(), os.urandom(NONCE_BYTES)
        key = await self._workspace_key(workspace)
        plain = msgspec.json.encode(values)
        return SecretRecord(
            name=name,
            workspace=workspace,
            version=version,
            keys=tuple(sorted(values)),
            nonce=nonce,
            sealed=seal(key, (workspace, name, version), plain, nonce),
            created_at=created_at or now,
            updated_at=now,
        )

    async def _workspace_key(self, workspace: WorkspaceId) -> bytes:
        master = self._master
        if master is None:
            raise InvalidRequestError(
                "secret.no_key",
                "this platform keeps no secrets: start its gateways with "
                "GLOWPLUG_GATEWAY_MASTER_KEY_FILE (`glowplug up` does)",
            )
        entry = await self._keys.get(workspace)
        if entry is None or entry.value is None:
            key, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
            made = WorkspaceKey(
                workspace=workspace,
                master=key_name(master),
                nonce=nonce,
                wrapped=wrap(master, workspace, key, nonce),
                created_at=self._clock.unix(),
            )
            try:
                await self._keys.create(workspace, made)
            except ConflictError:  # another gateway made it first
                return await self._workspace_key(workspace)
            return key
        held = entry.value
        return unwrap(master, workspace, held.wrapped, held.nonce)

    async def _entry(self, workspace: WorkspaceId, name: str) -> Entry[SecretRecord]:
        check_name(name, "secret")
        entry = await self._records.get(f"{workspace}.{name}")
        if entry is None or entry.value is None:
            raise NotFoundError(
                "secret.not_found",
                f"there is no secret {name}; `glowplug secret create {name}` makes it",
            )
        return entry


def stamp_of(record: SecretRecord) -> str:
    """Return a name for the values that a secret has now; it tells nothing of them.

    The seal's nonce is random and new with every change, also where a secret is made again under its name.
    """
    told = f"{record.workspace}/{record.name}/{record.version}/".encode() + record.nonce
    return hashlib.blake2b(told, digest_size=STAMP_BYTES).hexdigest()


def check_values(values: dict[str, str]) -> None:
    """Raise InvalidRequestError unless these can be environment variables. Never shows a value."""
    if not 0 < len(values) <= KEYS_MAX:
        raise invalid({"values": f"must hold 1 to {KEYS_MAX} variables"})
    for key, value in values.items():
        if not _VARIABLE.match(key) or key.startswith("GLOWPLUG_"):
            raise invalid({f"values.{key[:64]}": "is no name for an environment variable of yours"})
        if "\0" in value:
            raise invalid({f"values.{key}": "holds a zero byte, which no variable can"})
    if len(msgspec.json.encode(values)) > VALUES_BYTES_MAX:
        raise invalid({"values": f"have more than {VALUES_BYTES_MAX} bytes"})
