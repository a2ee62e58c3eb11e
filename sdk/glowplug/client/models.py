"""Weights on their way to the platform: named piece by piece, sent where they are missing, waited for.

What broke off is sent no second time: the platform says what it lacks. Files are read twice, once to name their
pieces and once to send what is missing; what changed in between is told, not stored.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import PIECE_BYTES
from glowplug_contracts.weights import UPLOAD, ListedFile, Listing, check_files, piece_bytes

from glowplug.client.loop import in_thread
from glowplug.errors import GlowplugError, InvalidInputError, NotFoundError, RequestError, error_for
from glowplug.model import Model, ModelStatus

if TYPE_CHECKING:
    from glowplug.client.http import Http

# Bytes of pieces in one request, and requests at once.
BATCH_BYTES = 8 * 1024 * 1024
SENDERS = 3
LOOK_S = 0.1
LOOK_MAX_S = 1.0
# What was sent may be swept, or be another upload's, before it is a model.
TRIES_MAX = 3
WITHOUT_BOUND = 1 << 62

# A text, bytes done, bytes in all.
Say = Callable[[str, int, int], None]
# Where a piece's bytes are: file, offset, size.
Place = tuple[Path, int, int]


async def model_status(http: Http, name: str) -> ModelStatus:
    """Return what the platform says about a model. Raises: NotFoundError."""
    return status_of(await http.request_json("GET", f"/models/{name}/status"))


async def pull_model(
    http: Http, name: str, source: str, say: Say, *, credentials: str = ""
) -> ModelStatus:
    """Have weights brought; return when containers can have them. Raises: GlowplugError."""
    asked = {"name": name, "source": source, "credentials": credentials}
    await http.request_json("POST", "/models/pull", asked)
    return await wait_for_model(http, name, say)


async def wait_for_model(http: Http, name: str, say: Say) -> ModelStatus:
    """Return a model once its pull has ended. Raises: the pull's error."""
    pause = LOOK_S
    while True:
        found = await http.request_json("GET", f"/models/{name}/status")
        if found["state"] == "ready":
            return status_of(found)
        if found["state"] == "failed":
            error = found["error"]
            raise error_for(str(error["code"]), f"model {name}: {error['message']}", status=422)
        say(found["text"] or found["state"], found["bytes_done"] or 0, found["bytes_total"] or 0)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LOOK_MAX_S)


async def ensure_models(http: Http, models: Sequence[Model], say: Say) -> None:
    """Upload those of a function's models that are folders of this machine, and bring what is not there.

    Raises: GlowplugError.
    """
    for model in models:
        if model.directory is not None:
            await upload_model(http, model.name, model.directory, say)
        elif model.source and not await _has(http, model):
            await pull_model(http, model.name, model.source, say, credentials=model.credentials)


async def upload_model(http: Http, name: str, folder: Path, say: Say) -> ModelStatus:
    """Make a folder the latest version of a model; return when containers can have it.

    Raises: InvalidInputError for files that no model may have; GlowplugError.
    """
    files = await in_thread(list_folder, folder)
    listing, places = await in_thread(read_folder, files, say)
    data = msgspec.json.encode(listing)
    for tries in range(1, TRIES_MAX + 1):
        body = await http.request("POST", "/api/v1/models/listing", body=data)
        answer = body.json()
        await _send(http, [(Digest(one), places[one]) for one in answer["missing"]], say)
        try:
            return await pull_model(http, name, f"{UPLOAD}:{answer['listing']}", say)
        except RequestError as err:
            if err.code != "model.incomplete" or tries == TRIES_MAX:
                raise
    raise AssertionError("unreachable")


def status_of(found: dict[str, Any]) -> ModelStatus:
    """Return an answer as a value."""
    error = found.get("error") or {}
    return ModelStatus(
        name=found["name"],
        state=found["state"],
        progress=found["progress"] / 100,
        digest=found["digest"],
        bytes=found["bytes"],
        files=found["files"],
        versions=tuple(one["digest"] for one in found["versions"]),
        error=str(error.get("message", "")),
    )


