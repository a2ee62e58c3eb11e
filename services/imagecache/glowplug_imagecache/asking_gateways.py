"""Asks a gateway for the credentials that a build's base needs: not in messages, but at the last moment.

Of the secrets that steps name only stamps are asked for: the worker that runs a step asks for the values itself.

Only the gateway that asked for the image knows the ask, and only while it waits for it. The values go into
requests to the registry and are kept nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import aiohttp
import msgspec
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.inside import BUILD_SECRETS, MODEL_TOKEN, PULL_CREDENTIALS
from glowplug_contracts.messages.model import ModelRecord

from glowplug_imagecache.registry.logins import Credentials

T = TypeVar("T")
OPEN_S: Final = 10.0
_OK: Final = 200
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500


class _Opened(msgspec.Struct):
    username: str
    password: str


class _Stamps(msgspec.Struct):
    stamps: dict[str, str]


class _Token(msgspec.Struct):
    token: str


class _Refusal(msgspec.Struct):
    code: str
    message: str


class _Refused(msgspec.Struct):
    error: _Refusal


class Gateways:
    """The gateways that are ready.

    Args:
        session: shows the internal token.
        urls: where they answer now.
    """

    def __init__(self, session: aiohttp.ClientSession, urls: Callable[[], Sequence[str]]) -> None:
        self._session = session
        self._urls = urls

    async def credentials(self, asks: Sequence[str]) -> Credentials:
        """Return what a build's secret holds; any of its askers' asks will do.

        Raises: RejectedError (the secret is gone, or holds no user and password), UnavailableError.
        """
        opened = await self._ask(PULL_CREDENTIALS, asks, _Opened, "the registry's credentials")
        return Credentials(opened.username, opened.password)

    async def stamps(self, asks: Sequence[str]) -> dict[str, str]:
        """Return, by name, which values the secrets of a build's steps have now; not the values.

        Raises: RejectedError (one is gone, or lacks a variable that is required), UnavailableError.
        """
        return (await self._ask(BUILD_SECRETS, asks, _Stamps, "the steps' secrets")).stamps

    async def model_token(self, record: ModelRecord) -> str:
        """Return the token that a model's pull may show to its source; "" where it names no secret.

        Raises: RejectedError (the secret is gone, or holds no token), UnavailableError.
        """
        pull = record.pull
        if pull is None or not pull.credentials:
            return ""
        path = MODEL_TOKEN.format(workspace=record.workspace, model=record.name, pull=pull.pull_id)
        why = "no gateway is ready"
        for url in self._urls():
            try:
                async with asyncio.timeout(OPEN_S), self._session.get(url + path) as answer:
                    data = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as err:
                why = f"{url}: {err!r}"
                continue
            if answer.status == _OK:
                return msgspec.json.decode(data, type=_Token).token
            refusal = _refusal(data, answer.status)
            if answer.status < _SERVER_ERROR:
                raise RejectedError(refusal.code, f"the source's token: {refusal.message}")
            why = refusal.message
        raise UnavailableError("platform.unavailable", f"the source's token: {why}")

    async def _ask(self, path: str, asks: Sequence[str], kind: type[T], what: str) -> T:
        why = "no gateway is ready"
        for url in self._urls():
            for ask in asks:
                try:
                    async with asyncio.timeout(OPEN_S):
                        found = await self._ask_one(url + path.format(ask=ask), kind, what)
                except (aiohttp.ClientError, TimeoutError, OSError) as err:
                    why = f"{url}: {err!r}"
                    continue
                if isinstance(found, kind):
                    return found
                why = str(found)
        raise UnavailableError("platform.unavailable", f"{what}: {why}", retry_after_s=1)

    async def _ask_one(self, url: str, kind: type[T], what: str) -> T | str:
        """Return it, or why this gateway has none to give."""
        async with self._session.get(url) as answer:
            data = await answer.read()
            if answer.status == _OK:
                return msgspec.json.decode(data, type=kind)
            refusal = _refusal(data, answer.status)
            if answer.status < _SERVER_ERROR and answer.status != _NOT_FOUND:
                raise RejectedError(refusal.code, f"{what}: {refusal.message}")
            return refusal.message


def _refusal(data: bytes, status: int) -> _Refusal:
    try:
        return msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        return _Refusal("platform.unavailable", f"a gateway answered {status}")
