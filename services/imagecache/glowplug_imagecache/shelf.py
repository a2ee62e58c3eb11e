"""A workspace's images: list, look into, compare, and give up.

Knows an image by its record in the bucket `images`, which its build wrote. Giving one up means forgetting the
record and the cached steps, and letting eviction have what only they needed: nothing is removed here, so that
whoever uses it at this moment is safe. Another workspace's images are not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import structlog
from glowplug_contracts.errors import ConflictError, ContractError, NotFoundError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.image import ImageManifest, ImageRecord
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import BUILD_STEPS, IMAGES
from glowplug_runtime.service import Shell

from glowplug_imagecache.comparing import (
    Contents,
    Difference,
    ImageDetail,
    ImageView,
    compare,
    detail,
    find_record,
    view,
)
from glowplug_imagecache.contents import objects_needed, tree_below
from glowplug_imagecache.files import read_manifest
from glowplug_imagecache.needs import Needs, find_needs
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.small_files import contents_of
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

NAMED_MAX = 5


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a workspace's images and blobs come to.

    Attributes:
        logical_bytes: of all images with their bases, as if nothing were shared.
        distinct_bytes: of their distinct content; `stored_bytes` is that, compressed.
        blob_bytes: sources, arguments and results that are kept now.
    """

    images: int
    logical_bytes: int
    distinct_bytes: int
    stored_bytes: int
    blob_bytes: int


