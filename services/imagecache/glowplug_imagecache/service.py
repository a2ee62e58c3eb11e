"""Have images made: ENSURE_IMAGE in, IMAGE_PROGRESS out, one build for everybody who wants the same.

Takes requests (one replica each, by queue group), keeps the running builds, and routes to each of them
what its container, its worker and the clock say. It remembers nothing that is not in BUILD_STEPS: after
a restart askers ask again, and a build goes on after its last recorded step. It never runs a user's
command itself.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import AsyncIterator

import structlog
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import (
    ContainerChanged,
    ContainerKind,
    ContainerState,
    ExecEvent,
)
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.image import BuildProgress, EnsureAccepted, EnsureImage
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import WANTED
from glowplug_contracts.subjects import (
    CONTAINER,
    ENSURE_IMAGE,
    EXEC_REPLY,
    IMAGE_PROGRESS,
    WORKER_BEAT,
)
from glowplug_runtime.bus import Delivery, Subscription
from glowplug_runtime.service import Shell

from glowplug_imagecache.askers import BYTES, Askers
from glowplug_imagecache.build_types import (
    ContainerEnded,
    ContainerReady,
    StepEnded,
    StepOutput,
    Tick,
)
from glowplug_imagecache.plan import Offer, Target, check_spec, choose_target
from glowplug_imagecache.pulled import Sources
from glowplug_imagecache.quota import Quota, counting
from glowplug_imagecache.running import BuildRun
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

SERVICE = "imagecache"
NO_DEPLOYMENT = "-"
WORKER_ALIVE_S = 3.5
WORKERS_WAIT_S = 15.0
TICK_S = 1.0
ORPHANS_S = 10.0
# A key that is younger may belong to a build whose owner has only just started to beat.
ORPHAN_AGE_S = 15.0
BUILDS_WAITING_MAX = 256


class Builds:
    """See the module."""

    def __init__(self, shell: Shell[ImagecacheSettings], store: Store, sources: Sources) -> None:
        self._shell = shell
        self._store = store
        self._sources = sources
        self.quota = Quota(
            shell.settings.workspace_bytes_max, counting(shell.bus, store), shell.clock.now
        )
        self._running: dict[bytes, BuildRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: dict[WorkerId, tuple[float, WorkerBeat]] = {}
        self._beat_heard = asyncio.Event()
        self._room = asyncio.Semaphore(shell.settings.builds_max)
        self._decoders: dict[tuple[str, str], codecs.IncrementalDecoder] = {}

    async def on_image_wanted(self, delivery: Delivery[EnsureImage]) -> None:
        """Somebody needs an image: join the build that makes it, or start one."""
        request = delivery.message
        assert request is not None  # noqa: S101 - core messages have one
        assert delivery.answer is not None  # noqa: S101 - it is a request
        check_spec(request.spec)
        key = encode([request.workspace, request.spec], "msgpack")
        run = self._running.get(key)
        if run is None or run.askers.done:
            run = self._start(key, request)
        await delivery.answer(EnsureAccepted(build_id=run.askers.build_id))
        await run.askers.join(request.reply_to)

    async def on_worker_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        """A worker said what it is and holds."""
        beat = delivery.message
        assert beat is not None  # noqa: S101 - core messages have one
        self._beats[beat.worker_id] = (self._shell.clock.now(), beat)
        self._beat_heard.set()
        ready = {
            view.container_id
            for view in beat.containers
            if view.kind is ContainerKind.BUILD and view.state is ContainerState.READY
        }
        for run in self._running.values():
            if run.container.container_id in ready:
                run.feed(ContainerReady(run.container.container_id, beat.worker_id))

    async def on_container_changed(self, delivery: Delivery[ContainerChanged]) -> None:
        """A container without deployment reached a state; it may be a build's."""
        change = delivery.message
        assert change is not None  # noqa: S101 - core messages have one
        for run in self._running.values():
            if run.container.container_id != change.container_id:
                continue
            if change.state is ContainerState.READY:
                run.feed(ContainerReady(change.container_id, change.worker_id))
            elif change.state in {ContainerState.STOPPED, ContainerState.FAILED}:
                run.feed(ContainerEnded(change.container_id, change.reason, change.error))

    async def on_exec_event(self, delivery: Delivery[ExecEvent]) -> None:
        """A step wrote something or ended."""
        event = delivery.message
        assert event is not None  # noqa: S101 - core messages have one
        for run in self._running.values():
            if run.container.exec_id == event.exec_id:
                if event.kind == BYTES:
                    await run.say_far("storing", event.bytes_done, event.bytes_total)
                else:
                    self._route(run, event)

    def _route(self, run: BuildRun, event: ExecEvent) -> None:
        if event.kind == "ended":
            for stream in ("stdout", "stderr"):
                self._decoders.pop((event.exec_id, stream), None)
            run.feed(StepEnded(event.exec_id, event.exit_code, event.error))
            return
        decoder = self._decoders.setdefault(
            (event.exec_id, event.kind), codecs.getincrementaldecoder("utf-8")("replace")
        )
        if text := decoder.decode(event.data):
            run.feed(StepOutput(event.exec_id, text))

    async def tick(self) -> None:
        """Let builds look at the clock, and askers know that we live."""
        now = self._shell.clock.now()
        for run in list(self._running.values()):
            run.feed(Tick())
            await run.askers.keep_awake(now)

    async def remove_orphans(self) -> None:
        """Stop build containers whose build is nobody's: its imagecache died or was restarted."""
        bucket = self._shell.bus.bucket(WANTED)
        alive = {beat.instance for beat in self._shell.peers.services() if beat.service == SERVICE}
        alive.discard(self._shell.instance)
        ours = {run.container.container_id for run in self._running.values()}
        before = self._shell.clock.unix() - ORPHAN_AGE_S
        for entry in await bucket.entries():
            wanted = entry.value
            if wanted is None or wanted.spec.kind is not ContainerKind.BUILD:
                continue
            if wanted.owner in alive or wanted.container_id in ours:
                continue
            if wanted.owner == self._shell.instance or wanted.requested_at < before:
                log.info("build.orphan_removed", container_id=wanted.container_id)
                await bucket.delete(entry.key)

    async def close(self) -> None:
        """Stop all builds; whoever asked will ask another replica."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, key: bytes, request: EnsureImage) -> BuildRun:
        if len(self._running) >= BUILDS_WAITING_MAX:
            raise UnavailableError(
                "platform.unavailable", "too many builds wait already", retry_after_s=10.0
            )
        askers = Askers(self._shell.clock.id("build"), self._send)
        run = BuildRun(
            self._shell,
            self._store,
            self.quota,
            askers,
            request.spec,
            request.workspace,
            self._sources,
        )
        self._running[key] = run
        task = self._shell.tasks.create_task(self._run(key, run), name="build")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _run(self, key: bytes, run: BuildRun) -> None:
        try:
            async with self._room:
                await run.run(self._choose)
        finally:
            if self._running.get(key) is run:
                del self._running[key]

    async def _choose(self, spec: ImageSpec) -> Target:
        """Pick what to build for among the workers that live, waiting a while for the first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORKERS_WAIT_S):
                while not self._offers():
                    self._beat_heard.clear()
                    await self._beat_heard.wait()
        if not (offers := self._offers()):
            raise UnavailableError(
                "platform.unavailable", "no worker is alive to build the image on"
            )
        return choose_target(spec, offers)

    def beats(self) -> list[WorkerBeat]:
        """Return the last beats of the workers that live."""
        now = self._shell.clock.now()
        self._beats = {w: b for w, b in self._beats.items() if now - b[0] <= WORKER_ALIVE_S}
        return [beat for _, beat in self._beats.values()]

    def _offers(self) -> list[Offer]:
        return [
            Offer(host=beat.image_host, pythons=beat.pythons)
            for beat in self.beats()
            if not beat.draining
        ]

    async def _send(self, reply_to: str, progress: BuildProgress) -> None:
        with contextlib.suppress(PlatformError):  # they ask again when they hear nothing
            to = IMAGE_PROGRESS.at(instance=reply_to, build_id=progress.build_id)
            await self._shell.bus.send(to, progress)


@contextlib.asynccontextmanager
async def open_builds(
    shell: Shell[ImagecacheSettings], store: Store, sources: Sources
) -> AsyncIterator[Builds]:
    """Take requests for images until closed."""
    builds = Builds(shell, store, sources)
    bus = shell.bus
    heard: list[Subscription] = [
        await bus.listen(WORKER_BEAT.pattern(), builds.on_worker_beat),
        await bus.listen(
            CONTAINER.pattern(deployment_id=NO_DEPLOYMENT), builds.on_container_changed
        ),
        await bus.listen(EXEC_REPLY.pattern(instance=shell.instance), builds.on_exec_event),
    ]
    asked = await bus.listen(ENSURE_IMAGE.pattern(), builds.on_image_wanted, queue=SERVICE)
    shell.every(TICK_S, builds.tick, "tick builds")
    shell.every(ORPHANS_S, builds.remove_orphans, "remove orphaned build containers")
    try:
        yield builds
    finally:
        await asked.close()
        await builds.close()
        for subscription in heard:
            await subscription.close()
