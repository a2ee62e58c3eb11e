"""The HTTP session of pulls, which reaches the addresses that it may and no others."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
from glowplug_contracts.addresses import Network
from glowplug_runtime.guarding import GuardedResolver

from glowplug_imagecache.registry.patience import Patience

CONNECTIONS_MAX = 64
CONNECTIONS_PER_HOST_MAX = 16
AGENT = "glowplug-imagecache"


def open_session(networks: Sequence[Network], patience: Patience) -> aiohttp.ClientSession:
    """Return an HTTP session for registries; close it with `async with`.

    Bodies come as they are (a layer's gzip is part of its name), no cookie is kept, and there is no limit
    on a whole download, only on silence in it.
    """
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(networks, "registry_networks"),
        limit=CONNECTIONS_MAX,
        limit_per_host=CONNECTIONS_PER_HOST_MAX,
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=patience.connect_s, sock_read=patience.stalled_s
        ),
    )
