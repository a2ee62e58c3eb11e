"""Make versions: image first, then the version, then the name that leads to it.

The name's index is the truth about versions; it is changed by compare-and-set, which gives out version
numbers. The `latest` flag of a version follows the index: it is written after it, and `mend_flags` repairs
what a gateway that died in between left behind. Nothing that a name does not lead to is `latest`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from blake3 import blake3
from glowplug_contracts.codec import UNREADABLE, encode
from glowplug_contracts.errors import ConflictError, InvalidRequestError, NotFoundError
from glowplug_contracts.eventmatch import check_trigger
from glowplug_contracts.ids import DeploymentId, WorkspaceId, check_name, derive_id
from glowplug_contracts.messages.deployment import (
    STEP_KINDS,
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionIndex,
    FunctionKind,
    SecretRef,
)
from glowplug_contracts.messages.image import BuildProgress
from glowplug_contracts.messages.sandbox import SandboxSpec
from glowplug_contracts.streams import SCHEDULE_STATES

from glowplug_gateway.blobs import Blobs
from glowplug_gateway.bounds import check_deployment
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.events import tell_deployment
from glowplug_gateway.images import PLATFORM_PYTHON, ImageReady, Images
from glowplug_gateway.inputs import check_specs, invalid
from glowplug_gateway.models import Models
from glowplug_gateway.mounts import check_mounts
from glowplug_gateway.ports import Platform
from glowplug_gateway.reaching import check_network
from glowplug_gateway.schedule_specs import check_schedule
from glowplug_gateway.secrets import LOGIN_KEYS, Secrets
from glowplug_gateway.volumes import Volumes

WRITES_MAX = 50

_SPEC = msgspec.json.Decoder(DeploymentSpec)


class Deployer:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        images: Images,
        blobs: Blobs,
        secrets: Secrets,
        volumes: Volumes,
        models: Models,
    ) -> None:
        self._models = models
        self._secrets = secrets
        self._volumes = volumes
        self._platform = platform
        self._catalog = catalog
        self._images = images
        self._blobs = blobs

    async def prepare(self, workspace: WorkspaceId, spec: DeploymentSpec | SandboxSpec) -> None:
        """Make the volumes that the spec names, and see that its secrets and models are there.

        Raises: InvalidRequestError, NotFoundError or ConflictError naming what is missing.
        """
        await self._models.check(workspace, spec.models)
        await self._secrets.check(workspace, spec.secrets)
        await self._secrets.check(workspace, spec.image.secrets())
        if spec.image.credentials:
            login = SecretRef(name=spec.image.credentials, required_keys=LOGIN_KEYS)
            await self._secrets.check(workspace, (login,))
        for mount in spec.volumes:
            await asyncio.to_thread(self._volumes.ensure, workspace, mount.name)

    async def known_ephemeral(
        self, workspace: WorkspaceId, spec: DeploymentSpec
    ) -> Deployment | None:
        """Return the ephemeral version of this spec, if it was made before."""
        entry = await self._catalog.entry(workspace, ephemeral_id(workspace, spec))
        if entry is None or entry.value is None or entry.value.state is DeploymentState.DELETED:
            return None
        self._catalog.learn_deployment(entry)
        with contextlib.suppress(NotFoundError):
            return await self._catalog.use(entry.value)
        return None

    async def keep_source(self, workspace: WorkspaceId, spec: DeploymentSpec) -> None:
        """Keep every blob that the spec names for ever.

        Raises: InvalidRequestError if one is not stored, or is another workspace's.
        """
        source = spec.source
        named = [source.blob, source.pickled, source.on_start_pickled, source.on_exit_pickled]
        named += spec.image.blobs()
        await self._blobs.of(workspace).keep_all(named)

    async def deploy(
        self, workspace: WorkspaceId, spec: DeploymentSpec, *, ephemeral: bool
    ) -> AsyncIterator[BuildProgress | Deployment]:
        """Yield what happens to the image, and at last the deployment.

        Raises: whatever the image build or the writes raise.
        """
        image = ImageReady()
        async for one in self._images.ensure(spec.image, workspace):
            if isinstance(one, ImageReady):
                image = one
            else:
                yield one
        check_python(spec, image.base_python)
        if ephemeral:
            yield await self._write_ephemeral(workspace, spec, image)
        else:
            yield await self._write_version(workspace, spec, image)

    async def delete(self, workspace: WorkspaceId, reference: str) -> list[DeploymentId]:
        """Delete a version by id, or a name with all its versions. Raises: NotFoundError."""
        found = await self._catalog.find(workspace, reference)
        if reference == found.deployment_id:
            doomed = [found.deployment_id]
        else:
            entry = await self._catalog.index(workspace, found.spec.name)
            doomed = list(entry.value.versions.values()) if entry and entry.value else []
        if not found.ephemeral:
            await self._unname(workspace, found.spec.name, frozenset(doomed))
        for deployment_id in doomed:
            await self._change(workspace, deployment_id, state=DeploymentState.DELETED)
        await self._mend(workspace, found.spec.name)
        if found.spec.kind is FunctionKind.ON_EVENT and not found.ephemeral:
            await tell_deployment(self._platform, found, deleted=True)
        left = await self._catalog.index(workspace, found.spec.name)
        if found.spec.kind is FunctionKind.SCHEDULE and not found.ephemeral and left is None:
            # A schedule made anew under this name begins anew; the scheduler would forget it later.
            await self._platform.bus.bucket(SCHEDULE_STATES).delete(
                f"{workspace}.{found.spec.name}"
            )
        return doomed

    async def mend_flags(self) -> None:
        """Make every version's `latest` flag what its name's index says."""
        for index in self._catalog.functions():
            await self._mend(index.workspace, index.name)

    # -- writing --------------------------------------------------------------------------------

    async def _write_ephemeral(
        self, workspace: WorkspaceId, spec: DeploymentSpec, image: ImageReady
    ) -> Deployment:
        deployment = Deployment(
            deployment_id=ephemeral_id(workspace, spec),
            workspace=workspace,
            version=0,
            spec=spec,
            image_digest=image.image_digest,
            base_python=image.base_python,
            ephemeral=True,
            created_at=self._platform.clock.unix(),
        )
        # The same spec gives the same value but for its time: whoever writes last is right, too.
        await self._catalog.write_deployment(deployment, None)
        return deployment

    async def _write_version(
        self, workspace: WorkspaceId, spec: DeploymentSpec, image: ImageReady
    ) -> Deployment:
        for _ in range(WRITES_MAX):
            entry = await self._catalog.index(workspace, spec.name)
            known = entry.value if entry is not None else None
            index = known or FunctionIndex(name=spec.name, workspace=workspace, kind=spec.kind)
            deployment = Deployment(
                deployment_id=DeploymentId(self._platform.clock.id("deployment")),
                workspace=workspace,
                version=index.next_version,
                spec=spec,
                image_digest=image.image_digest,
                base_python=image.base_python,
                latest=False,
                created_at=self._platform.clock.unix(),
            )
            await self._catalog.write_deployment(deployment, 0)
            changed = msgspec.structs.replace(
                index,
                kind=spec.kind,
                app=spec.app,
                latest=deployment.deployment_id,
                versions=index.versions | {deployment.version: deployment.deployment_id},
                next_version=index.next_version + 1,
            )
            try:
                revision = entry.revision if entry is not None and known is not None else 0
                await self._catalog.write_function(changed, revision)
            except ConflictError:
                await self._change(
                    workspace, deployment.deployment_id, state=DeploymentState.DELETED
                )
                continue
            await self._mend(workspace, spec.name)
            if FunctionKind.ON_EVENT in (spec.kind, index.kind):
                await tell_deployment(self._platform, deployment, deleted=False)
            return msgspec.structs.replace(deployment, latest=True)
        raise ConflictError(
            "deployment.conflict",
            f"{spec.name} was deployed by others {WRITES_MAX} times meanwhile",
        )

    async def _unname(
        self, workspace: WorkspaceId, name: str, doomed: frozenset[DeploymentId]
    ) -> None:
        """Take versions out of the name's index; without any left the name goes, too."""
        for _ in range(WRITES_MAX):
            entry = await self._catalog.index(workspace, name)
            if entry is None or entry.value is None:
                return
            left = {n: one for n, one in entry.value.versions.items() if one not in doomed}
            try:
                if left:
                    changed = msgspec.structs.replace(
                        entry.value, versions=left, latest=left[max(left)]
                    )
                    await self._catalog.write_function(changed, entry.revision)
                else:
                    await self._catalog.remove_function(entry.value, entry.revision)
            except ConflictError:
                continue
            return
        raise ConflictError("deployment.conflict", f"{name} is being deployed; try again")

    async def _mend(self, workspace: WorkspaceId, name: str) -> None:
        """Set the flags of a name's versions: first the new latest, then the others."""
        entry = await self._catalog.index(workspace, name)
        if entry is None or entry.value is None:
            return
        latest = entry.value.latest
        others = [one for one in entry.value.versions.values() if one != latest]
        for deployment_id in (latest, *others):
            await self._change(workspace, deployment_id, latest=deployment_id == latest)

    async def _change(
        self,
        workspace: WorkspaceId,
        deployment_id: DeploymentId,
        *,
        latest: bool | None = None,
        state: DeploymentState | None = None,
    ) -> None:
        for _ in range(WRITES_MAX):
            entry = await self._catalog.entry(workspace, deployment_id)
            if entry is None or entry.value is None:
                return
            was = entry.value
            now = msgspec.structs.replace(
                was,
                latest=was.latest if latest is None else latest,
                state=was.state if state is None else state,
            )
            if now.state is DeploymentState.DELETED:
                now = msgspec.structs.replace(now, latest=False)
            if now == was:
                return
            try:
                await self._catalog.write_deployment(now, entry.revision)
            except ConflictError:
                continue
            return


