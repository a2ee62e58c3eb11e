"""One build from plan to end: feeds the machine of `build.py` and performs what it decides.

Made by `service.py` for each image that somebody asked for and that is not being made. It takes the
image's lease, so that replicas do not build the same twice, looks what is cached, and runs the machine
on the events that the service routes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_never

import msgspec
import structlog
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.image import BaseImage, BuildProgress, ImageManifest
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_runtime.service import Shell

from glowplug_imagecache.askers import BYTES, Askers
from glowplug_imagecache.build import Build
from glowplug_imagecache.build_container import BuildContainer
from glowplug_imagecache.build_types import (
    Begin,
    ContainerEnded,
    Decision,
    DropContainer,
    Event,
    Fail,
    FilesMerged,
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
from glowplug_imagecache.configuring import cwd_of, filled
from glowplug_imagecache.copying import copy_context, copy_stage
from glowplug_imagecache.files import (
    add_files,
    read_manifest,
    seal_image,
    write_image,
)
from glowplug_imagecache.plan import (
    COPY_TREE,
    PULL,
    BuildPlan,
    PlannedStep,
    Target,
    place_in_layer,
    plan_build,
)
from glowplug_imagecache.pulled import BaseStep, Sources
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.remembering import Remembered
from glowplug_imagecache.rooted import check_python, configure_image, settle_root
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

# Output that comes faster than it can be told is dropped; what ends a step never is.
EVENTS_MAX = 1000


class BuildFailedError(Exception):
    """A build ended without an image; `error` is what its askers are told."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error.message)
        self.error = error


