"""End ephemeral versions that nothing uses: the shell of `ephemeral`. Every gateway looks; the first one does it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import structlog
from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.deployment import Deployment, DeploymentState
from glowplug_runtime.bus import Entry

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.ephemeral import fate
from glowplug_gateway.ports import Time

log = structlog.get_logger()

LOOK_S = 300.0
# Dispatchers tell each second what waits: a gateway that has just begun has not heard of all of it.
LISTEN_FIRST_S = 60.0


class Ending:
    """See the module.

    Args:
        busy: whether anything of a version waits or runs, as the dispatchers said last.
    """

    def __init__(self, catalog: Catalog, clock: Time, busy: Callable[[DeploymentId], bool]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._busy = busy
        self._began_at = clock.now()

    async def look(self) -> None:
        """End or forget what it is time for."""
        if self._clock.now() - self._began_at < LISTEN_FIRST_S:
            return
        for entry in self._catalog.ephemerals():
            if entry.value is not None:
                with contextlib.suppress(ConflictError):  # it is used, or another gateway was first
                    await self._settle(entry, entry.value)

    async def _settle(self, entry: Entry[Deployment], version: Deployment) -> None:
        match fate(
            version,
            self._clock.unix(),
            self._catalog.ephemeral_keep_s,
            busy=self._busy(version.deployment_id),
        ):
            case "end":
                ended = msgspec.structs.replace(
                    version, state=DeploymentState.DELETED, latest=False
                )
                await self._catalog.write_deployment(ended, entry.revision)
                log.info(
                    "deployment.unused", deployment_id=version.deployment_id, name=version.spec.name
                )
            case "forget":
                await self._catalog.remove_deployment(version, entry.revision)
            case "keep":
                pass
