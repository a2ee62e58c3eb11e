"""Weights that somebody sent, piece by piece: what is still missing, and reading what is here.

What a workspace has in models of its own is not sent again. Nothing else of the store counts as here: who knows a
digest of another's weights gets nothing for it, and does not learn that they are here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from glowplug_contracts.errors import InvalidRequestError, PlatformError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.messages.model import ModelRecord
from glowplug_contracts.streams import MODELS
from glowplug_contracts.tree_rules import decode_tree
from glowplug_contracts.trees import PIECE_BYTES
from glowplug_contracts.weights import ListedFile, Listing, decode_listing, pieces_of
from glowplug_runtime.bus import Bus

from glowplug_imagecache.models.sources import Say, Weights
from glowplug_imagecache.models.uploads import Uploads
from glowplug_imagecache.objects import digest_of, raw_form
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.store import Store


class UploadedWeights:
    """See the module; a `WeightSource`.

    Args:
        bytes_max: of one model.
    """

    def __init__(
        self, bus: Bus, store: Store, uploads: Uploads, quota: Quota, *, bytes_max: int
    ) -> None:
        self._quota = quota
        self._bus = bus
        self._store = store
        self._uploads = uploads
        self._bytes_max = bytes_max

    async def take(self, workspace: WorkspaceId, data: bytes) -> tuple[Digest, list[Digest]]:
        """Keep a listing; return its name, and the pieces that must be sent before it can be a model.

        Raises: InvalidRequestError (model.refused, model.too_large), QuotaExceededError (store.full),
            UnavailableError (model.no_room).
        """
        known = await self._known(workspace)
        listing = await asyncio.to_thread(decode_listing, data, self._bytes_max)
        with contextlib.closing(self._quota.room(workspace)) as room:
            await room.hold(_size(listing))

        def take() -> tuple[Digest, list[Digest]]:
            name = digest_of(data)
            self._uploads.put(workspace, name, data)
            pieces = pieces_of(listing.files)
            missing = self._missing(workspace, pieces, known)
            self._uploads.check_room(sum(pieces[one] for one in missing))
            return name, missing

        return await asyncio.to_thread(take)

    async def is_near(self, what: str) -> bool:
        """Return whether a listing lies here, and not with a replica that has a directory of its own."""
        return await asyncio.to_thread(self._uploads.has_anywhere, Digest(what))

    @contextlib.asynccontextmanager
    async def open(self, record: ModelRecord, what: str, say: Say) -> AsyncIterator[Weights]:
        """Yield what was sent. Raises: InvalidRequestError (model.incomplete)."""
        workspace, name = record.workspace, Digest(what)
        listing = await asyncio.to_thread(self._listing, workspace, name)
        pieces = pieces_of(listing.files)
        known = await self._known(workspace)
        missing = await asyncio.to_thread(self._missing, workspace, pieces, known)
        if missing:
            raise _incomplete(f"{len(missing)} of {len(pieces)} pieces were not sent")
        say("storing", 0, _size(listing))
        with contextlib.closing(self._quota.room(workspace)) as room:
            await room.hold(_size(listing))
            yield Weights(
                files=tuple((file.path, file.size, file.executable) for file in listing.files),
                contents=_Pieces(self._store, self._uploads, workspace, listing.files, known),
                revision=name,
            )
        await asyncio.to_thread(self._uploads.drop, workspace, (*pieces, name))

    def _listing(self, workspace: WorkspaceId, name: Digest) -> Listing:
        data = self._uploads.read(workspace, name)
        if data is None:
            raise _incomplete("its listing is not here (any more)")
        return decode_listing(data, self._bytes_max)

    def _missing(
        self, workspace: WorkspaceId, pieces: dict[Digest, int], known: frozenset[Digest]
    ) -> list[Digest]:
        lacking = [one for one in pieces if not self._uploads.has(workspace, one)]
        gone = set(self._store.missing([one for one in lacking if one in known]))
        return [one for one in lacking if one not in known or one in gone]

    async def _known(self, workspace: WorkspaceId) -> frozenset[Digest]:
        """Return the pieces of a workspace's own models."""
        entries = await self._bus.bucket(MODELS).entries(workspace)
        trees = {
            version.tree
            for entry in entries
            if entry.value is not None
            for version in entry.value.versions
        }
        return await asyncio.to_thread(self._pieces_of_trees, sorted(trees))

    def _pieces_of_trees(self, trees: Sequence[Digest]) -> frozenset[Digest]:
        known: set[Digest] = set()
        for digest in trees:
            with contextlib.suppress(PlatformError):  # one that is gone has nothing to give
                tree = decode_tree(self._store.blob(digest))
                known.update(Digest(piece.digest.hex()) for piece in tree.pieces)
        return frozenset(known)


class _Pieces:
    """Reads files by their pieces, wherever those are."""

    def __init__(
        self,
        store: Store,
        uploads: Uploads,
        workspace: WorkspaceId,
        files: Sequence[ListedFile],
        known: frozenset[Digest],
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._workspace = workspace
        self._files = files
        self._known = known

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Return bytes of a file that lie in one piece. Raises: InvalidRequestError (model.incomplete)."""
        file = self._files[content]
        if size == 0:
            return b""
        number, begin = divmod(offset, PIECE_BYTES)
        data = self._piece(Digest(file.pieces[number]))
        if len(data) != min(PIECE_BYTES, file.size - number * PIECE_BYTES):
            raise InvalidRequestError(
                "model.refused", f"{file.path[:200]!r}: its piece {number} has {len(data)} bytes"
            )
        return data[begin : begin + size]

    def _piece(self, digest: Digest) -> bytes:
        data = self._uploads.read(self._workspace, digest)
        if data is None and digest in self._known:
            stored = self._store.chunk(digest).stored
            data = raw_form(digest, stored) if stored is not None else None
        if data is None:
            raise _incomplete(f"piece {digest} is not here")
        return data


def _size(listing: Listing) -> int:
    return sum(file.size for file in listing.files)


def _incomplete(why: str) -> InvalidRequestError:
    return InvalidRequestError("model.incomplete", f"the upload is not whole: {why}; upload again")
