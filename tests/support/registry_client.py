"""A registry client for tests: it may reach this host, and does not wait long."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Mapping, Sequence

from glowplug_imagecache.registry import pulling
from glowplug_imagecache.registry.endpoints import Registries
from glowplug_imagecache.registry.patience import Patience
from glowplug_imagecache.registry.pulling import Puller
from glowplug_runtime.clock import Clock

HERE = (ipaddress.ip_network("127.0.0.0/8"),)
QUICK = Patience(first_pause_s=0.001, pause_max_s=0.002, connect_s=30.0, stalled_s=30.0)


@contextlib.asynccontextmanager
async def open_puller(
    mirrors: Mapping[str, Sequence[str]] | None = None,
    patience: Patience = QUICK,
    *,
    networks: Sequence[ipaddress.IPv4Network] = HERE,
) -> AsyncIterator[Puller]:
    """Yield a client; `networks` are the closed addresses that it may reach."""
    registries = Registries(mirrors=mirrors or {}, networks=tuple(networks))
    async with pulling.open_puller(registries, Clock(), patience) as puller:
        yield puller
