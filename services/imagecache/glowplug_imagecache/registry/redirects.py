"""Follow redirects as strangers may be followed: each address is checked, credentials go to the first origin only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import yarl
from glowplug_contracts.addresses import Network

from glowplug_imagecache.registry import endpoints

REDIRECTS_MAX: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


async def get(
    stack: contextlib.AsyncExitStack,
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    networks: Sequence[Network],
) -> aiohttp.ClientResponse | None:
    """Return the answer after redirects, which `stack` closes; None after more than REDIRECTS_MAX.

    Args:
        headers: its Authorization is shown to the first origin only.
        networks: beside public addresses, what may be asked.

    Raises: what `endpoints` does for an address that may not be asked; aiohttp's errors.
    """
    shown, home = dict(headers), endpoints.origin_of(url)
    for _ in range(REDIRECTS_MAX + 1):
        endpoints.check_address(url, networks)
        # What is percent-encoded in a signed URL must stay so.
        request = session.get(yarl.URL(url, encoded=True), headers=shown, allow_redirects=False)
        answer = await stack.enter_async_context(request)
        if answer.status not in _REDIRECTS:
            return answer
        location = answer.headers.get("Location", "")
        answer.release()
        url = endpoints.follow(url, location)
        if endpoints.origin_of(url) != home:
            # Also when a later redirect leads back: who is in between chose where to.
            shown.pop("Authorization", None)
    return None