class BuildRun:
    """See the module.

    Args:
        stages: of a build that another one copies from: trees of stages that are made.

    Attributes:
        askers: who is told.
        container: what events are routed here by.
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
        stages: dict[bytes, Digest] | None = None,
    ) -> None:
        self.askers = askers
        self._sources = sources
        self._shell = shell
        self._store = store
        self._quota = quota
        self._room = quota.room(workspace)
        self._spec = spec
        self._workspace = workspace
        self._base = BaseStep(
            sources, spec, askers, self._say, self.say_far, python_later=stages is not None
        )
        self._container = BuildContainer(shell, store, spec, workspace)
        self._known = Remembered(shell, store, quota, workspace)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._doing: set[asyncio.Task[None]] = set()
        self._plan: BuildPlan | None = None
        self._root: BaseImage | None = None  # as far as it is built
        # Of stages that COPY --from names: the build that goes on for this one, and trees that are made.
        self._inner: BuildRun | None = None
        self._trees: dict[bytes, Digest] = {} if stages is None else stages

    @property
    def container(self) -> BuildContainer:
        """Return what events are routed to this build by."""
        return self._container if self._inner is None else self._inner.container

    def feed(self, event: Event) -> None:
        """Take an event that concerns this build."""
        if self._inner is not None:
            self._inner.feed(event)
            return
        if not isinstance(event, StepOutput) or self._events.qsize() < EVENTS_MAX:
            self._events.put_nowait(event)

    async def run(self, choose: Callable[[ImageSpec], Awaitable[Target]]) -> None:
        """Build, and tell everybody how it ended. `choose` waits for workers and picks among them."""
        try:
            await self._succeed(await self.make(choose))
        except BuildFailedError as failed:
            await self._tell_error(failed.error)
        except PlatformError as err:
            log.warning("build.failed", build_id=self.askers.build_id, error=str(err))
            await self._tell_error(RemoteError(code=err.code, type="Error", message=err.message))
        except Exception:  # a bug of ours must not leave callers waiting
            log.exception("build.broken", build_id=self.askers.build_id)
            await self._tell_error(
                RemoteError(code="platform.bug", type="Error", message="the build broke; see logs")
            )
        finally:
            self._room.close()

    async def make(self, choose: Callable[[ImageSpec], Awaitable[Target]]) -> ImageDigest:
        """Build, stages first. Raises: BuildFailedError; PlatformError before the first step."""
        spec = await self._with_stages(choose)
        target = await self._base.pin(await choose(self._spec))
        stamps = {}
        if any(step.secrets for step in spec.steps):
            stamps = await self._sources.gateways.stamps(self.askers.names)
        plan = plan_build(spec, self._workspace, target, stamps)
        async with self._known.only_one(plan, self.askers):
            cached = await self._known.with_cached(plan)
            if cached.cached < len(cached.steps):  # what is there already needs no room
                await self._quota.check(self._workspace, 0)
            return await self._build(cached)

    async def _with_stages(self, choose: Callable[[ImageSpec], Awaitable[Target]]) -> ImageSpec:
        """Return the spec with stages that are built: their trees, to copy from."""
        steps = []
        for step in self._spec.steps:
            if step.stage is None:
                steps.append(step)
                continue
            tree = await self._tree_of(step.stage, choose)
            steps.append(msgspec.structs.replace(step, kind=COPY_TREE, stage=None, blob=tree))
        return msgspec.structs.replace(self._spec, steps=tuple(steps))

    async def _tree_of(
        self, stage: ImageSpec, choose: Callable[[ImageSpec], Awaitable[Target]]
    ) -> Digest:
        stage = msgspec.structs.replace(stage, force=self._spec.force)
        key = encode(stage, "msgpack")
        if key not in self._trees:
            inner = BuildRun(
                self._shell,
                self._store,
                self._quota,
                self.askers,
                stage,
                self._workspace,
                self._sources,
                self._trees,
            )
            self._inner = inner
            try:
                digest = await inner.make(choose)
            finally:
                self._inner = None
                inner._room.close()
            manifest = await asyncio.to_thread(read_manifest, self._store, digest)
            assert manifest.base is not None  # noqa: S101 - check_spec saw to it
            self._trees[key] = manifest.base.tree
        return self._trees[key]

    async def _build(self, plan: BuildPlan) -> ImageDigest:
        self._plan = plan
        if not plan.spec.on_host and plan.image_digest:
            manifest = await asyncio.to_thread(read_manifest, self._store, plan.image_digest)
            self._root = manifest.base
        machine = Build(
            plan,
            self._shell.clock.id,
            step_timeout_s=self._shell.settings.step_timeout_s,
            container_wait_s=self._shell.settings.container_wait_s,
        )
        self.feed(Begin())
        try:
            while True:
                event = await self._events.get()
                for decision in machine.step(event, self._shell.clock.now()):
                    if isinstance(decision, Succeed):
                        return decision.image_digest
                    await self._perform(decision)
        finally:
            for task in self._doing:
                task.cancel()
            await self._container.drop(self._container.container_id)

    async def _perform(self, decision: Decision) -> None:
        match decision:
            case WantContainer():
                assert self._plan is not None  # noqa: S101 - decisions come after the plan
                plan = self._plan
                await self._container.want(
                    decision, plan.target.python_version, writes_root=plan.writes_root
                )
            case DropContainer():
                await self._container.drop(decision.container_id)
            case RunStep():
                self._do(self._run_step(decision), decision.container_id)
            case StoreLayer():
                self._do(self._store_layer(decision), decision.container_id)
            case MergeFiles():
                self._do(self._merge(decision), ContainerId(""))
            case RecordStep():
                assert self._plan is not None  # noqa: S101 - decisions come after the plan
                await self._known.record_step(decision, self._plan)
            case Tell():
                await self._tell(kind=decision.kind, text=decision.text, cached=decision.cached)
            case Succeed():
                raise AssertionError("it ends the build")
            case Fail():
                log.warning(
                    "build.failed",
                    build_id=self.askers.build_id,
                    code=decision.error.code,
                    error=decision.error.message,
                )
                raise BuildFailedError(decision.error)
            case _:
                assert_never(decision)

    # -- Steps ----------------------------------------------------------------------------------

    async def _run_step(self, decision: RunStep) -> None:
        step, env = decision.step.spec, dict(self._spec.env)
        if step.kind == "exec":
            env |= filled(step, self._root)
            step = msgspec.structs.replace(step, cwd=cwd_of(step, self._root))
        if self._plan is not None and self._plan.writes_root:
            env["GLOWPLUG_PYTHON"] = self._root.python if self._root is not None else ""
        ended = await self._container.run_step(
            decision, command_for(step), env, self.askers.names if step.secrets else ()
        )
        if ended is not None:
            self.feed(ended)

    async def _store_layer(self, decision: StoreLayer) -> None:
        stored = await self._container.store_layer(decision)
        if self._plan is not None and self._plan.writes_root and stored.committed.error is None:
            digest = await self._settled(stored.committed.image_digest)
            committed = msgspec.structs.replace(stored.committed, image_digest=digest)
            stored = msgspec.structs.replace(stored, committed=committed)
        self.feed(stored)

    async def _settled(self, digest: ImageDigest) -> ImageDigest:
        """Return the image with the Python that its root has now."""
        settled, self._root = await asyncio.to_thread(
            settle_root, self._store, digest, self._spec.python_version
        )
        return settled

    async def _merge(self, decision: MergeFiles) -> None:
        try:
            if decision.step.spec.kind == PULL:
                digest = await self._pull()
            else:
                digest = await asyncio.to_thread(self._merge_blocking, decision)
                if decision.step.spec.kind != "file":
                    digest = await self._settled(digest)
        except (PlatformError, OSError) as err:
            self.feed(FilesMerged(ImageDigest(""), _failure(decision.step, err)))
        else:
            self.feed(FilesMerged(digest))

    async def _pull(self) -> ImageDigest:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        # What is there and lost something is counted already: it may be pulled again.
        already = await self._known.recorded_bytes(self._plan)

        async def hold(size: int) -> None:
            await self._room.hold(max(0, size - already))

        like = await self._known.trees_like(self._plan.target.reference)
        manifest = await self._base.pull(self._plan.target, hold, like)
        self._root = manifest.base
        return await asyncio.to_thread(write_image, self._store, manifest)

    def _merge_blocking(self, decision: MergeFiles) -> ImageDigest:
        step = decision.step.spec
        if step.kind == "config":
            return configure_image(self._store, decision.parent, step)
        assert step.blob is not None  # noqa: S101 - check_spec saw to it
        below = read_manifest(self._store, decision.parent) if decision.parent else self._empty()
        if step.kind == "copy":
            return copy_context(self._store, below, step, self._workspace)
        if step.kind == COPY_TREE:
            return copy_stage(self._store, below, step, step.blob)
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

    # -- Telling --------------------------------------------------------------------------------

    async def _succeed(self, digest: ImageDigest) -> None:
        assert self._plan is not None  # noqa: S101 - decisions come after the plan
        sealed = await asyncio.to_thread(seal_image, self._store, digest, self._empty())
        python = self._plan.target.python_version
        if not self._spec.on_host:
            manifest = await asyncio.to_thread(read_manifest, self._store, sealed)
            await asyncio.to_thread(check_python, self._store, manifest, self._spec)
            python = manifest.python_version
        await self._known.record_image(sealed, self._plan)
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

    async def say_far(self, text: str, done: int, total: int) -> None:
        """Tell everybody how far something is."""
        if total:
            await self._tell(kind=BYTES, text=text, bytes_done=done, bytes_total=total)

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
