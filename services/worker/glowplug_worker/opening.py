"""Ask a gateway for the secrets of a container that starts: not in messages, but at the last moment.

The values go from here into the runner's first frame and are kept nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec
from glowplug_contracts.errors import RejectedError, UnavailableError

from glowplug_worker.door import Gateways

PATH: Final = "/api/v1/container/environment"
OPEN_S: Final = 10.0
_SERVER_ERROR: Final = 500
_OK: Final = 200


class _Opened(msgspec.Struct):
    environment: dict[str, str]


class _Refusal(msgspec.Struct):
    code: str
    message: str


class _Refused(msgspec.Struct):
    error: _Refusal


async def open_secrets(gateways: Gateways, who: Mapping[str, str]) -> dict[str, str]:
    """Return the variables; `who` are the headers that name the container.

    Raises: UnavailableError (trying again makes sense), RejectedError (it does not).
    """
    session, why = gateways.session(), "no gateway is ready"
    for url in gateways.urls() if session is not None else ():
        assert session is not None  # noqa: S101
        try:
            async with asyncio.timeout(OPEN_S), session.get(url + PATH, headers=who) as answer:
                data = await answer.read()
                if answer.status == _OK:
                    return msgspec.json.decode(data, type=_Opened).environment
                refusal = _refusal(data, answer.status)
                if answer.status < _SERVER_ERROR:
                    raise RejectedError(refusal.code, f"the container's secrets: {refusal.message}")
                why = refusal.message
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            why = f"{url}: {err!r}"
    raise UnavailableError(
        "platform.unavailable", f"the container's secrets: {why}", retry_after_s=1
    )


def _refusal(data: bytes, status: int) -> _Refusal:
    try:
        return msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        return _Refusal("platform.unavailable", f"a gateway answered {status}")
