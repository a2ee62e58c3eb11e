"""Asks servers that users name for files of models: guarded, patient, and never trusting with a token.

Addresses are checked as pulls of images check them. A token is shown to the server that it is for, and dropped
at the first redirect to another one. What breaks off is gone on with where it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, TypeVar

import aiohttp
from glowplug_contracts.addresses import Network
from glowplug_contracts.errors import (
    ContractError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    TransientError,
    UnauthenticatedError,
    UnavailableError,
)
from glowplug_runtime.clock import Clock
from glowplug_runtime.guarding import ClosedAddressError

from glowplug_imagecache.registry import endpoints, redirects
from glowplug_imagecache.registry.downloads import Download
from glowplug_imagecache.registry.patience import (
    AGAIN_STATUSES,
    Patience,
    parse_retry_after,
    pause_before,
)

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, RANGE_REFUSED = 401, 403, 404, 416
# Whole bytes that were not what they are called, before the source is given up.
WRONG_BYTES_MAX: Final = 2
READ_BYTES: Final = 256 * 1024

T = TypeVar("T")
# What downloads say of registries, said of models.
_CODES: Final = {
    "registry.no_room": "model.no_room",
    "registry.unavailable": "model.unavailable",
    "registry.forbidden": "model.forbidden",
    "registry.corrupt": "model.corrupt",
}


class Fetcher:
    """See the module.

    Args:
        session: see `registry.guarding.open_session`.
        networks: addresses that are not public and may be asked all the same.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        networks: tuple[Network, ...],
        clock: Clock,
        patience: Patience,
    ) -> None:
        self._session = session
        self._networks = networks
        self._clock = clock
        self._patience = patience
        self._chance = random.Random().random  # noqa: S311 - spreads pauses, guards nothing

    async def read(self, url: str, token: str, bytes_max: int) -> bytes:
        """Return a whole answer. Raises: PlatformError (model.…)."""

        async def once() -> bytes:
            async with self._asked(url, token, {}) as answer:
                body = bytearray()
                async for piece in answer.content.iter_chunked(READ_BYTES):
                    body += piece
                    if len(body) > bytes_max:
                        raise InvalidRequestError(
                            "model.too_large", f"the source's answer has over {bytes_max} bytes"
                        )
                return bytes(body)

        return await self._again(once, lambda: 0)

    async def download(self, url: str, token: str, download: Download) -> None:
        """Bring a file, whose bytes are checked. Raises: PlatformError (model.…)."""
        with _of_models():
            if await download.is_there():
                return

        async def once() -> None:
            for _ in range(WRONG_BYTES_MAX):
                have = await download.open()
                headers = {"Range": f"bytes={have}-"} if have else {}
                if have < download.blob.size:
                    async with self._asked(url, token, headers) as answer:
                        await download.take(answer)
                if await download.finish():
                    return
            raise ContractError(
                "model.corrupt",
                f"what the source sent for {download.blob.digest} are other bytes; none were kept",
            )

        await self._again(once, lambda: download.furthest // self._patience.progress_bytes)

    @contextlib.asynccontextmanager
    async def _asked(
        self, url: str, token: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful answer, or one that refuses a range."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_named(url))
            shown = headers | ({"Authorization": f"Bearer {token}"} if token else {})
            answer = await self._send(stack, url, shown)
            if not answer.ok and answer.status != RANGE_REFUSED:
                raise self._failure(answer, url, with_token=bool(token))
            yield answer

    async def _send(
        self, stack: contextlib.AsyncExitStack, url: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        answer = await redirects.get(stack, self._session, url, headers, self._networks)
        if answer is None:
            raise UnavailableError(
                "model.unavailable",
                f"{endpoints.origin_of(url)[1]} redirects more than {redirects.REDIRECTS_MAX} times",
            )
        return answer

    def _failure(
        self, answer: aiohttp.ClientResponse, url: str, *, with_token: bool
    ) -> PlatformError:
        host, status = endpoints.origin_of(url)[1], answer.status
        elsewhere = endpoints.origin_of(str(answer.url)) != endpoints.origin_of(url)
        if status in (UNAUTHORIZED, FORBIDDEN) and not elsewhere:
            what = "refuses this token" if with_token else "wants a token"
            return UnauthenticatedError(
                "model.denied", f"{host} {what}, or does not show it to its user"
            )
        if status == NOT_FOUND and not elsewhere:
            return NotFoundError("model.no_source", f"{host} has no such repository or revision")
        if status in AGAIN_STATUSES or elsewhere:  # a signed address grows old: ask for another
            wait_s = parse_retry_after(answer.headers.get("Retry-After"), self._clock.unix())
            return UnavailableError(
                "model.unavailable", f"{host} answered {status}", retry_after_s=wait_s
            )
        return InvalidRequestError("model.no_source", f"{host} answered {status}")

    async def _again(self, once: Callable[[], Awaitable[T]], got: Callable[[], int]) -> T:
        """Return what `once` gives; ask again as long as that helps, and anew while it gets on."""
        tries, before = 0, got()
        while True:
            try:
                with _of_models():
                    return await once()
            except TransientError as err:
                if (now := got()) > before:
                    tries, before = 0, now
                tries += 1
                pause = pause_before(tries, err.retry_after_s, self._patience, self._chance())
                if (
                    tries >= self._patience.tries_max
                    or pause is None
                    or err.code == "model.no_room"
                ):
                    raise
            await asyncio.sleep(pause)


@contextlib.contextmanager
def _of_models() -> Iterator[None]:
    """Say of a model what is said of an image's layer."""
    try:
        yield
    except PlatformError as err:
        if (code := _CODES.get(err.code)) is None:
            raise
        words = err.message.replace("the registry stopped", "the source stopped")
        words = words.replace("of a layer", "of a file")
        raise type(err)(code, words, retry_after_s=err.retry_after_s) from err


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn what HTTP can fail with into our errors, without the URL: a signed one is a secret."""
    host = endpoints.origin_of(url)[1]
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as err:
        if isinstance(err.__cause__, ClosedAddressError):
            raise ForbiddenError(
                "model.forbidden",
                f"{host} is no public address; the operator's setting registry_networks may allow it",
            ) from err
        raise UnavailableError(
            "model.unavailable", f"{host} does not answer, or broke off ({type(err).__name__})"
        ) from err