def ephemeral_id(workspace: WorkspaceId, spec: DeploymentSpec) -> DeploymentId:
    """Return the id that stands for a spec: equal specs, equal ids."""
    key = blake3(workspace.encode() + b"\0" + encode(spec, "msgpack")).digest(length=16)
    return DeploymentId(derive_id("deployment", key))


def read_spec(data: bytes) -> DeploymentSpec:
    """Return the spec that a door was given as JSON. Raises: InvalidRequestError."""
    try:
        spec = _SPEC.decode(data)
    except UNREADABLE as err:
        raise InvalidRequestError(
            "request.invalid",
            f"the body is no deployment: {err}",
            details={"fields": {"": str(err)}},
        ) from err
    check_spec(spec)
    return spec


def check_spec(spec: DeploymentSpec) -> None:
    """Raise InvalidRequestError unless the spec can be deployed."""
    check_name(spec.name)
    if spec.app:
        check_name(spec.app, "app")
    source = spec.source
    wrong = check_deployment(spec)
    if not source.handler and source.pickled is None:
        wrong["source"] = "names no handler and holds no function by value"
    if source.handler and source.blob is None and source.pickled is None:
        wrong["source.blob"] = "is missing: the handler is in no archive"
    for number, step in enumerate(spec.image.steps):
        if step.kind not in STEP_KINDS:
            wrong[f"image.steps[{number}].kind"] = f"{step.kind!r} is no kind of step"
    wrong |= check_mounts(spec.volumes, spec.models)
    wrong |= check_network(spec.network)
    wrong |= _check_kind(spec)
    wrong |= check_schedule(spec)
    wrong |= check_specs(spec.inputs or {}, "inputs")
    wrong |= check_specs(spec.outputs or {}, "outputs")
    if wrong:
        raise invalid(wrong)


