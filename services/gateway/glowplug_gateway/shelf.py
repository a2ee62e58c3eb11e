"""The gateway's way to a workspace's images, which imagecache keeps.

Answers are JSON of imagecache's own and pass through as they are; refusals become the errors they were. Every
request says whose images are meant, and imagecache knows no others.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
import msgspec
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    RejectedError,
    UnavailableError,
)
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.manifests import WORKSPACE_HEADER

from glowplug_gateway.ports import ServiceUrls

FIND_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
# Looking into all images of a workspace reads every manifest of it.
READ_TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024

_KINDS: dict[int, type[RejectedError]] = {
    400: InvalidRequestError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
}


class _Said(msgspec.Struct):
    code: str
    message: str = ""
    details: dict[str, object] = {}


class _Refused(msgspec.Struct):
    error: _Said


class ImageShelf:
    """See the module."""

    def __init__(self, services: ServiceUrls, session: aiohttp.ClientSession) -> None:
        self._services = services
        self._session = session

    async def ask(
        self,
        workspace: WorkspaceId,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return imagecache's answer, JSON. Raises: what it refused with; UnavailableError."""
        url = await self._services.wait_for("imagecache", FIND_TIMEOUT_S)
        try:
            async with self._session.request(
                method,
                f"{url}{path}",
                params=params,
                headers={WORKSPACE_HEADER: str(workspace)},
                allow_redirects=False,
            ) as response:
                body = await _read(response)
        except (TimeoutError, aiohttp.ClientError) as err:
            raise UnavailableError(
                "platform.unavailable", f"imagecache: {method} {path}: {err!r}", retry_after_s=1
            ) from err
        if response.status != 200:  # noqa: PLR2004 - these endpoints answer nothing else
            raise _refusal(response.status, body)
        return body


@contextlib.asynccontextmanager
async def open_shelf(services: ServiceUrls, internal_token: str) -> AsyncIterator[ImageShelf]:
    """Yield the door to imagecache's images."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
    )
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {internal_token}"}, timeout=timeout
    ) as session:
        yield ImageShelf(services, session)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise UnavailableError(
                "platform.unavailable", f"imagecache answers more than {ANSWER_BYTES_MAX} bytes"
            )
    return body


def _refusal(status: int, body: bytes) -> PlatformError:
    try:
        said = msgspec.json.decode(body, type=_Refused).error
    except UNREADABLE:
        said = _Said("platform.unavailable", f"imagecache answered {status}")
    kind = _KINDS.get(status)
    if kind is None:
        return UnavailableError("platform.unavailable", said.message, retry_after_s=1)
    return kind(said.code, said.message, details=said.details)