def list_folder(root: Path) -> list[tuple[str, Path, os.stat_result]]:
    """Return a folder's files by their paths in it, sorted. Links to files are followed, those to folders are not.

    Raises: InvalidInputError naming what no model may have.
    """
    if not root.is_dir():
        raise InvalidInputError(f"{root} is no folder", code="request.invalid")
    found: list[tuple[str, Path, os.stat_result]] = []
    for current, folders, names in os.walk(root, onerror=_raise):
        folders.sort()
        for name in folders:
            if (Path(current) / name).is_symlink():
                raise _unfit(Path(current) / name, "is a link to a folder; copy what it leads to")
        for name in names:
            path = Path(current) / name
            try:
                facts = path.stat()
            except OSError as err:
                raise _unfit(path, f"can't be read: {err.strerror}") from err
            if not stat.S_ISREG(facts.st_mode):
                raise _unfit(path, "is no file")
            found.append((path.relative_to(root).as_posix(), path, facts))
    found.sort(key=lambda one: one[0])
    try:
        check_files(((path, facts.st_size) for path, _, facts in found), WITHOUT_BOUND)
    except InvalidRequestError as err:
        raise InvalidInputError(f"{root}: {err}", code=err.code) from err
    return found


def read_folder(
    files: Sequence[tuple[str, Path, os.stat_result]], say: Say
) -> tuple[Listing, dict[str, Place]]:
    """Return the listing of files, and where each piece is. Blocks."""
    total = sum(facts.st_size for _, _, facts in files)
    done = 0
    listed: list[ListedFile] = []
    places: dict[str, Place] = {}
    for name, path, facts in files:
        pieces: list[str] = []
        for offset, data in _pieces(path):
            digest = _digest(data)
            pieces.append(digest)
            places.setdefault(digest, (path, offset, len(data)))
            done += len(data)
            say("reading", done, total)
        size = sum(places[one][2] for one in pieces)
        listed.append(
            ListedFile(name, size, tuple(pieces), executable=bool(facts.st_mode & stat.S_IXUSR))
        )
    return Listing(files=tuple(listed)), places


def batches(missing: Sequence[tuple[Digest, Place]]) -> Iterator[list[tuple[Digest, Place]]]:
    """Yield what goes into each request."""
    batch: list[tuple[Digest, Place]] = []
    size = 0
    for digest, place in missing:
        if batch and size + place[2] > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((digest, place))
        size += place[2]
    if batch:
        yield batch


async def _has(http: Http, model: Model) -> bool:
    """Return whether the latest version of a model is from the source that the program names."""
    try:
        found = await http.request_json("GET", f"/models/{model.name}/status")
    except NotFoundError:
        return False
    return bool(found["versions"]) and found["versions"][0]["source"] == model.source


async def _send(http: Http, missing: Sequence[tuple[Digest, Place]], say: Say) -> None:
    waiting = batches(missing)
    total = sum(place[2] for _, place in missing)
    done = 0

    async def send() -> None:
        nonlocal done
        for batch in waiting:  # shared: whoever is free takes the next one
            body = await in_thread(_read_batch, batch)
            await http.request("POST", "/api/v1/models/pieces", body=body)
            done += sum(place[2] for _, place in batch)
            say("uploading", done, total)

    failed: BaseExceptionGroup[GlowplugError] | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(SENDERS, len(missing))):
                tasks.create_task(send())
    except* GlowplugError as group:
        failed = group  # raised outside, since what is raised in here comes out in a group
    if failed is not None:
        raise failed.exceptions[0] from failed  # all fail for the same reason


def _read_batch(batch: Sequence[tuple[Digest, Place]]) -> bytes:
    parts: list[bytes] = []
    for digest, (path, offset, size) in batch:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if _digest(data) != digest:
            raise _unfit(path, "changed while it was being uploaded")
        parts.append(piece_bytes(digest, data))
    return b"".join(parts)


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            yield offset, data
            offset += len(data)


def _digest(data: bytes) -> str:
    from blake3 import blake3  # noqa: PLC0415 - not in containers

    return blake3(data).hexdigest()


def _unfit(path: Path, why: str) -> InvalidInputError:
    return InvalidInputError(f"{path} {why}", code="model.refused")


def _raise(error: OSError) -> None:
    raise InvalidInputError(
        f"{error.filename} can't be read: {error.strerror}", code="model.refused"
    )