class Shelf:
    """See the module."""

    def __init__(
        self,
        shell: Shell[ImagecacheSettings],
        store: Store,
        beats: Callable[[], Iterable[WorkerBeat]],
    ) -> None:
        self._shell = shell
        self._store = store
        self._beats = beats

    async def every(self, workspace: WorkspaceId) -> list[ImageView]:
        """Return the workspace's images, the last used ones first."""
        needs = await find_needs(self._shell.bus, self._beats())
        views = [await self._view(record, needs) for record in await self._records(workspace)]
        return sorted(views, key=lambda one: (-one.used_at, one.image_digest))

    async def show(self, workspace: WorkspaceId, reference: str) -> ImageDetail:
        """Look into one. Raises: NotFoundError, InvalidRequestError."""
        records = await self._records(workspace)
        record = find_record(records, reference)
        needs = await find_needs(self._shell.bus, self._beats())
        seen = await self._view(record, needs)
        return await asyncio.to_thread(self._detail, seen, records)

    async def diff(self, workspace: WorkspaceId, before: str, after: str) -> Difference:
        """Compare two. Raises: NotFoundError, InvalidRequestError."""
        records = await self._records(workspace)
        old, new = (find_record(records, name).image_digest for name in (before, after))

        def read_and_compare() -> Difference:
            before, after = self._contents(old), self._contents(new)
            return compare(old, before, new, after, lambda places: contents_of(self._store, places))

        return await asyncio.to_thread(read_and_compare)

    async def usage(self, workspace: WorkspaceId) -> Usage:
        """Count what the workspace has."""
        return await asyncio.to_thread(self._usage, workspace, await self._records(workspace))

    async def digests(self, workspace: WorkspaceId) -> frozenset[Digest]:
        """Return the names of the workspace's images."""
        return frozenset(Digest(one.image_digest) for one in await self._records(workspace))

    async def remove(self, workspace: WorkspaceId, reference: str) -> ImageDigest:
        """Give an image up. Raises: NotFoundError, InvalidRequestError, ConflictError (image.in_use)."""
        entries = await self._entries(workspace)
        record = find_record([record for record, _ in entries], reference)
        needs = await find_needs(self._shell.bus, self._beats())
        if users := _users(needs, record):
            more = f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else ""
            raise ConflictError(
                "image.in_use",
                f"image {record.image_digest[:12]} is needed by {', '.join(users[:NAMED_MAX])}{more}",
                details={"used_by": users},
            )
        await self._give_up([entry for entry in entries if entry[0] is record])
        return record.image_digest

    async def prune(
        self, workspace: WorkspaceId, older_than_s: float, *, dry: bool
    ) -> list[ImageView]:
        """Give up all images that nothing needs and nobody used for so long; return them."""
        needs = await find_needs(self._shell.bus, self._beats())
        before = self._shell.clock.unix() - older_than_s
        doomed: list[ImageView] = []
        entries: list[tuple[ImageRecord, int]] = []
        for entry in await self._entries(workspace):
            seen = await self._view(entry[0], needs)
            if not seen.used_by and seen.used_at <= before:
                doomed.append(seen)
                entries.append(entry)
        if entries and not dry:
            await self._give_up(entries)
        return doomed

    # -- Reading --------------------------------------------------------------------------------

    async def _records(self, workspace: WorkspaceId) -> list[ImageRecord]:
        return [record for record, _ in await self._entries(workspace)]

    async def _entries(self, workspace: WorkspaceId) -> list[tuple[ImageRecord, int]]:
        """Return the workspace's images, and the revisions that they had when this looked."""
        entries = await self._shell.bus.bucket(IMAGES).entries(workspace)
        return [(entry.value, entry.revision) for entry in entries if entry.value is not None]

    async def _view(self, record: ImageRecord, needs: Needs) -> ImageView:
        digest = Digest(record.image_digest)
        used_at = await asyncio.to_thread(self._store.used_at, digest)
        hurt = used_at is not None and await asyncio.to_thread(self._is_hurt, record.image_digest)
        return view(record, used_at=used_at, used_by=_users(needs, record), hurt=hurt)

    def _is_hurt(self, digest: ImageDigest) -> bool:
        try:
            sizes = self._objects(digest)
        except (NotFoundError, ContractError):
            return True
        return len(self._store.chunk_sizes(sizes)) < len(sizes)

    def _peek(self, digest: ImageDigest) -> ImageManifest:
        return read_manifest(self._store, digest, wanted=False)

    def _objects(self, digest: ImageDigest) -> dict[Digest, int]:
        return objects_needed(self._store, self._peek(digest), wanted=False)

    def _contents(self, digest: ImageDigest) -> Contents:
        manifest = self._peek(digest)
        try:
            return Contents(manifest=manifest, tree=tree_below(self._store, manifest))
        except NotFoundError:  # the image's state says that it is hurt
            return Contents(manifest=manifest, tree=None)

    def _detail(self, seen: ImageView, records: list[ImageRecord]) -> ImageDetail:
        contents = self._contents(seen.image_digest)
        elsewhere: set[Digest] = set()
        for record in records:
            if record.image_digest != seen.image_digest:
                try:
                    elsewhere |= self._objects(record.image_digest).keys()
                except (NotFoundError, ContractError):
                    continue
        stored = self._store.chunk_sizes(contents.sizes())
        return detail(seen, contents, stored, elsewhere)

    def _usage(self, workspace: WorkspaceId, records: list[ImageRecord]) -> Usage:
        sizes: dict[Digest, int] = {}
        for record in records:
            try:
                sizes |= self._objects(record.image_digest)
            except (NotFoundError, ContractError):
                continue
        return Usage(
            images=len(records),
            logical_bytes=sum(record.bytes_total for record in records),
            distinct_bytes=sum(sizes.values()),
            stored_bytes=sum(self._store.chunk_sizes(sizes).values()),
            blob_bytes=self._store.kept_bytes(workspace),
        )

    # -- Giving up ------------------------------------------------------------------------------

    async def _give_up(self, entries: list[tuple[ImageRecord, int]]) -> None:
        images, steps = self._shell.bus.bucket(IMAGES), self._shell.bus.bucket(BUILD_STEPS)
        records: list[ImageRecord] = []
        for record, revision in entries:
            try:
                await images.delete(f"{record.workspace}.{record.image_digest}", revision)
            except ConflictError:  # asked for and built again just now: it stays
                continue
            records.append(record)
            log.info("image.given_up", image_digest=record.image_digest)
        left = [entry.value for entry in await images.entries() if entry.value is not None]
        wanted = {chain for record in left for chain in record.chains}
        chains = {chain for record in records for chain in record.chains} - wanted
        kept = {record.image_digest for record in left}
        ended: set[ImageDigest] = {record.image_digest for record in records}
        for entry in await steps.entries():
            if entry.value is None:
                continue
            if entry.key in chains:
                ended.add(entry.value.image_digest)
                await steps.delete(entry.key)
            else:
                kept.add(entry.value.image_digest)
        now = self._shell.clock.unix()
        for digest in ended - kept:
            await asyncio.to_thread(self._store.disown, Digest(digest), now)


def _users(needs: Needs, record: ImageRecord) -> list[str]:
    found = [
        use.who
        for use in needs.uses
        if use.image_digest == record.image_digest and use.workspace == record.workspace
    ]
    return sorted(set(found))
