"""Requests to the gateways of a profile: one keep-alive pool, and one rule for trying again.

A transport error is retried on the next URL with the same ids, so the same request, until the gateways
have not answered for `patience_s`. What is not safe to repeat says so with `repeat=False`.
"""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from glowplug.client.answers import Answer, BrokenAnswerError, BusyError, json_lines, refusal_of
from glowplug.client.profile import LOCAL, Profile
from glowplug.errors import ConfigurationError, GlowplugError, UnavailableError

if TYPE_CHECKING:
    from glowplug_contracts.messages.http import StreamItem

__all__ = ["Answer", "BrokenAnswerError", "BusyError", "Http", "json_lines", "refusal_of"]

T = TypeVar("T")
PATIENCE_S = 30.0
FIRST_PATIENCE_S = 3.0
ATTEMPT_GOOD_S = 5.0
CONNECT_S = 5.0
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0
KEEPALIVE_S = 50.0
WHOLE_BYTES_MAX = 512 * 1024

TRANSPORT_ERRORS = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    TimeoutError,
    OSError,
)
_UNSENT = (aiohttp.ClientConnectorError,)


class Http:
    """The pool. Belongs to the background loop; every coroutine runs there.

    Attributes:
        reads: what errors and streams are asked for as, "" for msgpack.
        has_blobs: whether large bytes go as blobs, or the gateway makes blobs of them.
    """

    reads = ""
    has_blobs = True
    transport_errors = TRANSPORT_ERRORS

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0
        self._reached = False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def forget(self) -> None:
        """Start with a fresh pool; after `close`, when the profile has changed."""
        self._session = None
        self._turn = 0

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        patience_s: float = PATIENCE_S,
        repeat: bool = True,
        fine: tuple[int, ...] = (),
    ) -> Answer:
        """Send it, and return the whole answer.

        Raises: the exception for the platform's error, unless the status is one of `fine`.
        """

        async def once(url: str) -> Answer:
            async with self.session().request(
                method, url + path, data=_sendable(body), headers=headers, params=params
            ) as response:
                answer = Answer(response.status, response.headers, await response.read())
            if answer.status >= 400 and answer.status not in fine:  # noqa: PLR2004
                raise refusal_of(answer)
            return answer

        return await self.retrying(once, patience_s=patience_s, repeat=repeat)

    async def request_json(self, method: str, path: str, value: Any = None, **options: Any) -> Any:
        """Send JSON (if there is any) and return the answer's JSON."""
        if value is not None:
            options["body"] = json.dumps(value).encode()
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        answer = await self.request(method, path, **options)
        return answer.json() if answer.body else None

    @asynccontextmanager
    async def open_stream(
        self,
        url: str,
        method: str,
        path: str,
        *,
        body: bytes | AsyncIterator[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        params: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send it once to one gateway; yield the answer whose body is still to come."""
        async with self.session().request(
            method, url + path, data=_sendable(body), headers=headers, params=params
        ) as response:
            if response.status >= 400:  # noqa: PLR2004
                answer = Answer(response.status, response.headers, await response.read())
                raise refusal_of(answer)
            yield response

    async def retrying(
        self,
        once: Callable[[str], Awaitable[T]],
        *,
        patience_s: float = PATIENCE_S,
        repeat: bool = True,
    ) -> T:
        """Call `once` with one URL after the other until it works or patience ends.

        Raises: UnavailableError when the gateways have not answered for `patience_s`.
        """
        clock = asyncio.get_running_loop().time
        failing_since: float | None = None
        pause = PAUSE_S
        while True:
            url = self.profile.urls[self._turn % len(self.profile.urls)]
            begun = clock()
            try:
                result = await once(url)
            except BusyError as busy:
                problem: Exception = busy.error
                wait = busy.error.retry_after_s or pause
                self._reached = True
            except GlowplugError:
                raise  # an answer, also where it is a kind of TimeoutError
            except TRANSPORT_ERRORS as err:
                problem, wait = err, pause
                self._turn += 1
                if not repeat and not isinstance(err, _UNSENT):
                    raise UnavailableError(
                        f"the connection to {url} broke before the answer ({_words(err)}); whether "
                        "it was done is not known"
                    ) from err
            else:
                self._reached = True
                return result
            if failing_since is None or clock() - begun > ATTEMPT_GOOD_S:
                failing_since, pause = clock(), PAUSE_S
            # Whoever never answered is probably not there at all; that is said soon.
            limit_s = patience_s if self._reached else min(patience_s, FIRST_PATIENCE_S)
            if clock() + wait - failing_since > limit_s:
                raise _unavailable(problem, self.profile) from problem
            await asyncio.sleep(wait)
            pause = min(pause * 2, PAUSE_MAX_S)

    async def items(self, response: aiohttp.ClientResponse) -> AsyncIterator[StreamItem]:
        """Yield the items of a streamed call's answer."""
        from glowplug_contracts.messages.http import StreamItem  # noqa: PLC0415 - only for streams

        from glowplug.client.wire import frames  # noqa: PLC0415

        async for found in frames(response, StreamItem):
            for item in found:
                yield item

    def session(self) -> aiohttp.ClientSession:
        """Return the pool, made at the first use."""
        if self._session is None:
            headers = {"User-Agent": "glowplug"}
            if self.profile.token:
                headers["Authorization"] = f"Bearer {self.profile.token}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=KEEPALIVE_S,
                    ttl_dns_cache=None,
                    ssl=trusting(self.profile),
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                read_bufsize=256 * 1024,
            )
        return self._session


def trusting(profile: Profile) -> ssl.SSLContext | bool:
    """Return how certificates are checked: as the system does, and those of the profile's own file.

    Raises: ConfigurationError for a file that holds none.
    """
    if not profile.ca_file:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(profile.ca_file)
    except (OSError, ssl.SSLError) as err:
        raise ConfigurationError(f"no certificates in ca_file {profile.ca_file}: {err}") from err
    # What is in the file is trusted itself, whoever has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _sendable(
    body: bytes | AsyncIterator[bytes],
) -> bytes | io.BytesIO | AsyncIterator[bytes] | None:
    if not isinstance(body, bytes):
        return body
    # Large bytes are sent in pieces, so that other calls of the program go on meanwhile.
    return io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body or None


def _unavailable(problem: Exception, profile: Profile) -> GlowplugError:
    if isinstance(problem, GlowplugError):
        return problem
    where = ", ".join(profile.urls)
    hint = "; `glowplug up` starts a platform here" if profile.name == LOCAL else ""
    return UnavailableError(f"no gateway answers at {where} ({_words(problem)}){hint}")


def _words(err: BaseException) -> str:
    return str(err) or type(err).__name__
