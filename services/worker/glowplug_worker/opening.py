"""Ask a gateway for the secrets of a container that starts, or of a build's step: not in messages, and late.

The values go from here into the frame that starts the runner or the step's command, and are kept nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import msgspec
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.inside import BUILD_SECRET

from glowplug_worker.door import Gateways

PATH: Final = "/api/v1/container/environment"
OPEN_S: Final = 10.0
_SERVER_ERROR: Final = 500
_OK: Final = 200
_NOT_FOUND: Final = 404


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
    return await _open(gateways, [PATH], who, "the container's secrets")


async def open_build_secrets(
    gateways: Gateways, asks: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """Return the variables of secrets that a build's step names; later ones win.

    Raises: UnavailableError (trying again makes sense), RejectedError (it does not).
    """
    found: dict[str, str] = {}
    for name in names:
        paths = [BUILD_SECRET.format(ask=ask, secret=name) for ask in asks]
        found |= await _open(gateways, paths, {}, f"secret {name}")
    return found


async def _open(
    gateways: Gateways, paths: Sequence[str], who: Mapping[str, str], what: str
) -> dict[str, str]:
    """Return what one gateway answers to one of the paths; one that knows nothing of it answers 404."""
    session, why = gateways.session(), "no gateway is ready"
    for url in [url + path for url in gateways.urls() for path in paths]:
        if session is None:
            break
        try:
            async with asyncio.timeout(OPEN_S), session.get(url, headers=who) as answer:
                data = await answer.read()
                if answer.status == _OK:
                    return msgspec.json.decode(data, type=_Opened).environment
                refusal = _refusal(data, answer.status)
                elsewhere = answer.status == _NOT_FOUND and not who
                if answer.status < _SERVER_ERROR and not elsewhere:
                    raise RejectedError(refusal.code, f"{what}: {refusal.message}")
                why = refusal.message
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            why = f"{url}: {err!r}"
    raise UnavailableError("platform.unavailable", f"{what}: {why}", retry_after_s=1)


def _refusal(data: bytes, status: int) -> _Refusal:
    try:
        return msgspec.json.decode(data, type=_Refused).error
    except msgspec.MsgspecError:
        return _Refusal("platform.unavailable", f"a gateway answered {status}")
