"""One build from plan to end: feeds the machine of `build.py` and performs what it decides.

Made by `service.py` for each image that somebody asked for and that is not being made. It takes the
image's lease, so that replicas do not build the same twice, looks what is cached, and runs the machine
on the events that the service routes here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, assert_never

import msgspec
import structlog
from glowplug_contracts.errors import ContractError, PlatformError
from glowplug_contracts.ids import ContainerId, ImageDigest, WorkspaceId
from glowplug_contracts.messages.container import (
    CommitLayer,
    ContainerKind,
    ContainerSpec,
    ContainerWanted,
    ExecInContainer,
    ExecReply,
    LayerCommitted,
)
from glowplug_contracts.messages.deployment import ImageSpec, Resources
from glowplug_contracts.messages.image import BuildProgress, CachedStep, ImageManifest, ImageRecord
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.streams import BUILD_STEPS, IMAGES, LEASE_RENEW_S, WANTED
from glowplug_contracts.subjects import COMMIT, EXEC
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell

from glowplug_imagecache.askers import Askers
from glowplug_imagecache.build import COMMIT_MAX_S, Build
from glowplug_imagecache.build_types import (
    Begin,
    ContainerEnded,
    Decision,
    DropContainer,
    Event,
    Fail,
    FilesMerged,
    LayerStored,
    MergeFiles,
    RecordStep,
    RunStep,
    StepOutput,
    StoreLayer,
    Succeed,
    Tell,
    WantContainer,
)
from glowplug_imagecache.commands import command_for
from glowplug_imagecache.contents import size_and_files
from glowplug_imagecache.files import (
    add_files,
    has_image,
    read_manifest,
    seal_image,
    write_image,
)
from glowplug_imagecache.plan import (
    PULL,
    BuildPlan,
    PlannedStep,
    Target,
    place_in_layer,
    plan_build,
)
from glowplug_imagecache.pulled import BaseStep, Sources
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

RESOURCES = Resources(cpu_millis=250, memory_bytes=256 * 1024 * 1024)
EXEC_TIMEOUT_S = 10.0
CONTEND_S = 0.25
# Output that comes faster than it can be told is dropped; what ends a step never is.
EVENTS_MAX = 1000


class BuildRun:
    """See the module.

    Attributes:
        askers: who is told.
        exec_id, container_id: what events are routed here by; "" for none.
    """

    def __init__(
        self,
        shell: Shell[ImagecacheSettings],
        store: Store,
        quota: Quota,
        askers: Askers,
        spec: ImageSpec,
        workspace: WorkspaceId,
        sources: Sources,
    ) -> None:
        self.askers = askers
        self.container_id = ContainerId("")
        self.exec_id = ""
        self._shell = shell
        self._store = store
        self._quota = quota
        self._spec = spec
        self._workspace = workspace
        self._base = BaseStep(sources, spec, askers, self._say)
        self._steps = shell.bus.bucket(BUILD_STEPS)
        self._wanted = shell.bus.bucket(WANTED)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._doing: set[asyncio.Task[None]] = set()
        self._plan: BuildPlan | None = None

    def feed(self, event: Event) -> None:
        """Take an event that concerns this build."""
        if not isinstance(event, StepOutput) or self._events.qsize() < EVENTS_MAX:
            self._events.put_nowait(event)

    async def run(self, choose: Callable[[ImageSpec], Awaitable[Target]]) -> None:
        """Build, and tell everybody how it ended. `choose` waits for workers and picks among them."""
        try:
            target = await self._base.pin(await choose(self._spec))
            plan = plan_build(self._spec, self._workspace, target)
            async with self._only_one(plan):
                cached = await self._with_cached(plan)
                if cached.cached < len(cached.steps):  # what is there already needs no room
                    await self._quota.check(self._workspace, 0)
                await self._build(cached)
        except PlatformError as err:
            log.warning("build.failed", build_id=self.askers.build_id, error=str(err))
            await self._tell_error(RemoteError(code=err.code, type="Error", message=err.message))
        except Exception:  # a bug of ours must not leave callers waiting
            log.exception("build.broken", build_id=self.askers.build_id)
            await self._tell_error(
                RemoteError(code="platform.bug", type="Error", message="the build broke; see logs")
            )

    async def _build(self, plan: BuildPlan) -> None:
        self._plan = plan
        machine = Build(
            plan,
            self._shell.clock.id,
            step_timeout_s=self._shell.settings.step_timeout_s,
            container_wait_s=self._shell.settings.container_wait_s,
        )
        self.feed(Begin())
        ended = False
        try:
            while not ended:
                event = await self._events.get()
                for decision in machine.step(event, self._shell.clock.now()):
                    ended = ended or isinstance(decision, Succeed | Fail)
                    await self._perform(decision)
        finally:
            for task in self._doing:
                task.cancel()
            await self._drop(self.container_id)

    async def _perform(self, decision: Decision) -> None:
        match decision:
            case WantContainer():
                await self._want(decision)
            case DropContainer():
                await self._drop(decision.container_id)
            case RunStep():
                self._do(self._run_step(decision), decision.container_id)
            case StoreLayer():
                self._do(self._store_layer(decision), decision.container_id)
            case MergeFiles():
                self._do(self._merge(decision), ContainerId(""))
            case RecordStep():
                await self._record(decision)
            case Tell():
                await self._tell(kind=decision.kind, text=decision.text, cached=decision.cached)
            case Succeed():
                await self._succeed(decision.image_digest)
            case Fail():
                log.warning(
                    "build.failed",
                    build_id=self.askers.build_id,
                    code=decision.error.code,
                    error=decision.error.message,
                )
                await self._tell_error(decision.error)
            case _:
                assert_never(decision)

    # -- Containers and their commands ----------------------------------------------------------

    async def _want(self, decision: WantContainer) -> None:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        settings = self._shell.settings
        self.container_id = decision.container_id
        spec = ContainerSpec(
            kind=ContainerKind.BUILD,
            workspace=self._workspace,
            name="build",
            image_digest=decision.parent,
            base_python=self._plan.target.python_version,
            env=self._spec.env,
            resources=RESOURCES,
            timeout_s=settings.step_timeout_s,
            expires_s=settings.container_wait_s
            + (settings.step_timeout_s + COMMIT_MAX_S) * len(self._spec.steps),
        )
        wanted = ContainerWanted(
            container_id=decision.container_id,
            spec=spec,
            requested_at=self._shell.clock.unix(),
            owner=self._shell.instance,
        )
        await self._wanted.put(decision.container_id, wanted)

    async def _drop(self, container_id: ContainerId) -> None:
        if not container_id:
            return
        self.container_id = ContainerId("")
        with contextlib.suppress(PlatformError):  # else the sweep of orphans removes it
            await self._wanted.delete(container_id)

    async def _run_step(self, decision: RunStep) -> None:
        self.exec_id = decision.exec_id
        request = ExecInContainer(
            container_id=decision.container_id,
            exec_id=decision.exec_id,
            reply_to=self._shell.instance,
            mode="command",
            argv=command_for(decision.step.spec),
            env=self._spec.env,
            timeout_s=self._shell.settings.step_timeout_s,
        )
        reply = await self._shell.bus.request(
            EXEC.at(worker_id=decision.worker_id), request, ExecReply, timeout_s=EXEC_TIMEOUT_S
        )
        if not reply.accepted:
            self.feed(ContainerEnded(decision.container_id, f"it took no command: {reply.reason}"))

    async def _store_layer(self, decision: StoreLayer) -> None:
        if decision.parent:  # the layer's manifest will name the base's tree, too
            await asyncio.to_thread(read_manifest, self._store, decision.parent)
        committed = await self._shell.bus.request(
            COMMIT.at(worker_id=decision.worker_id),
            CommitLayer(container_id=decision.container_id, parent=decision.parent),
            LayerCommitted,
            timeout_s=COMMIT_MAX_S,
        )
        self.feed(LayerStored(decision.container_id, committed))

    async def _merge(self, decision: MergeFiles) -> None:
        try:
            if decision.step.spec.kind == PULL:
                digest = await self._pull()
            else:
                digest = await asyncio.to_thread(self._merge_blocking, decision)
        except (PlatformError, OSError) as err:
            self.feed(FilesMerged(ImageDigest(""), _failure(decision.step, err)))
        else:
            self.feed(FilesMerged(digest))

    async def _pull(self) -> ImageDigest:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        manifest = await self._base.pull(self._plan.target)
        return await asyncio.to_thread(write_image, self._store, manifest)

    def _merge_blocking(self, decision: MergeFiles) -> ImageDigest:
        step = decision.step.spec
        assert step.blob is not None  # noqa: S101 - check_spec saw to it
        below = read_manifest(self._store, decision.parent) if decision.parent else self._empty()
        place = place_in_layer(step.args[0])
        return add_files(self._store, below, step.blob, place, self._workspace)

    def _do(self, work: Coroutine[Any, Any, None], container_id: ContainerId) -> None:
        """Do something that takes long beside the events; what goes wrong is one."""

        async def guarded() -> None:
            try:
                await work
            except PlatformError as err:
                self.feed(ContainerEnded(container_id, str(err)))

        task = self._shell.tasks.create_task(guarded(), name="build step")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    # -- What is remembered ---------------------------------------------------------------------

    async def _with_cached(self, plan: BuildPlan) -> BuildPlan:
        """Return the plan with the longest run of steps whose image is known and still here."""
        for step in reversed(plan.steps):
            entry = await self._steps.get(step.chain)
            if entry is None or entry.value is None:
                continue
            digest = entry.value.image_digest
            if await asyncio.to_thread(self._is_usable, digest):
                return msgspec.structs.replace(plan, cached=step.number, image_digest=digest)
        return plan

    def _is_usable(self, digest: ImageDigest) -> bool:
        try:
            return has_image(self._store, digest)
        except ContractError:
            return False

    async def _record(self, decision: RecordStep) -> None:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        manifest = await asyncio.to_thread(read_manifest, self._store, decision.image_digest)
        if manifest.host != self._plan.target.host:
            # Placement took a worker of another kind: the image is good there, and nowhere else.
            log.warning("build.other_host", planned=self._plan.target.host, built=manifest.host)
            return
        value = CachedStep(image_digest=decision.image_digest, built_at=self._shell.clock.unix())
        await self._steps.put(decision.chain, value)

    @contextlib.asynccontextmanager
    async def _only_one(self, plan: BuildPlan) -> AsyncIterator[None]:
        """Hold the image's lease, so that another replica waits and then finds it cached."""
        key = f"build-{plan.tip[:32]}"
        lease = Lease(self._shell.bus, self._shell.clock, key, self._shell.instance)
        while not await lease.try_acquire():
            await self.askers.keep_awake(self._shell.clock.now())
            await asyncio.sleep(CONTEND_S)
        renewing = self._shell.tasks.create_task(_keep_fresh(lease), name=f"renew {key}")
        try:
            yield
        finally:
            renewing.cancel()
            await lease.release()

    async def _remember(self, sealed: ImageDigest) -> None:
        """Write down whose image this is. Always: eviction forgets only what was not written since."""
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        manifest = await asyncio.to_thread(read_manifest, self._store, sealed)
        size, files = await asyncio.to_thread(size_and_files, self._store, manifest)
        images, key = self._shell.bus.bucket(IMAGES), f"{self._workspace}.{sealed}"
        before = await images.get(key)
        known = before.value if before is not None else None
        record = ImageRecord(
            image_digest=sealed,
            workspace=self._workspace,
            host=manifest.host,
            python_version=manifest.python_version,
            steps=tuple(step.text for step in self._plan.steps),
            chains=tuple(step.chain for step in self._plan.steps),
            files=files,
            bytes_total=size,
            built_at=known.built_at if known is not None else self._shell.clock.unix(),
        )
        await images.put(key, record)
        if known is None:
            self._quota.add(self._workspace, record.bytes_total)

    # -- Telling --------------------------------------------------------------------------------

    async def _succeed(self, digest: ImageDigest) -> None:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        sealed = await asyncio.to_thread(seal_image, self._store, digest, self._empty())
        python = self._plan.target.python_version
        if not self._spec.on_host:
            python = (await asyncio.to_thread(read_manifest, self._store, sealed)).python_version
        await self._remember(sealed)
        log.info("build.succeeded", build_id=self.askers.build_id, image_digest=sealed)
        await self._tell(
            kind="done",
            done=True,
            image_digest=sealed,
            base_python=python,
        )

    def _empty(self) -> ImageManifest:
        """Return the image that a build begins with."""
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        return ImageManifest(
            host=self._plan.target.host,
            python_version=self._plan.target.python_version,
            env=self._spec.env,
            entries=(),
        )

    async def _say(self, text: str) -> None:
        await self._tell(kind="output", text=text)

    async def _tell_error(self, error: RemoteError) -> None:
        await self._tell(kind="done", done=True, error=error)

    async def _tell(self, **fields: Any) -> None:
        progress = BuildProgress(build_id="", number=0, **fields)
        await self.askers.tell(progress, self._shell.clock.now())


def _failure(step: PlannedStep, err: PlatformError | OSError) -> RemoteError:
    """Return how a step of our own failed: what a registry did has its own names."""
    kind = "ImageBuildError"
    if step.spec.kind == PULL and isinstance(err, PlatformError):
        return RemoteError(code=err.code, type=kind, message=err.message, details=err.details)
    what = "the image can't be kept" if step.spec.kind == PULL else "the files can't be added"
    return RemoteError(code="image.build_failed", type=kind, message=f"{what}: {err}")


async def _keep_fresh(lease: Lease) -> None:
    """Renew until cancelled. Losing it is no harm: the same steps make the same image twice."""
    while True:
        await asyncio.sleep(LEASE_RENEW_S)
        with contextlib.suppress(PlatformError):
            await lease.renew()
