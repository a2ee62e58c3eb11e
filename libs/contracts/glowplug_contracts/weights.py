"""Weights on their way into the store: where they may come from, and what an upload says. Pure.

An upload names every file by its path and the digests of its pieces (a listing), is told which pieces are
not here, sends those, and asks for the listing to be made a tree. Paths come from users' machines and from
listings of other people's servers, so what may be one is decided here, for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest, check_digest, check_name
from glowplug_contracts.manifests import DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX
from glowplug_contracts.trees import PIECE_BYTES

LISTING_FORMAT: Final = 1
# What a listing takes in memory and as JSON: a megabyte of weights is some 70 bytes of it.
LISTING_BYTES_MAX: Final = 64 * 1024 * 1024
FILES_MAX: Final = 100_000
# Versions that a name keeps; older ones can't be asked for by their digest any more.
VERSIONS_MAX: Final = 8
# Models that one container has.
MODELS_MAX: Final = 16
SOURCE_BYTES_MAX: Final = 2_048
# One request of an upload: its pieces, each behind DIGEST + four bytes of length.
PIECES_BYTES_MAX: Final = 16 * 1024 * 1024
UPLOAD: Final = "upload"
HUB: Final = "hf"
VOLUME: Final = "volume"
HUB_REVISION: Final = "main"
_DIGEST_BYTES: Final = 32
_HEAD_BYTES: Final = _DIGEST_BYTES + 4
# The routes of /models have these words where a model's name stands.
_TAKEN_NAMES: Final = frozenset({"pull"})
# One name of an old repository, two else; as the hub takes them.
_REPOSITORY: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_.-]{1,96})?\Z")
_REVISION: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}\Z")
_NAME: Final = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z")


class ListedFile(msgspec.Struct, frozen=True, gc=False):
    """One file: where it lies below the model's root, its size in bytes, and its pieces of PIECE_BYTES."""

    path: str
    size: int
    pieces: tuple[str, ...] = ()
    executable: bool = False


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All files of an upload."""

    format: int = LISTING_FORMAT
    files: tuple[ListedFile, ...]


class Source(msgspec.Struct, frozen=True):
    """Where weights come from: `kind` is UPLOAD, HUB or VOLUME, `what` names it there.

    `revision`: which one of it, where it has any.
    """

    kind: str
    what: str
    revision: str = ""


def check_model_name(text: str) -> str:
    """Return `text` if it may name a model. Raises: InvalidRequestError (request.bad_name)."""
    if not _NAME.match(text) or text in _TAKEN_NAMES:
        raise InvalidRequestError(
            "request.bad_name",
            f"model {text[:80]!r}: use 1 to 63 letters, digits, '-' or '_', starting and ending with a letter "
            "or digit, and not the word 'pull'",
        )
    return text


def parse_source(text: str) -> Source:
    """Return where weights come from. Raises: InvalidRequestError (model.bad_source)."""
    kind, colon, what = text.partition(":")
    if len(text) > SOURCE_BYTES_MAX or not text.isprintable() or not colon or not what:
        raise bad_source(text, "it is no source")
    if kind == UPLOAD:
        return Source(UPLOAD, check_digest(what))
    if kind == HUB:
        repository, _, revision = what.partition("@")
        if not _REPOSITORY.match(repository) or ".." in repository:
            raise bad_source(text, "a repository is written like hf:organisation/name")
        if not _REVISION.match(revision or HUB_REVISION) or ".." in revision:
            raise bad_source(text, "a revision is a branch, a tag or a commit")
        return Source(HUB, repository, revision or HUB_REVISION)
    if kind == VOLUME:
        name, slash, path = what.partition("/")
        check_name(name, "volume")
        return Source(VOLUME, f"{name}/{'/'.join(check_path(path))}" if slash else name)
    raise bad_source(text, f"{kind[:40]!r} is no kind of source")


def bad_source(text: str, why: str) -> InvalidRequestError:
    """Return the error for a source that can't be one."""
    return InvalidRequestError(
        "model.bad_source",
        f"{text[:200]!r}: {why}; write hf:organisation/name@revision or volume:name/folder, or upload a folder "
        "of your machine",
    )


