"""Asks a gateway for the credentials that a build's base needs: not in messages, but at the last moment.

Only the gateway that asked for the image knows the ask, and only while it waits for it. The values go into
requests to the registry and are kept nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import msgspec
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.inside import MODEL_TOKEN, PULL_CREDENTIALS
from glowplug_contracts.messages.model import ModelRecord

from glowplug_imagecache.registry.logins import Credentials

OPEN_S: Final = 10.0
_OK: Final = 200
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500


class _Opened(msgspec.Struct):
    username: str
    password: str


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
        why = "no gateway is ready"
        for url in self._urls():
            for ask in asks:
                try:
                    async with asyncio.timeout(OPEN_S):
                        found = await self._credentials(url, ask)
                except (aiohttp.ClientError, TimeoutError, OSError) as err:
                    why = f"{url}: {err!r}"
                    continue
                if isinstance(found, Credentials):
                    return found
                why = found
        raise UnavailableError(
            "platform.unavailable", f"the registry's credentials: {why}", retry_after_s=1
        )

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

    async def _credentials(self, url: str, ask: str) -> Credentials | str:
        """Return them, or why this gateway has none to give."""
        async with self._session.get(url + PULL_CREDENTIALS.format(ask=ask)) as answer:
            data = await answer.read()
            if answer.status == _OK:
                opened = msgspec.json.decode(data, type=_Opened)
                return Credentials(opened.username, opened.password)
            refusal = _refusal(data, answer.status)
            if answer.status < _SERVER_ERROR and answer.status != _NOT_FOUND:
                raise RejectedError(refusal.code, f"the registry's credentials: {refusal.message}")
            return refusal.message


def _refusal(data: bytes, status: int) -> _Refusal:
    try:
        return msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        return _Refusal("platform.unavailable", f"a gateway answered {status}")
