"""Formats of the chunk store: batches of chunks, image manifests, and which paths an image may hold.

Workers write manifests and batches (`images/pack.py`, `images/fetch.py`), imagecache keeps and sends
them. Pure bytes and values: hashing and compression happen outside. Whatever arrives here came over a
network and may be hostile, so every decoder checks bounds and every path before anybody opens a file.
A batch is frames, one after another: 32 bytes of digest, the stored and the raw length (4 bytes each,
big-endian), then the zstd frame. A stored length of `MISSING` says that the chunk is not there.
Blobs are named with WORKSPACE_HEADER, which says whose they are; without, they are the platform's own
(manifests). One workspace's are not there for another, whoever knows their digest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import ContractError, InvalidRequestError
from glowplug_contracts.ids import Digest, check_digest
from glowplug_contracts.messages.image import ImageManifest, ManifestEntry

# Small files are one object each; larger ones are cut at file-aligned multiples of this, because
# pieces of a flattened image do not dedup (a 2 MB insert made 84 % of the bytes new).
CHUNK_BYTES = 1024 * 1024
# A zstd frame of incompressible bytes is a little longer than they are.
STORED_BYTES_MAX = CHUNK_BYTES + 16 * 1024
BATCH_CHUNKS_MAX = 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
DIGESTS_ASKED_MAX = 8192
# What the starts of one tree are known to read: at most 2 GiB that a start may wait for.
HOT_OBJECTS_MAX = 2048
# Of workers that have a tree, so many are told of at once.
PEERS_TOLD_MAX = 8
URL_CHARS_MAX = 2048
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
ENTRIES_MAX = 1_000_000
PATH_BYTES_MAX = 4096
NAME_BYTES_MAX = 255
# Readers of trees call themselves per directory.
DEPTH_MAX = 200
WORKSPACE_HEADER = "X-Workspace"
# What a mode may say: no set-uid, no set-gid, no sticky bit.
MODE_MASK = 0o777

_HEAD = struct.Struct(">32sII")
_MISSING_LENGTH = 0xFFFFFFFF


class ChunkFrame(msgspec.Struct, frozen=True):
    """One chunk of a batch. `stored` is its zstd frame; None: the sender does not have it."""

    digest: Digest
    raw_size: int
    stored: bytes | None


def plan_pieces(size: int) -> list[tuple[int, int]]:
    """Return (offset, size) of the objects that a file of `size` bytes becomes; none if empty."""
    return [(at, min(CHUNK_BYTES, size - at)) for at in range(0, size, CHUNK_BYTES)]


def batch_bytes(frame: ChunkFrame) -> bytes:
    """Return one frame of a batch as it travels."""
    return b"".join(batch_parts(frame))


def batch_parts(frame: ChunkFrame) -> tuple[bytes, ...]:
    """Return the same in parts, for whoever joins many: a body is not copied for it."""
    stored = _MISSING_LENGTH if frame.stored is None else len(frame.stored)
    head = _HEAD.pack(bytes.fromhex(frame.digest), stored, frame.raw_size)
    return (head,) if frame.stored is None else (head, frame.stored)


class BatchReader:
    """Turns received bytes into frames, whatever pieces they arrive in. Holds at most one frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[ChunkFrame]:
        """Take more bytes; yield the frames that are complete now.

        Raises: ContractError (platform.contract) for a chunk longer than any may be.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _HEAD.size:
                name, stored, raw_size = _HEAD.unpack_from(self._buffer, at)
                missing = stored == _MISSING_LENGTH
                length = 0 if missing else stored
                if length > STORED_BYTES_MAX or raw_size > CHUNK_BYTES:
                    raise ContractError(
                        "platform.contract", f"a chunk of {stored} stored, {raw_size} raw bytes"
                    )
                end = at + _HEAD.size + length
                if len(self._buffer) < end:
                    break
                body = None if missing else bytes(self._buffer[at + _HEAD.size : end])
                at = end
                yield ChunkFrame(Digest(name.hex()), raw_size, body)
        finally:
            del self._buffer[:at]

    def finish(self) -> None:
        """Check that the batch ended with a whole frame. Raises: ContractError."""
        if self._buffer:
            raise ContractError(
                "platform.contract", f"a batch of chunks ended {len(self._buffer)} bytes into one"
            )


def encode_digests(digests: Iterable[Digest]) -> bytes:
    """Return a list of digests as `/chunks/missing` and `/chunks/get` take it."""
    return encode(list(digests), "msgpack")


def decode_digests(data: bytes) -> list[Digest]:
    """Return the digests that were asked for, each well formed and not too many.

    Raises: ContractError, InvalidRequestError.
    """
    digests = decode(data, list[str], "msgpack")
    if len(digests) > DIGESTS_ASKED_MAX:
        raise InvalidRequestError(
            "request.too_large", f"{len(digests)} digests at once; ask for {DIGESTS_ASKED_MAX}"
        )
    return [check_digest(digest) for digest in digests]


def decode_peers(data: bytes) -> list[str]:
    """Return where workers that have a tree give it out, as `/trees/{digest}/peers` says. Raises: ContractError."""
    urls = decode(data, list[str], "msgpack")
    if len(urls) > PEERS_TOLD_MAX or any(
        len(url) > URL_CHARS_MAX or not url.startswith(("http://", "https://")) for url in urls
    ):
        raise ContractError("platform.contract", "this is no list of where workers answer")
    return urls


def group_by_size(sizes: Mapping[Digest, int]) -> list[list[Digest]]:
    """Return the digests in batches within BATCH_CHUNKS_MAX and BATCH_BYTES_MAX, in order."""
    batches: list[list[Digest]] = []
    room_bytes = 0
    for digest, size in sizes.items():
        if not batches or len(batches[-1]) == BATCH_CHUNKS_MAX or size > room_bytes:
            batches.append([])
            room_bytes = BATCH_BYTES_MAX
        batches[-1].append(digest)
        room_bytes -= size
    return batches


def chunk_sizes(manifest: ImageManifest) -> dict[Digest, int]:
    """Return every chunk that the image needs, once, with its raw size, in the image's order."""
    return {chunk.digest: chunk.size for entry in manifest.entries for chunk in entry.chunks}


