"""Asks one server of a registry one thing: logs in where it must, follows redirects, names what failed.

One question is one call here; who asks again, or somebody else, is `pulling`'s concern.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import weakref
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import Final
from urllib.parse import quote_plus

import aiohttp
import msgspec
from glowplug_contracts.errors import (
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
)
from glowplug_runtime.clock import Clock
from glowplug_runtime.guarding import ClosedAddressError

from glowplug_imagecache.registry import endpoints, redirects
from glowplug_imagecache.registry.challenge import (
    Challenge,
    choose_challenge,
    parse_challenges,
    read_token,
)
from glowplug_imagecache.registry.endpoints import Endpoint, Registries
from glowplug_imagecache.registry.logins import (
    BASIC_KEPT_S,
    Credentials,
    Login,
    LoginKey,
    Logins,
    login_key,
)
from glowplug_imagecache.registry.patience import AGAIN_STATUSES, TOO_MANY, parse_retry_after

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404
ANSWER_BYTES_MAX: Final = 256 * 1024
SAID_CHARS_MAX: Final = 200
PIECE_BYTES: Final = 1024 * 1024


class _Said(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: tuple[_Said, ...] = ()


class Asker:
    """Speaks to registries.

    Args:
        session: see `guarding.open_session`.
        registries: what operators said about them.
    """

    def __init__(
        self, session: aiohttp.ClientSession, registries: Registries, clock: Clock
    ) -> None:
        self._session = session
        self._registries = registries
        self._clock = clock
        self._logins = Logins()
        # One login at a time for each, so that ten layers do not fetch ten tokens.
        self._at_login: weakref.WeakValueDictionary[LoginKey, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    @contextlib.asynccontextmanager
    async def ask(
        self,
        endpoint: Endpoint,
        url: str,
        scope: str,
        credentials: Credentials | None,
        headers: Mapping[str, str],
        also: Collection[int] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful answer, or one with a status of `also`.

        Raises: UnauthenticatedError (registry.denied), NotFoundError (registry.not_found), OverloadedError
            (registry.rate_limited), UnavailableError (registry.unavailable), ForbiddenError
            (registry.forbidden); the last also from within the block, where a body breaks off.
        """
        key = login_key(endpoints.origin_of(url), scope, credentials)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_named(url))
            shown = self._logins.get(key, self._clock.now())
            answer = await self._send(stack, url, {**headers, **_authorization(shown)})
            if answer.status == UNAUTHORIZED and _from(answer, url):
                offered = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
                answer.release()
                shown = await self._log_in(key, choose_challenge(offered), url, credentials, shown)
                answer = await self._send(stack, url, {**headers, **_authorization(shown)})
                if answer.status == UNAUTHORIZED:
                    self._logins.drop(key, shown)
            if not answer.ok and answer.status not in also:
                raise await self._failure(answer, endpoint, url, with_password=bool(credentials))
            yield answer

    async def _log_in(
        self,
        key: LoginKey,
        challenge: Challenge | None,
        url: str,
        credentials: Credentials | None,
        refused: str,
    ) -> str:
        """Return another Authorization header than the one that was refused.

        Raises: UnauthenticatedError where there is none.
        """
        host = key.origin[1]
        if challenge is None:
            raise _denied(host, "asks for a login of a kind that is not known here")
        lock = self._at_login.setdefault(key, asyncio.Lock())
        async with lock:
            self._logins.drop(key, refused)
            if shown := self._logins.get(key, self._clock.now()):
                return shown  # somebody else just logged in
            if challenge.scheme == "bearer":
                login = await self._fetch_token(key, challenge, url, credentials)
            elif credentials is None:
                raise _denied(host, "asks for a name and a password")
            else:
                login = Login(credentials.basic, self._clock.now() + BASIC_KEPT_S)
            self._logins.put(key, login)
            return login.header

    async def _fetch_token(
        self, key: LoginKey, challenge: Challenge, url: str, credentials: Credentials | None
    ) -> Login:
        realm = endpoints.check_realm(url, challenge.parameters["realm"])
        fields = {"scope": challenge.parameters.get("scope") or key.scope}
        if service := challenge.parameters.get("service"):
            fields["service"] = service
        query = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items())
        asked = f"{realm}{'&' if '?' in realm else '?'}{query}"
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_named(realm))
            answer = await self._send(
                stack, asked, _authorization(credentials.basic if credentials else "")
            )
            if answer.status in (UNAUTHORIZED, FORBIDDEN):
                raise _denied(key.origin[1], "gives no token", await self._said(answer))
            if not answer.ok:
                raise await self._failure(
                    answer, None, realm, with_password=credentials is not None
                )
            token = read_token(await read_body(answer, ANSWER_BYTES_MAX), self._clock.now())
        return Login(f"Bearer {token.value}", token.until)

    async def _send(
        self, stack: contextlib.AsyncExitStack, url: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        answer = await redirects.get(stack, self._session, url, headers, self._registries.networks)
        if answer is None:
            raise UnavailableError(
                "registry.unavailable",
                f"{endpoints.shown_url(url)} redirects more than {redirects.REDIRECTS_MAX} times",
            )
        return answer

    async def _failure(
        self,
        answer: aiohttp.ClientResponse,
        endpoint: Endpoint | None,
        url: str,
        *,
        with_password: bool,
    ) -> PlatformError:
        host, status = endpoints.origin_of(url)[1], answer.status
        said = await self._said(answer)
        if not _from(answer, url) and status not in AGAIN_STATUSES:
            # Where a registry sends us may refuse what has grown old meanwhile: ask for another address.
            status = 503
        wait_s = parse_retry_after(answer.headers.get("Retry-After"), self._clock.unix())
        if status == UNAUTHORIZED:
            what = "refuses these credentials" if with_password else "wants credentials"
            return _denied(host, f"{what}, or has no such image", said)
        if status == FORBIDDEN:
            return _denied(host, "does not let this user pull the image", said)
        if status == NOT_FOUND:
            return NotFoundError("registry.not_found", f"{host} has no such image{said}")
        if status == TOO_MANY:
            return OverloadedError(
                "registry.rate_limited",
                f"{host} limits how often it is asked{said}",
                retry_after_s=wait_s,
            )
        if status in AGAIN_STATUSES:
            return UnavailableError(
                "registry.unavailable",
                f"{host} answered {answer.status}{said}",
                retry_after_s=wait_s,
            )
        mirror = " (a mirror)" if endpoint and endpoint.namespace else ""
        return InvalidRequestError(
            "registry.unsupported", f"{host}{mirror} answered {answer.status}{said}"
        )

    async def _said(self, answer: aiohttp.ClientResponse) -> str:
        """Return what a refusal says in words, short and printable, or ""."""
        try:
            body = await read_body(answer, ANSWER_BYTES_MAX)
            errors = msgspec.json.decode(body, type=_Errors).errors
        except (msgspec.MsgspecError, InvalidRequestError, RecursionError):
            return ""
        words = "; ".join(one.message or one.code for one in errors[:3])[:SAID_CHARS_MAX]
        return f": {''.join(c if c.isprintable() else ' ' for c in words)}" if words else ""


async def read_body(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """Return a whole body. Raises: InvalidRequestError (registry.unsupported) if it is longer."""
    body = bytearray()
    async for piece in answer.content.iter_chunked(PIECE_BYTES):
        body += piece
        if len(body) > bytes_max:
            raise InvalidRequestError(
                "registry.unsupported",
                f"{answer.url.host} sent an answer of over {bytes_max} bytes; no image has that",
            )
    return bytes(body)


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn what HTTP can fail with into our errors."""
    host = endpoints.origin_of(url)[1]
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as err:
        if isinstance(err.__cause__, ClosedAddressError):
            raise endpoints.forbidden(host) from err
        raise UnavailableError(
            "registry.unavailable", f"{host} does not answer: {_reason(err)}"
        ) from err


def _reason(err: Exception) -> str:
    """Return what went wrong, without the URL: a signed one is a secret."""
    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({str(err.certificate_error)[:SAID_CHARS_MAX]})"
    if isinstance(err, aiohttp.ClientConnectorSSLError):
        return "it speaks no TLS that we know; one without TLS must be named by the operator"
    if isinstance(err, aiohttp.ClientConnectorError):
        return str(err.os_error)[:SAID_CHARS_MAX]
    if isinstance(err, TimeoutError):
        return "not a byte in time"
    return f"it broke off ({type(err).__name__})"


def no_room(err: OSError) -> PlatformError | None:
    """Return what a full disk is called, or None for other errors."""
    if err.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return UnavailableError(
        "registry.no_room", "the disk of imagecache is full; nothing was kept of what broke off"
    )


def _from(answer: aiohttp.ClientResponse, url: str) -> bool:
    """Return whether an answer came from where the question went, not from a redirect."""
    return endpoints.origin_of(str(answer.url)) == endpoints.origin_of(url)


def _authorization(header: str) -> dict[str, str]:
    return {"Authorization": header} if header else {}


def _denied(host: str, why: str, said: str = "") -> UnauthenticatedError:
    return UnauthenticatedError("registry.denied", f"{host} {why}{said}")
