"""Files of volumes become events: `glowplug.volume.file.created` and `…changed`, for triggers that want them.

Every gateway that has the volumes looks at those of workspaces in which a deployed function wants such events.
An event's id follows from path and content, so what two gateways, or one before and after its restart, tell of
is one event. Files that were there before the function was deployed are not told of.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final

import msgspec
import structlog
from glowplug_contracts.eventmatch import parse_pattern
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.event import CloudEvent, DataForm

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.events import store_event
from glowplug_gateway.ports import Platform
from glowplug_gateway.volumes import Volumes
from glowplug_gateway.watching import Change, Watch

log = structlog.get_logger()

LOOK_S: Final = 0.5
TYPE: Final = "glowplug.volume.file."
KINDS: Final = ("created", "changed")


class VolumeEvents:
    """See the module."""

    def __init__(self, platform: Platform, catalog: Catalog, volumes: Volumes) -> None:
        self._platform = platform
        self._catalog = catalog
        self._volumes = volumes
        self._watches: dict[tuple[WorkspaceId, str], Watch] = {}
        self._warned: set[tuple[WorkspaceId, str]] = set()

    async def look(self) -> None:
        """Look once at every volume whose files somebody wants to hear of."""
        wanted: dict[WorkspaceId, float] = {}
        for deployment in self._catalog.active():
            if wants_files(deployment):
                first = wanted.get(deployment.workspace, deployment.created_at)
                wanted[deployment.workspace] = min(first, deployment.created_at)
        for workspace in {key[0] for key in self._watches} - wanted.keys():
            await self._forget(workspace)
        for workspace, since in wanted.items():
            for volume in await asyncio.to_thread(self._volumes.every, workspace):
                await self._look_at(workspace, str(volume["name"]), since)

    async def _look_at(self, workspace: WorkspaceId, name: str, since: float) -> None:
        found = await asyncio.to_thread(self._volumes.states, workspace, name)
        if found is None:
            if (workspace, name) not in self._warned:
                self._warned.add((workspace, name))
                log.warning("volume.too_large_to_watch", workspace=workspace, volume=name)
            return
        watch = self._watches.get((workspace, name))
        if watch is None:
            told = await asyncio.to_thread(self._volumes.read_told, workspace, name)
            if told is None:
                told = {p: s for p, s in found.items() if s.changed_ns < since * 1e9}
                await asyncio.to_thread(self._volumes.write_told, workspace, name, told)
            watch = self._watches[workspace, name] = Watch(told)
        before = dict(watch.told)
        for change in watch.step(found, self._platform.clock.now()):
            await store_event(self._platform, workspace, event_of(name, change))
            watch.tell(change)
        if watch.told != before:
            await asyncio.to_thread(self._volumes.write_told, workspace, name, watch.told)

    async def _forget(self, workspace: WorkspaceId) -> None:
        """Nobody wants to hear any more: what comes until somebody does again is not told of."""
        for key in [key for key in self._watches if key[0] == workspace]:
            del self._watches[key]
            await asyncio.to_thread(self._volumes.forget_told, *key)


def wants_files(deployment: Deployment) -> bool:
    """Return whether a function's trigger may match events of files."""
    trigger = deployment.spec.trigger
    if trigger is None or not deployment.latest:
        return False
    for pattern in trigger.patterns:
        about, glob = parse_pattern(pattern)
        if about == "subject" or any(glob.matches(TYPE + kind) for kind in KINDS):
            return True
    return False


def event_of(volume: str, change: Change) -> CloudEvent:
    """Return the event that tells of a change; the same content of a path has the same id."""
    state = change.state
    at = dt.datetime.fromtimestamp(state.changed_ns / 1e9, dt.UTC)
    data = {"volume": volume, "path": change.path, "size": state.size}
    return CloudEvent(
        id=f"{change.path}@{state.inode}-{state.changed_ns}-{state.size}",
        source=f"glowplug:volume/{volume}",
        type=TYPE + change.kind,
        subject=change.path,
        time=at.isoformat().replace("+00:00", "Z"),
        datacontenttype="application/json",
        form=DataForm.JSON,
        data=msgspec.json.encode(data),
    )
