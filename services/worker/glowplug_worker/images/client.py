"""The worker's side of imagecache's HTTP: blobs and batches of chunks, verified.

Serves `Blobs` of ports.py (large arguments and results), and fetching and packing of images. Every
request is tried again, at whichever replica answers, since all of them can be repeated. It never gives
out bytes that do not match their name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import aiohttp
import blake3
import msgspec
from glowplug_contracts.codec import decode
from glowplug_contracts.errors import (
    ContractError,
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import (
    DIGESTS_ASKED_MAX,
    WORKSPACE_HEADER,
    BatchReader,
    ChunkFrame,
    batch_bytes,
    decode_digests,
    decode_peers,
    encode_digests,
)
from glowplug_runtime.groups import leaves
from glowplug_runtime.replicas import Replicas

from glowplug_worker.images.objects import check_blob, digest_of
from glowplug_worker.ports import CALL_BLOBS_KEPT_S

TRY_AGAIN_S = 0.25
# An imagecache that was killed is started again, or another replica takes over, well within it.
PATIENCE_S = 15.0
WAIT_FOR_URL_S = 10.0
PIECE_BYTES = 1024 * 1024
# A reader that gets nothing for this long tries another replica; there is no limit on the whole.
STALLED_S = 60.0
CONNECT_S = 5.0
# Arguments and results: longer than records of durable invocations are kept.
KEEP_HEADER = "X-Keep-Seconds"

NOT_FOUND = 404

T = TypeVar("T")


class _Refusal(msgspec.Struct):
    code: str
    message: str


class _Refused(msgspec.Struct):
    error: _Refusal


class StoreClient:
    """imagecache's store, from afar.

    Args:
        session: carries the internal token; see `open_session`.
        url_of_imagecache: where a ready replica answers now, or None; or which of several has what.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url_of_imagecache: Callable[[], str | None] | Replicas
    ) -> None:
        self._session = session
        self._replicas = (
            url_of_imagecache
            if isinstance(url_of_imagecache, Replicas)
            else Replicas(lambda: [url] if (url := url_of_imagecache()) else [])
        )

    async def get(self, digest: Digest, owner: WorkspaceId | None = None) -> bytes:
        """Return a blob's verified bytes; without an owner, it is the platform's own."""

        async def once() -> bytes:
            async with self._ask("GET", f"/blobs/{digest}", headers=_of(owner)) as answer:
                return await answer.read()

        return await asyncio.to_thread(check_blob, digest, await _again(once))

    async def put(
        self, data: bytes, owner: WorkspaceId | None = None, keep_s: float = CALL_BLOBS_KEPT_S
    ) -> Digest:
        """Store bytes of a call for a while (0 = for ever); return their name once they are safe."""
        digest = await asyncio.to_thread(digest_of, data)
        headers = _of(owner)
        if keep_s:
            headers[KEEP_HEADER] = str(max(1, round(keep_s)))

        async def once() -> None:
            async with self._ask("PUT", f"/blobs/{digest}", body=data, headers=headers):
                return

        await _again(once)
        return digest

    async def fetch(self, digest: Digest, target: Path, owner: WorkspaceId | None = None) -> None:
        """Write a blob of any size to a file; its bytes are verified when this returns."""

        async def once() -> str:
            hashed = blake3.blake3()
            async with self._ask("GET", f"/blobs/{digest}", headers=_of(owner)) as answer:
                with target.open("wb") as file:
                    async for piece in answer.content.iter_chunked(PIECE_BYTES):
                        await asyncio.to_thread(hashed.update, piece)
                        await asyncio.to_thread(file.write, piece)
            return hashed.hexdigest()

        if await _again(once) != digest:
            raise ContractError("image.corrupt", f"what imagecache sent is not {digest}")

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return those of the chunks that imagecache lacks."""

        async def once(some: Sequence[Digest]) -> list[Digest]:
            body = encode_digests(some)
            async with self._ask("POST", "/chunks/missing", body=body) as answer:
                return decode(await answer.read(), list[Digest], "msgpack")

        found: list[Digest] = []
        for at in range(0, len(digests), DIGESTS_ASKED_MAX):
            found += await _again(functools.partial(once, digests[at : at + DIGESTS_ASKED_MAX]))
        return found

    async def put_chunks(self, frames: Sequence[ChunkFrame]) -> None:
        """Store one batch; it is safe when this returns."""
        body = b"".join(map(batch_bytes, frames))

        async def once() -> None:
            async with self._ask("POST", "/chunks/put", body=body):
                return

        await _again(once)

    async def get_chunks(self, digests: Sequence[Digest]) -> list[ChunkFrame]:
        """Return the chunks of one batch (`group_by_size`), compressed and not yet verified.

        Each replica is asked for those that it has in its cache.
        """
        groups = self._replicas.grouped(dict.fromkeys(digests))
        getting: list[asyncio.Task[list[ChunkFrame]]] = []
        failed: BaseExceptionGroup[PlatformError] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                getting += [tasks.create_task(self._get_some(group)) for group in groups]
        except* PlatformError as group:
            failed = group  # raised outside, since what is raised in here comes out in a group
        if failed is not None:
            raise leaves(failed)[0] from failed
        found = {frame.digest: frame for task in getting for frame in task.result()}
        return [found[digest] for digest in digests if digest in found]

    async def _get_some(self, digests: Sequence[Digest]) -> list[ChunkFrame]:
        async def once() -> list[ChunkFrame]:
            reader = BatchReader()
            frames: list[ChunkFrame] = []
            body = encode_digests(digests)
            async with self._ask("POST", "/chunks/get", body=body, name=digests[0]) as answer:
                async for data in answer.content.iter_any():
                    frames += reader.feed(data)
            reader.finish()
            return frames

        return await _again(once)

    async def get_hot(self, tree: Digest) -> list[Digest]:
        """Return what starts of a tree are known to read, in order; empty where nothing is known."""

        async def once() -> list[Digest]:
            async with self._ask("GET", f"/trees/{tree}/hot") as answer:
                return decode_digests(await answer.read())

        return await _again(once)

    async def get_peers(self, tree: Digest) -> list[str]:
        """Return where workers answer that have all of a tree. It is a hint: asked once. Raises: PlatformError."""
        async with self._ask("GET", f"/trees/{tree}/peers") as answer:
            return decode_peers(await answer.read())

    async def put_hot(self, tree: Digest, objects: Sequence[Digest]) -> None:
        """Keep what starts of a tree are known to read."""
        body = encode_digests(objects)

        async def once() -> None:
            async with self._ask("PUT", f"/trees/{tree}/hot", body=body):
                return

        await _again(once)

    @contextlib.asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        name: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful answer; `name` chooses who is asked ("" = the path does).

        Raises: what was refused; UnavailableError if it broke off.
        """
        url = await self._url(name or path)
        # In pieces: one large write would hold up the event loop.
        data = None if body is None else io.BytesIO(body)
        try:
            async with self._session.request(
                method, f"{url}{path}", data=data, headers=headers
            ) as answer:
                if not answer.ok:
                    raise await _refusal(answer)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as err:
            self._replicas.failed(url)
            raise UnavailableError(
                "platform.unavailable",
                f"imagecache at {url} broke off: {err}",
                retry_after_s=1.0,
            ) from err

    async def _url(self, name: str) -> str:
        try:
            async with asyncio.timeout(WAIT_FOR_URL_S):
                while (url := self._replicas.choose(name)) is None:  # noqa: ASYNC110 - a port, no event
                    await asyncio.sleep(TRY_AGAIN_S)
                return url
        except TimeoutError as err:
            raise UnavailableError(
                "platform.unavailable", "no imagecache service is ready", retry_after_s=1.0
            ) from err


def _of(owner: WorkspaceId | None) -> dict[str, str]:
    return {} if owner is None else {WORKSPACE_HEADER: owner}


def open_session(token: str, stalled_s: float = STALLED_S) -> aiohttp.ClientSession:
    """Return an HTTP session that shows the internal token; close it with `async with`."""
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=stalled_s),
        auto_decompress=False,
    )


async def _again(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and again while nobody answers: each of these requests may be repeated."""
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await work()
        except UnavailableError:
            if asyncio.get_running_loop().time() >= give_up_at:
                raise
            await asyncio.sleep(TRY_AGAIN_S)


async def _refusal(answer: aiohttp.ClientResponse) -> PlatformError:
    data = await answer.read()
    if answer.status == NOT_FOUND:
        return NotFoundError("image.not_found", f"imagecache has no {answer.url.path}")
    try:
        said = msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        said = _Refusal("platform.unavailable", f"imagecache answered {answer.status}")
    if answer.status < 500:  # noqa: PLR2004 - the line between their mistake and ours
        return InvalidRequestError(said.code, said.message)
    return UnavailableError(said.code, said.message)
