"""Outputs: files that the code of a task keeps for its caller, and for whoever gets a signed address.

A container sends a file in parts, each a blob under a lease; then it says which parts are the file, and the
record of that is the output. What is half sent is nobody's, and goes with its lease. The record and the
leases end together.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3
from glowplug_contracts.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    QuotaExceededError,
    UnavailableError,
)
from glowplug_contracts.ids import (
    Digest,
    InvocationId,
    OutputId,
    WorkspaceId,
    check_digest,
    check_id,
    derive_id,
)
from glowplug_contracts.messages.output import (
    OUTPUT_PART_BYTES_MAX,
    OUTPUT_URL_S_MAX,
    OUTPUTS_MAX,
    OutputKey,
    OutputPart,
    OutputRecord,
)
from glowplug_contracts.streams import OUTPUT_KEYS
from glowplug_contracts.subjects import OUTPUT, Address
from glowplug_runtime.bus import Delivery

from glowplug_gateway.auth import Inside
from glowplug_gateway.blobs import LEASE_S_MAX, Blobs, not_stored
from glowplug_gateway.output_links import check_output_name, signed_path
from glowplug_gateway.ports import Platform

KEY: Final = "platform"
KEY_BYTES: Final = 32
# Outputs that one listing looks at.
LISTED_MAX: Final = 100_000
# So much longer than its record a blob is leased, so that whoever reads at the very end reads it all.
LEASE_MORE_S: Final = 3_600.0
# Shows in a list without its parts being read.
HEADER_SHOWN: Final = "Glowplug-Output"


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What anybody of the workspace sees of an output."""

    output_id: OutputId
    task_id: InvocationId
    name: str
    size: int
    container_id: str
    saved_at: float
    kept_until: float


class Link(NamedTuple):
    """A public address without its origin, and when it ends (Unix seconds)."""

    path: str
    expires_at: int


