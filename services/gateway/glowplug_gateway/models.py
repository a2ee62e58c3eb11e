"""Models: what a workspace has under which name, and having more brought.

A name's record in the bucket is all there is: a pull is asked for by writing it there, and imagecache does it
(`models/pulls.py` there). Uploads pass through to imagecache and are never kept here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from glowplug_contracts.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    QuotaExceededError,
    UnavailableError,
)
from glowplug_contracts.ids import Digest, WorkspaceId, check_token
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.messages.deployment import ModelMount
from glowplug_contracts.messages.model import ModelPull, ModelRecord, PullState
from glowplug_contracts.streams import MODELS
from glowplug_contracts.weights import check_model_name, parse_source
from glowplug_runtime.bus import Entry

from glowplug_gateway.blobs import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    FIND_TIMEOUT_S,
    READ_TIMEOUT_S,
)
from glowplug_gateway.ports import Platform, ServiceUrls

WRITES_MAX: Final = 20
ANSWER_BYTES_MAX: Final = 128 * 1024 * 1024
_QUOTA: Final = 429
_SERVER_ERROR: Final = 500


class _Refusal(msgspec.Struct):
    code: str
    message: str


class _Refused(msgspec.Struct):
    error: _Refusal


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What imagecache says to a listing: its name, and the pieces that are to be sent."""

    listing: Digest
    missing: tuple[Digest, ...]