def encode_manifest(manifest: ImageManifest) -> bytes:
    """Return the bytes whose BLAKE3 is the image's digest. Entries are sorted, so equal trees match."""
    entries = tuple(sorted(manifest.entries, key=lambda entry: entry.path.split("/")))
    ordered = msgspec.structs.replace(
        manifest, entries=entries, env=dict(sorted(manifest.env.items()))
    )
    return encode(ordered, "msgpack")


def decode_manifest(data: bytes) -> ImageManifest:
    """Return the manifest in `data`, checked. Raises: ContractError if it is none, or breaks a rule."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ContractError("platform.contract", f"a manifest of {len(data)} bytes")
    manifest = decode(data, ImageManifest, "msgpack")
    try:
        check_entries(manifest.entries)
    except InvalidRequestError as err:
        raise ContractError("platform.contract", f"no image manifest: {err}") from err
    return manifest


def check_entries(entries: Sequence[ManifestEntry]) -> None:
    """Check that the entries make a tree which stays inside its root, with every file covered.

    Raises: InvalidRequestError (request.invalid) naming the first path that breaks a rule.
    """
    if len(entries) > ENTRIES_MAX:
        raise _bad("", f"{len(entries)} entries; an image may have {ENTRIES_MAX}")
    kinds: dict[str, str] = {}
    for entry in entries:
        check_path(entry.path)
        if entry.path in kinds:
            raise _bad(entry.path, "is there twice")
        _check_entry(entry)
        kinds[entry.path] = entry.kind
    for path in kinds:
        parent = path.rpartition("/")[0]
        if parent and kinds.get(parent) != "dir":
            raise _bad(path, "is not inside a directory of the image")


def check_path(path: str) -> str:
    """Return `path` if it is relative, normal and stays inside. Raises: InvalidRequestError."""
    _check_text(path, path)
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise _bad(path, "is not a plain relative path")
    if len(parts) > DEPTH_MAX:
        raise _bad(path, f"lies deeper than {DEPTH_MAX} directories")
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        raise _bad(path, f"has a name longer than {NAME_BYTES_MAX} bytes")
    return path


def check_link(path: str, target: str) -> str:
    """Return `target` if the symbolic link at `path` can't lead out of the tree.

    '..' is taken only at the front of a target: after a name it would climb from wherever that name
    leads, which may be another link. Raises: InvalidRequestError.
    """
    _check_text(path, target)
    if target.startswith("/"):
        raise _bad(path, f"links to the absolute path {target!r}")
    parts = [part for part in target.split("/") if part not in {"", "."}]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    if ".." in parts[climbs:]:
        raise _bad(path, f"links to {target!r}, which climbs after a name")
    if climbs > path.count("/"):
        raise _bad(path, f"links to {target!r}, outside the image")
    return target


def _check_entry(entry: ManifestEntry) -> None:
    if entry.mode & ~MODE_MASK:
        raise _bad(entry.path, f"has mode {entry.mode:o}; only permission bits are kept")
    if entry.kind == "file":
        _check_chunks(entry)
    elif entry.kind == "link":
        check_link(entry.path, entry.target)
    elif entry.kind != "dir":
        raise _bad(entry.path, f"is a {entry.kind!r}; images hold files, directories and links")
    if entry.kind != "file" and (entry.chunks or entry.size):
        raise _bad(entry.path, "holds content, and is no file")


def _check_chunks(entry: ManifestEntry) -> None:
    at = 0
    for chunk in entry.chunks:
        check_digest(chunk.digest)
        if chunk.offset != at or not 0 < chunk.size <= CHUNK_BYTES:
            raise _bad(entry.path, f"has a gap, or a bad chunk, at byte {at}")
        at += chunk.size
    if at != entry.size:
        raise _bad(entry.path, f"has {entry.size} bytes, and chunks for {at}")


def _check_text(path: str, text: str) -> None:
    if not text or "\0" in text:
        raise _bad(path, "is empty, or holds a zero byte")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise _bad(path, "is not UTF-8; rename it") from None
    if length > PATH_BYTES_MAX:
        raise _bad(path, f"is longer than {PATH_BYTES_MAX} bytes")


def _bad(path: str, why: str) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"path {path[:200]!r} {why}")