class Outputs:
    """See the module.

    Args:
        platform, blobs: where records and bytes are.
        bytes_max: of one output.
        keep_s: how long one is kept at least, from when it was saved.
    """

    def __init__(self, platform: Platform, blobs: Blobs, *, bytes_max: int, keep_s: float) -> None:
        self._bus = platform.bus
        self._keys = platform.bus.bucket(OUTPUT_KEYS)
        self._clock = platform.clock
        self._blobs = blobs
        self._bytes_max = bytes_max
        self._keep_s = keep_s
        self._key: bytes | None = None

    async def take_part(self, workspace: WorkspaceId, data: bytes) -> OutputPart:
        """Store a piece of a file. Raises: InvalidRequestError, UnavailableError."""
        if not 0 < len(data) <= OUTPUT_PART_BYTES_MAX:
            raise InvalidRequestError(
                "request.invalid", f"a part has 1 to {OUTPUT_PART_BYTES_MAX} bytes, not {len(data)}"
            )
        digest = Digest(blake3(data).hexdigest())
        await self._blobs.of(workspace).put(digest, io.BytesIO(data))
        return OutputPart(digest=digest, size=len(data))

    async def save(
        self, inside: Inside, name: str, digests: Sequence[str], result_kept_s: float
    ) -> OutputRecord:
        """Make an output of parts that are stored.

        Args:
            inside: who asks; its invocation is whose output it is.
            name: of the file.
            digests: the parts in order.
            result_kept_s: how long the invocation's result may be there from now on: the output is kept so
                long, too, if that is longer than this platform keeps outputs.

        Raises: InvalidRequestError, QuotaExceededError, UnavailableError.
        """
        check_output_name(name)
        if not inside.parent:
            raise InvalidRequestError(
                "output.none_here",
                "an output belongs to the call or task whose code saves it, and none runs here: save it in "
                "the function, not in on_start or a thread that outlives the call",
            )
        if len(digests) > self._bytes_max // OUTPUT_PART_BYTES_MAX + 1:
            raise self._too_large()
        now = self._clock.unix()
        keep_s = min(LEASE_S_MAX - LEASE_MORE_S, max(self._keep_s, result_kept_s))
        parts = tuple([await self._leased(inside.workspace, digest, keep_s) for digest in digests])
        size = sum(part.size for part in parts)
        if size > self._bytes_max:
            raise self._too_large()
        record = OutputRecord(
            output_id=_output_id(inside, name, parts),
            workspace=inside.workspace,
            invocation_id=InvocationId(inside.parent),
            container_id=inside.container_id,
            name=name,
            size=size,
            parts=parts,
            saved_at=now,
            kept_until=now + keep_s,
        )
        await self._check_room(record)
        await self._bus.append(
            _at(record), record, headers={HEADER_SHOWN: _header(record)}, ttl_s=keep_s
        )
        return record

    async def find(self, output_id: str, workspace: WorkspaceId | None = None) -> OutputRecord:
        """Return an output; without a workspace, whoever's it is. Raises: NotFoundError."""
        return (await self._read(output_id, workspace))[0]

    async def remove(self, workspace: WorkspaceId, output_id: str) -> None:
        """Forget an output: its addresses end. Its bytes go when their lease does. Raises: NotFoundError."""
        record, sequence = await self._read(output_id, workspace)
        await self._bus.remove(_at(record), expect_last=sequence)

    async def link(self, workspace: WorkspaceId, output_id: str, expires_s: float) -> Link:
        """Return a public address that is good for so long, or until the output goes."""
        if not 1 <= expires_s <= OUTPUT_URL_S_MAX:
            raise InvalidRequestError(
                "request.invalid", f"expires_s must be 1 to {OUTPUT_URL_S_MAX:g} seconds"
            )
        record = await self.find(output_id, workspace)
        expires_at = int(min(self._clock.unix() + expires_s, record.kept_until))
        path = signed_path(await self.key(), record.output_id, record.name, expires_at)
        return Link(path, expires_at)

    async def list(self, workspace: WorkspaceId, task: str) -> list[Shown]:
        """Return outputs, newest first; of one task, or (task "") of all."""
        named = {"invocation_id": check_id("invocation", task)} if task else {}
        found: dict[str, Shown | None] = {}
        now = self._clock.unix()

        async def on_record(delivery: Delivery[OutputRecord]) -> None:
            text = delivery.headers.get(HEADER_SHOWN)
            shown = None if delivery.removed or text is None else _SHOWN.decode(text)
            if len(found) < LISTED_MAX or delivery.subject in found:
                found[delivery.subject] = shown

        following = await self._bus.follow(
            OUTPUT.pattern(workspace=workspace, **named),
            on_record,
            start="last_per_subject",
            headers_only=True,
        )
        try:
            await following.caught_up()
        finally:
            await following.close()
        there = [one for one in found.values() if one is not None and one.kept_until > now]
        return sorted(there, key=place_of, reverse=True)

    async def key(self) -> bytes:
        """Return what public addresses are signed with, made at the first use. Raises: UnavailableError."""
        if self._key is None:
            found = await self._keys.get(KEY)
            if found is None or found.value is None:
                made = OutputKey(secret=os.urandom(KEY_BYTES).hex())
                try:
                    await self._keys.create(KEY, made)
                except ConflictError:
                    return await self.key()  # another gateway was first
                self._key = bytes.fromhex(made.secret)
            else:
                self._key = bytes.fromhex(found.value.secret)
        return self._key

    async def part(self, workspace: WorkspaceId, part: OutputPart) -> bytes:
        """Return a part's bytes, whole: whoever reads them slowly holds up nobody else."""
        async with self._blobs.of(workspace).open(part.digest) as (_, pieces):
            data = b"".join([piece async for piece in pieces])
        if len(data) != part.size:
            raise UnavailableError("platform.unavailable", f"blob {part.digest} came cut off")
        return data

    async def _leased(self, workspace: WorkspaceId, digest: str, keep_s: float) -> OutputPart:
        checked = check_digest(digest)
        size = await self._blobs.of(workspace).lease(checked, keep_s + LEASE_MORE_S)
        if size is None:
            raise not_stored(checked)
        return OutputPart(digest=checked, size=size)

    async def _check_room(self, record: OutputRecord) -> None:
        task = OUTPUT.pattern(workspace=record.workspace, invocation_id=record.invocation_id)
        there = await self._bus.counts(task)
        if len(there) >= OUTPUTS_MAX and _at(record).subject not in there:
            raise QuotaExceededError(
                "output.too_many",
                f"{record.invocation_id} has {OUTPUTS_MAX} outputs; more is too many",
            )

    async def _read(
        self, output_id: str, workspace: WorkspaceId | None
    ) -> tuple[OutputRecord, int]:
        check_id("output", output_id)
        where = {} if workspace is None else {"workspace": workspace}
        stored = await self._bus.counts(OUTPUT.pattern(output_id=output_id, **where))
        for subject in stored:
            found = await self._bus.last(OUTPUT.at(**OUTPUT.parse(subject)))
            record = found.message if found is not None else None
            if found is not None and record is not None and record.kept_until > self._clock.unix():
                return record, found.sequence
        raise NotFoundError("output.not_found", f"there is no output {output_id}")

    def _too_large(self) -> InvalidRequestError:
        error = InvalidRequestError(
            "request.too_large", f"an output may have {self._bytes_max} bytes here"
        )
        error.http_status = 413
        return error


_SHOWN = msgspec.json.Decoder(Shown)


def shown(record: OutputRecord) -> Shown:
    """Return what is shown of an output."""
    return Shown(
        output_id=record.output_id,
        task_id=record.invocation_id,
        name=record.name,
        size=record.size,
        container_id=record.container_id,
        saved_at=record.saved_at,
        kept_until=record.kept_until,
    )


def place_of(one: Shown) -> tuple[float, str]:
    """Return where an output stands among others."""
    return one.saved_at, one.output_id


def _header(record: OutputRecord) -> str:
    # A header's text is ASCII.
    text = msgspec.json.encode(shown(record)).decode()
    return "".join(c if c.isascii() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _output_id(inside: Inside, name: str, parts: Sequence[OutputPart]) -> OutputId:
    """Return the id that follows from whose output it is, its name and its content."""
    words = [inside.workspace, inside.parent, name, *(part.digest for part in parts)]
    key = hashlib.blake2b("\n".join(words).encode(), digest_size=16)
    return OutputId(derive_id("output", key.digest()))


def _at(record: OutputRecord) -> Address[OutputRecord]:
    return OUTPUT.at(
        workspace=record.workspace,
        invocation_id=record.invocation_id,
        output_id=record.output_id,
    )
