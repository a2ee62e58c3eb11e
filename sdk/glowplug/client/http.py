"""Requests to the gateways of a profile: one keep-alive pool, and one rule for trying again.

A transport error is retried on the next URL with the same ids, so the same request, until the gateways
have not answered for `patience_s`. What is not safe to repeat says so with `repeat=False`.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from glowplug.client.profile import LOCAL, Profile
from glowplug.errors import GlowplugError, UnavailableError, error_for

T = TypeVar("T")
PATIENCE_S = 30.0
FIRST_PATIENCE_S = 3.0
ATTEMPT_GOOD_S = 5.0
CONNECT_S = 5.0
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0
KEEPALIVE_S = 50.0
WHOLE_BYTES_MAX = 512 * 1024
LINE_BYTES_MAX = 16 * 1024 * 1024

TRANSPORT_ERRORS = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    TimeoutError,
    OSError,
)
_UNSENT = (aiohttp.ClientConnectorError,)


class BrokenAnswerError(ConnectionError):
    """An answer ended before it was complete: the same as a lost connection."""


class BusyError(Exception):
    """The gateway can't just now (503); trying again makes sense."""

    def __init__(self, error: GlowplugError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Http:
    """The pool. Belongs to the background loop; every coroutine runs there."""

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
        body: bytes = b"",
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

    def session(self) -> aiohttp.ClientSession:
        """Return the pool, made at the first use."""
        if self._session is None:
            headers = {"User-Agent": "glowplug"}
            if self.profile.token:
                headers["Authorization"] = f"Bearer {self.profile.token}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=None
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                read_bufsize=256 * 1024,
            )
        return self._session


async def json_lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a body of JSON lines as they arrive.

    Raises: BrokenAnswerError for a line beyond LINE_BYTES_MAX.
    """
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise BrokenAnswerError(f"a line is longer than {LINE_BYTES_MAX} bytes")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if rest.strip():
        yield json.loads(rest)


def _sendable(body: bytes) -> bytes | io.BytesIO | None:
    # Large bytes are sent in pieces, so that other calls of the program go on meanwhile.
    return io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body or None


def refusal_of(answer: Answer) -> Exception:
    """Return the exception for an answer of 400 or more."""
    try:
        error = answer.json()["error"]
        code, message = str(error["code"]), str(error["message"])
        details, after = error.get("details") or {}, error.get("retry_after_s")
    except (ValueError, KeyError, TypeError):
        code, details, after = "", {}, None
        text = answer.body[:200].decode("utf-8", "replace")
        message = f"the gateway answered {answer.status}: {text}"
    if after is None and answer.headers.get("Retry-After", "").isdigit():
        after = float(answer.headers["Retry-After"])
    error_found = error_for(
        code, message, status=answer.status, details=details, retry_after_s=after
    )
    if answer.status == 503:  # noqa: PLR2004
        return BusyError(error_found)
    return error_found


def _unavailable(problem: Exception, profile: Profile) -> GlowplugError:
    if isinstance(problem, GlowplugError):
        return problem
    where = ", ".join(profile.urls)
    hint = "; `glowplug up` starts a platform here" if profile.name == LOCAL else ""
    return UnavailableError(f"no gateway answers at {where} ({_words(problem)}){hint}")


def _words(err: BaseException) -> str:
    return str(err) or type(err).__name__
