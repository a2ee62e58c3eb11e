"""What is remembered of builds: which chains of steps end in which image, and whose the images are."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog
from glowplug_contracts.errors import ContractError, PlatformError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.image import BaseImage, CachedStep, ImageRecord
from glowplug_contracts.streams import BUILD_STEPS, IMAGES, LEASE_RENEW_S
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell

from glowplug_imagecache.askers import Askers
from glowplug_imagecache.build_types import RecordStep
from glowplug_imagecache.contents import size_and_files
from glowplug_imagecache.files import has_image, read_manifest
from glowplug_imagecache.plan import BuildPlan
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.registry.reference import parse_reference
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

CONTEND_S = 0.25
# Of a workspace's images, how many are asked whether they are like one that is being pulled.
LIKE_LOOKED_AT = 16


class Remembered:
    """What one build finds, and what it writes down."""

    def __init__(
        self,
        shell: Shell[ImagecacheSettings],
        store: Store,
        quota: Quota,
        workspace: WorkspaceId,
    ) -> None:
        self._shell = shell
        self._store = store
        self._quota = quota
        self._workspace = workspace
        self._steps = shell.bus.bucket(BUILD_STEPS)
        self._images = shell.bus.bucket(IMAGES)

    async def with_cached(self, plan: BuildPlan) -> BuildPlan:
        """Return the plan with the longest run of steps whose image is known, still here, and good enough."""
        for step in reversed(plan.reusable):
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

    async def record_step(self, decision: RecordStep, plan: BuildPlan) -> None:
        """Remember what a chain of steps ended in."""
        manifest = await asyncio.to_thread(read_manifest, self._store, decision.image_digest)
        if manifest.host != plan.target.host:
            # Placement took a worker of another kind: the image is good there, and nowhere else.
            log.warning("build.other_host", planned=plan.target.host, built=manifest.host)
            return
        value = CachedStep(image_digest=decision.image_digest, built_at=self._shell.clock.unix())
        await self._steps.put(decision.chain, value)

    @contextlib.asynccontextmanager
    async def only_one(self, plan: BuildPlan, askers: Askers) -> AsyncIterator[None]:
        """Hold the image's lease, so that another replica waits and then finds it cached."""
        key = f"build-{plan.tip[:32]}"
        lease = Lease(self._shell.bus, self._shell.clock, key, self._shell.instance)
        while not await lease.try_acquire():
            await askers.keep_awake(self._shell.clock.now())
            await asyncio.sleep(CONTEND_S)
        renewing = self._shell.tasks.create_task(_keep_fresh(lease), name=f"renew {key}")
        try:
            yield
        finally:
            renewing.cancel()
            await lease.release()

    async def recorded_bytes(self, plan: BuildPlan) -> int:
        """Return what the workspace's image of these steps counts for already, 0 if there is none."""
        entries = await self._images.entries(self._workspace)
        records = [entry.value for entry in entries if entry.value is not None]
        return max((one.bytes_total for one in records if plan.tip in one.chains[-1:]), default=0)

    async def trees_like(self, reference: str) -> list[Digest]:
        """Return trees of the workspace's own images: of `reference`'s repository first, then the youngest."""
        entries = await self._images.entries(self._workspace)
        records = [entry.value for entry in entries if entry.value is not None]
        youngest = heapq.nlargest(LIKE_LOOKED_AT, records, key=lambda record: record.built_at)
        bases = await asyncio.to_thread(self._bases_of, [one.image_digest for one in youngest])
        repository = parse_reference(reference).repository
        bases.sort(key=lambda base: parse_reference(base.reference).repository != repository)
        return list(dict.fromkeys(base.tree for base in bases))

    def _bases_of(self, images: Sequence[ImageDigest]) -> list[BaseImage]:
        found: list[BaseImage] = []
        for digest in images:
            with contextlib.suppress(PlatformError):  # given up, or hurt: then it helps nobody
                base = read_manifest(self._store, digest, wanted=False).base
                if base is not None:
                    found.append(base)
        return found

    async def record_image(self, sealed: ImageDigest, plan: BuildPlan) -> None:
        """Write down whose image this is. Always: eviction forgets only what was not written since."""
        manifest = await asyncio.to_thread(read_manifest, self._store, sealed)
        size, files = await asyncio.to_thread(size_and_files, self._store, manifest)
        key = f"{self._workspace}.{sealed}"
        before = await self._images.get(key)
        known = before.value if before is not None else None
        record = ImageRecord(
            image_digest=sealed,
            workspace=self._workspace,
            host=manifest.host,
            python_version=manifest.python_version,
            steps=tuple(step.text for step in plan.steps),
            chains=tuple(step.chain for step in plan.steps),
            files=files,
            bytes_total=size,
            built_at=known.built_at if known is not None else self._shell.clock.unix(),
        )
        await self._images.put(key, record)
        if known is None:
            self._quota.add(self._workspace, record.bytes_total)


async def _keep_fresh(lease: Lease) -> None:
    """Renew until cancelled. Losing it is no harm: the same steps make the same image twice."""
    while True:
        await asyncio.sleep(LEASE_RENEW_S)
        with contextlib.suppress(PlatformError):
            await lease.renew()
