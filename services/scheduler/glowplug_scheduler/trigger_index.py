"""Which names lead to triggers, and where the batches of each were cut last: the router's buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from glowplug_contracts.cloudevents import event_key
from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import DeploymentId, WorkspaceId
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentState,
    FunctionIndex,
    FunctionKind,
)
from glowplug_contracts.messages.event import RouterPosition, TriggerCursor
from glowplug_contracts.streams import DEPLOYMENTS, FUNCTIONS, TRIGGERS
from glowplug_contracts.subjects import EVENT, shard_of
from glowplug_contracts.triggered import DEPLOYMENTS_SOURCE, deployment_event
from glowplug_runtime.bus import Bus, KeyValue

from glowplug_scheduler.triggers import Key, TriggerLive

V = TypeVar("V")


class TriggerIndex:
    """What is stored about one shard's triggers."""

    def __init__(self, bus: Bus, shard: int, shards: int) -> None:
        self._bus = bus
        self._shard = shard
        self._shards = shards
        self._functions = bus.bucket(FUNCTIONS)
        self._deployments = bus.bucket(DEPLOYMENTS)
        self._cursors = bus.bucket(TRIGGERS)
        self._revisions: dict[Key, int] = {}

    # -- names ----------------------------------------------------------------------------------

    async def begin(self, position: RouterPosition) -> Sequence[TriggerLive]:
        """Return all triggers as a new owner finds them, who goes on from `position`."""
        found = []
        for index in await self._indexes():
            deployment = await self._deployment(index.workspace, index.latest)
            if deployment is None or deployment.spec.trigger is None:
                continue
            # A name with one version has no past: what came before it was deployed is not for it.
            after = await self._deployed_at(deployment) if len(index.versions) == 1 else 0
            cursor = await self.cursor(deployment)
            if deployment.spec.trigger.batch:
                if cursor is None or cursor.ended:
                    start = max(position.sequence, after)
                    cursor = await self.restart(deployment, cursor, start, ended=False)
            elif cursor is None or cursor.ended:
                after = max(after, position.sequence)
            else:
                after = max(after, cursor.since)
            found.append(TriggerLive(deployment, after, cursor or TriggerCursor()))
        return found

    async def moved(self, known: Mapping[Key, Deployment | None]) -> Sequence[Key]:
        """Return the names that lead elsewhere than the router believes."""
        stored = {(i.workspace, i.name): i.latest for i in await self._indexes()}
        believed = {key: d.deployment_id for key, d in known.items() if d is not None}
        return [
            key for key in stored.keys() | believed.keys() if stored.get(key) != believed.get(key)
        ]

    async def live(self, workspace: WorkspaceId, name: str) -> Deployment | None:
        """Return the version that a name leads to, if it has a trigger."""
        entry = await self._functions.get(f"{workspace}.{name}")
        if entry is None or entry.value is None:
            return None
        found = await self._deployment(workspace, entry.value.latest)
        return found if found is not None and found.spec.trigger is not None else None

    async def active(self, deployment: Deployment) -> bool:
        """Return whether a version is not deleted."""
        found = await self._deployment(deployment.workspace, deployment.deployment_id)
        return found is not None

    async def _indexes(self) -> Sequence[FunctionIndex]:
        entries = [entry.value for entry in await self._functions.entries()]
        return [
            index
            for index in entries
            if index is not None
            and index.kind is FunctionKind.ON_EVENT
            and shard_of(index.workspace, self._shards) == self._shard
        ]

    async def _deployment(
        self, workspace: WorkspaceId, deployment_id: DeploymentId
    ) -> Deployment | None:
        entry = await self._deployments.get(f"{workspace}.{deployment_id}")
        if entry is None or entry.value is None or entry.value.state is DeploymentState.DELETED:
            return None
        return entry.value

    async def _deployed_at(self, deployment: Deployment) -> int:
        told = deployment_event(deployment.spec.name, deployment.deployment_id, deleted=False)
        at = EVENT.at(
            shard=self._shard,
            workspace=deployment.workspace,
            event_id=event_key(deployment.workspace, DEPLOYMENTS_SOURCE, told.id),
        )
        found = await self._bus.last(at)
        return found.sequence if found is not None else 0

    # -- cuts -----------------------------------------------------------------------------------

    async def cursor(self, deployment: Deployment) -> TriggerCursor | None:
        """Return what is stored of a trigger's batches."""
        key = (deployment.workspace, deployment.spec.name)
        entry = await self._cursors.get(".".join(key))
        self._revisions[key] = entry.revision if entry is not None else 0
        return entry.value if entry is not None else None

    async def restart(
        self, deployment: Deployment, cursor: TriggerCursor | None, at: int, *, ended: bool
    ) -> TriggerCursor:
        """Store that a trigger's batches begin (or end) at a sequence. Raises: ConflictError."""
        if cursor is None and ended:
            return TriggerCursor()  # there never were any
        until = max(at, cursor.until if cursor is not None else 0)
        restarted = TriggerCursor(
            since=until, until=until, deployment_id=deployment.deployment_id, ended=ended
        )
        await self.write_cursor(deployment.workspace, deployment.spec.name, restarted)
        return restarted

    async def write_cursor(self, workspace: WorkspaceId, name: str, cursor: TriggerCursor) -> None:
        """Store a cut. Raises: ConflictError (another owner has cut)."""
        key = (workspace, name)
        revision = self._revisions.get(key, 0)
        self._revisions[key] = await store(self._cursors, ".".join(key), cursor, revision)


async def store(bucket: KeyValue[V], key: str, value: V, revision: int) -> int:
    """Write a key that is still at `revision` (0: not there); return the new one.

    Raises: ConflictError, unless what stands there is what we wanted: an answer was lost then.
    """
    try:
        if revision:
            return await bucket.update(key, value, revision)
        return await bucket.create(key, value)
    except ConflictError:
        found = await bucket.get(key)
        if found is not None and found.value == value:
            return found.revision
        raise