def _check_kind(spec: DeploymentSpec) -> dict[str, str]:
    """Return what does not go together with the kind. Raises: InvalidRequestError (the trigger's)."""
    wrong: dict[str, str] = {}
    if (spec.trigger is not None) != (spec.kind is FunctionKind.ON_EVENT):
        wrong["trigger"] = "belongs to on_event, which needs one"
    elif spec.trigger is not None:
        check_trigger(spec.trigger)
        if spec.is_generator:
            wrong["is_generator"] = "nobody takes the items of an event trigger: return a list"
    if spec.takes not in ("", "request") or (spec.takes and spec.kind is not FunctionKind.ENDPOINT):
        wrong["takes"] = f"{spec.takes!r}: an endpoint takes '' (arguments) or 'request'"
    return wrong


def check_python(spec: DeploymentSpec, base_python: str) -> None:
    """Raise InvalidRequestError if a function by value would be read by another Python.

    Code objects differ between minor versions; source files do not.
    """
    source = spec.source
    by_value = any((source.pickled, source.on_start_pickled, source.on_exit_pickled))
    runs = base_python or PLATFORM_PYTHON
    wrote = ".".join(spec.python_version.split(".")[:2])
    if by_value and wrote and wrote != runs:
        raise InvalidRequestError(
            "deployment.python_mismatch",
            f"the function was pickled by Python {wrote} and its image runs {runs}: put it in a file, "
            f"use Image(python_version={wrote!r}), or run this program with Python {runs}",
            details={"client": wrote, "image": runs},
        )