def decode_listing(data: bytes, bytes_max: int) -> Listing:
    """Return a listing whose every word was checked.

    Args:
        bytes_max: of all files together.

    Raises: InvalidRequestError (model.refused, request.too_large) naming the first path at fault.
    """
    if len(data) > LISTING_BYTES_MAX:
        raise InvalidRequestError(
            "request.too_large",
            f"a listing of {len(data)} bytes; at most {LISTING_BYTES_MAX} are read: put small files into archives",
        )
    try:
        listing = msgspec.json.decode(data, type=Listing)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise InvalidRequestError("model.refused", f"no listing of files: {err}") from err
    if listing.format != LISTING_FORMAT:
        raise InvalidRequestError("model.refused", f"a listing of format {listing.format}")
    check_files(((file.path, file.size) for file in listing.files), bytes_max)
    for file in listing.files:
        if len(file.pieces) != -(-file.size // PIECE_BYTES):
            raise refused(file.path, f"has {len(file.pieces)} pieces and {file.size} bytes")
        for piece in file.pieces:
            check_digest(piece)
    return listing


def check_files(files: Iterable[tuple[str, int]], bytes_max: int) -> int:
    """Check paths and sizes; return the sizes' sum.

    Raises: InvalidRequestError (model.refused; model.too_large).
    """
    total = 0
    names: set[str] = set()
    folders: set[str] = set()
    for path, size in files:
        parts = check_path(path)
        if path in names:
            raise refused(path, "is there twice")
        names.add(path)
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        if len(names) > FILES_MAX:
            raise InvalidRequestError(
                "model.too_large",
                f"over {FILES_MAX} files; a model may have so many: put small files into archives",
            )
        if size < 0:
            raise refused(path, f"has {size} bytes")
        total += size
        if total > bytes_max:
            raise InvalidRequestError(
                "model.too_large",
                f"over {bytes_max} bytes; no model of this platform may have more",
            )
    if not names:
        raise InvalidRequestError("model.refused", "there is no file in it")
    for path in names & folders:
        raise refused(path, "is a file and a folder")
    return total


def check_path(path: str) -> tuple[str, ...]:
    """Return a path's names. Raises: InvalidRequestError (model.refused) unless it stays below the root."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise refused(path, "is no text") from None
    parts = tuple(path.split("/"))
    if not path.isprintable() or "\\" in path:
        raise refused(path, "has a character that can't be shown, or a backslash")
    if any(part in ("", ".", "..") for part in parts):
        raise refused(path, "is no plain path below the model's folder")
    if size > PATH_BYTES_MAX or len(parts) > DEPTH_MAX:
        raise refused(path, f"is longer than {PATH_BYTES_MAX} bytes, or over {DEPTH_MAX} deep")
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        raise refused(path, f"has a name of over {NAME_BYTES_MAX} bytes")
    return parts


def refused(path: str, why: str) -> InvalidRequestError:
    """Return the error for a file that no model may have."""
    return InvalidRequestError("model.refused", f"{path[:200]!r} {why}")


def piece_bytes(digest: Digest, data: bytes) -> bytes:
    """Return a piece as it travels: its digest, its length, itself."""
    return bytes.fromhex(digest) + len(data).to_bytes(4) + data


class PieceReader:
    """Reads pieces from a body that comes in any cuts. Nothing is verified but lengths."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Digest, bytes]]:
        """Yield every piece that is complete now. Raises: InvalidRequestError (request.invalid)."""
        self._held += data
        while len(self._held) >= _HEAD_BYTES:
            size = int.from_bytes(self._held[_DIGEST_BYTES:_HEAD_BYTES])
            if not 0 < size <= PIECE_BYTES:
                raise InvalidRequestError(
                    "request.invalid", f"a piece of {size} bytes; 1 to {PIECE_BYTES} are possible"
                )
            if len(self._held) < _HEAD_BYTES + size:
                return
            digest = Digest(self._held[:_DIGEST_BYTES].hex())
            piece = bytes(self._held[_HEAD_BYTES : _HEAD_BYTES + size])
            del self._held[: _HEAD_BYTES + size]
            yield digest, piece

    def finish(self) -> None:
        """Raise InvalidRequestError (request.invalid) if the body ended within a piece."""
        if self._held:
            raise InvalidRequestError("request.invalid", "the body ends within a piece")


def pieces_of(files: Sequence[ListedFile]) -> dict[Digest, int]:
    """Return every piece of some files once, with its size."""
    found: dict[Digest, int] = {}
    for file in files:
        for number, piece in enumerate(file.pieces):
            found[Digest(piece)] = min(PIECE_BYTES, file.size - number * PIECE_BYTES)
    return found
