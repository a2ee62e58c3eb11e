"""Which deployments there are: a copy of two buckets that follows them, for the hot path.

What this gateway writes it sees at once; what another one wrote comes by the watch, and a lookup that
misses asks the buckets themselves before it says "not found".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

from glowplug_contracts.errors import ConflictError, NotFoundError
from glowplug_contracts.ids import DeploymentId, WorkspaceId, check_id, check_name
from glowplug_contracts.messages.deployment import Deployment, DeploymentState, FunctionIndex
from glowplug_contracts.streams import DEPLOYMENTS, FUNCTIONS
from glowplug_runtime.bus import Bus, Entry

from glowplug_gateway.ephemeral import is_due, used
from glowplug_gateway.ports import Time

LATEST = "latest"
_VERSION = re.compile(r"v([0-9]{1,9})")
# Others that note the same use at the same time.
USE_TRIES_MAX = 20


class Catalog:
    """See the module.

    Args:
        ephemeral_keep_s: after so long without work an ephemeral version may be ended (`ephemeral.py`).
    """

    def __init__(self, bus: Bus, clock: Time, ephemeral_keep_s: float) -> None:
        self._clock = clock
        self.ephemeral_keep_s = ephemeral_keep_s
        self._deployments = bus.bucket(DEPLOYMENTS)
        self._functions = bus.bucket(FUNCTIONS)
        self._by_key: dict[str, Entry[Deployment]] = {}
        self._by_name: dict[str, Entry[FunctionIndex]] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follow the buckets while the context is open."""
        subscriptions = [
            await self._deployments.watch(self._on_deployment),
            await self._functions.watch(self._on_function),
        ]
        try:
            yield
        finally:
            for subscription in subscriptions:
                await subscription.close()

    async def _on_deployment(self, entry: Entry[Deployment]) -> None:
        self.learn_deployment(entry)

    async def _on_function(self, entry: Entry[FunctionIndex]) -> None:
        self.learn_function(entry)

    def learn_deployment(self, entry: Entry[Deployment]) -> None:
        """Take in an entry unless a newer one is known (watches repeat and lag)."""
        known = self._by_key.get(entry.key)
        if known is None or known.revision <= entry.revision:
            self._by_key[entry.key] = entry

    def learn_function(self, entry: Entry[FunctionIndex]) -> None:
        """Likewise for names."""
        known = self._by_name.get(entry.key)
        if known is None or known.revision <= entry.revision:
            self._by_name[entry.key] = entry

    # -- looking up -----------------------------------------------------------------------------

    async def by_id(self, workspace: WorkspaceId, deployment_id: str) -> Deployment:
        """Return an active deployment. Raises: NotFoundError, InvalidRequestError (no such id)."""
        key = f"{workspace}.{deployment_id}"
        entry = self._by_key.get(key)
        if entry is None or entry.value is None:
            check_id("deployment", deployment_id)
            found = await self._deployments.get(key)
            if found is None or found.value is None:
                raise _unknown(deployment_id)
            self.learn_deployment(found)
            entry = found
        deployment = entry.value
        if deployment is None or deployment.state is DeploymentState.DELETED:
            raise _unknown(deployment_id)
        return deployment

    async def by_name(self, workspace: WorkspaceId, name: str, version: str = LATEST) -> Deployment:
        """Return a name's version: "latest", or "v3". Raises: NotFoundError."""
        key = f"{workspace}.{name}"
        entry = self._by_name.get(key)
        if entry is None or entry.value is None:
            check_name(name)
            entry = await self._functions.get(key)
            if entry is None or entry.value is None:
                raise _unknown(name)
            self.learn_function(entry)
        index = entry.value
        if index is None:
            raise _unknown(name)
        if version == LATEST:
            deployment_id: DeploymentId | None = index.latest
        else:
            found = _VERSION.fullmatch(version)
            deployment_id = index.versions.get(int(found[1])) if found else None
        if not deployment_id:
            raise _unknown(f"{name}/{version}")
        return await self.by_id(workspace, deployment_id)

    async def find(self, workspace: WorkspaceId, reference: str) -> Deployment:
        """Return what an id or a name (its latest version) stands for. Raises: NotFoundError."""
        if reference.startswith("dep_"):
            return await self.by_id(workspace, reference)
        return await self.by_name(workspace, reference)

    async def to_call(self, workspace: WorkspaceId, reference: str) -> Deployment:
        """Return what work is about to be sent to; an ephemeral version lives on by it.

        Raises: NotFoundError.
        """
        found = await self.find(workspace, reference)
        return await self.use(found) if found.ephemeral else found

    async def use(self, found: Deployment) -> Deployment:
        """Note that an ephemeral version is used, if that is not noted yet. Raises: NotFoundError (it ended)."""
        for _ in range(USE_TRIES_MAX):
            now = self._clock.unix()
            if not is_due(found, now, self.ephemeral_keep_s):
                return found
            entry = await self.entry(found.workspace, found.deployment_id)
            if entry is None or entry.value is None or entry.value.state is DeploymentState.DELETED:
                raise _unknown(found.deployment_id)
            found = entry.value
            with contextlib.suppress(ConflictError):
                await self.write_deployment(used(found, now), entry.revision)
                return used(found, now)
        raise ConflictError("deployment.conflict", f"{found.spec.name} changes too fast; try again")

    async def index(self, workspace: WorkspaceId, name: str) -> Entry[FunctionIndex] | None:
        """Return a name's index as stored now, for compare-and-set."""
        return await self._functions.get(f"{workspace}.{name}")

    async def entry(self, workspace: WorkspaceId, deployment_id: str) -> Entry[Deployment] | None:
        """Return a deployment as stored now, for compare-and-set."""
        return await self._deployments.get(f"{workspace}.{deployment_id}")

    def deployments(self, workspace: WorkspaceId) -> list[Deployment]:
        """Return all known versions that are not deleted, oldest first."""
        found = [
            entry.value
            for key, entry in self._by_key.items()
            if key.startswith(f"{workspace}.")
            and entry.value is not None
            and entry.value.state is DeploymentState.ACTIVE
        ]
        return sorted(found, key=lambda one: (one.created_at, one.deployment_id))

    def active(self) -> list[Deployment]:
        """Return all known versions of all workspaces that are not deleted."""
        found = [entry.value for entry in self._by_key.values() if entry.value is not None]
        return [one for one in found if one.state is DeploymentState.ACTIVE]

    def ephemerals(self) -> list[Entry[Deployment]]:
        """Return all known ephemeral versions of all workspaces, ended ones too."""
        entries = list(self._by_key.values())
        return [one for one in entries if one.value is not None and one.value.ephemeral]

    def functions(self) -> list[FunctionIndex]:
        """Return all known names."""
        return [entry.value for entry in self._by_name.values() if entry.value is not None]

    # -- writing --------------------------------------------------------------------------------

    async def write_deployment(self, deployment: Deployment, revision: int | None) -> int:
        """Write a version (0: must be new; None: whatever was there). Raises: ConflictError."""
        key = f"{deployment.workspace}.{deployment.deployment_id}"
        bucket = self._deployments
        if revision is None:
            written = await bucket.put(key, deployment)
        elif revision == 0:
            written = await bucket.create(key, deployment)
        else:
            written = await bucket.update(key, deployment, revision)
        self.learn_deployment(Entry(key=key, value=deployment, revision=written))
        return written

    async def remove_deployment(self, deployment: Deployment, revision: int) -> None:
        """Forget a version. Raises: ConflictError."""
        key = f"{deployment.workspace}.{deployment.deployment_id}"
        await self._deployments.delete(key, revision)
        self.learn_deployment(Entry(key=key, value=None, revision=revision + 1))

    async def write_function(self, index: FunctionIndex, revision: int) -> int:
        """Write a name's index by compare-and-set (0: must be new). Raises: ConflictError."""
        key = f"{index.workspace}.{index.name}"
        bucket = self._functions
        if revision == 0:
            written = await bucket.create(key, index)
        else:
            written = await bucket.update(key, index, revision)
        self.learn_function(Entry(key=key, value=index, revision=written))
        return written

    async def remove_function(self, index: FunctionIndex, revision: int) -> None:
        """Forget a name. Raises: ConflictError."""
        key = f"{index.workspace}.{index.name}"
        await self._functions.delete(key, revision)
        self.learn_function(Entry(key=key, value=None, revision=revision + 1))


def _unknown(reference: str) -> NotFoundError:
    return NotFoundError("deployment.not_found", f"nothing is deployed as {reference[:96]!r}")