class Models:
    """See the module."""

    def __init__(
        self, platform: Platform, services: ServiceUrls, session: aiohttp.ClientSession
    ) -> None:
        self._platform = platform
        self._services = services
        self._session = session
        self._bucket = platform.bus.bucket(MODELS)

    async def every(self, workspace: WorkspaceId) -> list[ModelRecord]:
        """Return a workspace's models, by name."""
        found = [entry.value for entry in await self._bucket.entries(workspace)]
        return sorted((one for one in found if one is not None), key=lambda one: one.name)

    async def get(self, workspace: WorkspaceId, name: str) -> ModelRecord:
        """Return a model. Raises: NotFoundError (model.not_found)."""
        entry = await self._entry(workspace, name)
        if entry is None or entry.value is None:
            raise missing(name)
        return entry.value

    async def pull(
        self, workspace: WorkspaceId, name: str, source: str, credentials: str = ""
    ) -> ModelRecord:
        """Have weights brought under a name; one pull of it that runs is given up for this one.

        Raises: InvalidRequestError (request.bad_name, model.bad_source).
        """
        check_model_name(name)
        parse_source(source)
        pull = ModelPull(
            pull_id=self._platform.clock.id("pull"),
            source=source,
            credentials=credentials,
            asked_at=self._platform.clock.unix(),
        )
        for _ in range(WRITES_MAX):
            entry = await self._entry(workspace, name)
            there = entry.value if entry is not None else None
            try:
                if entry is None or there is None:
                    made = ModelRecord(
                        workspace=workspace,
                        name=name,
                        pull=pull,
                        created_at=self._platform.clock.unix(),
                    )
                    await self._bucket.create(_key(workspace, name), made)
                    return made
                changed = msgspec.structs.replace(there, pull=pull)
                await self._bucket.update(entry.key, changed, entry.revision)
            except ConflictError:
                continue
            return changed
        raise ConflictError("model.not_ready", f"model {name} is being changed; try again")

    async def secret_of(self, workspace: str, name: str, pull_id: str) -> tuple[WorkspaceId, str]:
        """Return the secret that a pull under way may show. Raises: NotFoundError (secret.not_found)."""
        owner = WorkspaceId(check_token(workspace))
        entry = await self._entry(owner, name)
        pull = entry.value.pull if entry is not None and entry.value is not None else None
        wanted = pull is not None and pull.pull_id == pull_id and pull.state is PullState.PULLING
        if pull is None or not wanted or not pull.credentials:
            raise NotFoundError("secret.not_found", "no pull that needs a secret is asked for so")
        return owner, pull.credentials

    async def delete(self, workspace: WorkspaceId, name: str) -> None:
        """Forget a model; containers that have it keep it. Raises: NotFoundError (model.not_found)."""
        await self.get(workspace, name)
        await self._bucket.delete(_key(workspace, name))

    async def check(self, workspace: WorkspaceId, mounts: Sequence[ModelMount]) -> None:
        """See that what a spec names can be mounted.

        Raises: NotFoundError (model.not_found), ConflictError (model.not_ready).
        """
        for mount in mounts:
            record = await self.get(workspace, mount.name)
            if not record.versions:
                raise ConflictError(
                    "model.not_ready",
                    f"model {mount.name} is not here yet (it is {state_of(record)}); `glowplug model show "
                    f"{mount.name}` says how far it is",
                )
            if mount.version and all(one.tree != mount.version for one in record.versions):
                raise NotFoundError(
                    "model.not_found",
                    f"model {mount.name} has no version {mount.version[:16]} (any more); `glowplug model show "
                    f"{mount.name}` lists them",
                )

    async def take_listing(self, workspace: WorkspaceId, body: AsyncIterator[bytes]) -> Missing:
        """Pass a listing on; return what is missing of it. Raises: what imagecache says."""
        async with self._send(workspace, "/models/listing", body) as answer:
            data = await answer.content.read(ANSWER_BYTES_MAX)
            while more := await answer.content.read(ANSWER_BYTES_MAX):
                data += more
            return msgspec.json.decode(data, type=Missing)

    async def take_pieces(self, workspace: WorkspaceId, body: AsyncIterator[bytes]) -> None:
        """Pass pieces on. Raises: what imagecache says."""
        async with self._send(workspace, "/models/pieces", body):
            return

    @contextlib.asynccontextmanager
    async def _send(
        self, workspace: WorkspaceId, path: str, body: AsyncIterator[bytes]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = await self._services.wait_for("imagecache", FIND_TIMEOUT_S)
        headers = {WORKSPACE_HEADER: str(workspace)}
        try:
            async with self._session.post(url + path, data=body, headers=headers) as answer:
                if not answer.ok:
                    raise await _refusal(answer)
                yield answer
        except (TimeoutError, aiohttp.ClientError) as err:
            raise UnavailableError(
                "platform.unavailable", f"imagecache: {path}: {err!r}", retry_after_s=1
            ) from err

    async def _entry(self, workspace: WorkspaceId, name: str) -> Entry[ModelRecord] | None:
        return await self._bucket.get(_key(workspace, name))


def state_of(record: ModelRecord) -> str:
    """Return "pending", "pulling", "ready" or "failed": of the last pull, where there is one."""
    return record.pull.state.value if record.pull is not None else "ready"


def model_value(record: ModelRecord) -> dict[str, Any]:
    """Return a model as it stands in answers; `progress` is a percentage."""
    latest = record.versions[0] if record.versions else None
    pull = record.pull
    done, total = (pull.bytes_done, pull.bytes_total) if pull is not None else (1, 1)
    return {
        "name": record.name,
        "state": state_of(record),
        "progress": round(100 * min(1.0, done / total), 1) if total else 0.0,
        "text": pull.text if pull is not None else "",
        "bytes_done": pull.bytes_done if pull is not None else None,
        "bytes_total": pull.bytes_total if pull is not None else None,
        "error": None
        if pull is None or pull.error is None
        else {"code": pull.error.code, "message": pull.error.message},
        "source": pull.source if pull is not None else latest.source if latest else "",
        "digest": latest.tree if latest else "",
        "bytes": latest.bytes_total if latest else 0,
        "files": latest.files if latest else 0,
        "created_at": record.created_at,
        "versions": [
            {
                "digest": one.tree,
                "source": one.source,
                "revision": one.revision,
                "files": one.files,
                "bytes": one.bytes_total,
                "ready_at": one.ready_at,
            }
            for one in record.versions
        ],
    }


def missing(name: str) -> NotFoundError:
    """Return the error for a name that stands for nothing."""
    return NotFoundError(
        "model.not_found",
        f"there is no model {name[:80]!r}; `glowplug model pull` brings one",
    )


@contextlib.asynccontextmanager
async def open_models(
    platform: Platform, services: ServiceUrls, internal_token: str
) -> AsyncIterator[Models]:
    """Yield the models, with connections to imagecache."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
    )
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {internal_token}"},
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
    ) as session:
        yield Models(platform, services, session)


def _key(workspace: WorkspaceId, name: str) -> str:
    return f"{workspace}.{check_model_name(name)}"


async def _refusal(answer: aiohttp.ClientResponse) -> PlatformError:
    data = await answer.read()
    try:
        said = msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        said = _Refusal("platform.unavailable", f"imagecache answered {answer.status}")
    if answer.status == _QUOTA:
        return QuotaExceededError(said.code, said.message)
    if answer.status >= _SERVER_ERROR:
        return UnavailableError(said.code, said.message, retry_after_s=1)
    return InvalidRequestError(said.code, said.message)
