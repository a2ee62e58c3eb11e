"""Pulls of models: uploads of one workspace, kept through the death of imagecache, told of, refused in our words."""

from __future__ import annotations

import io
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest, WorkspaceId
from glowplug_contracts.manifests import WORKSPACE_HEADER
from glowplug_contracts.messages.model import ModelPull, ModelRecord, PullState
from glowplug_contracts.streams import MODELS
from glowplug_contracts.trees import PIECE_BYTES
from glowplug_contracts.weights import ListedFile, Listing, piece_bytes
from glowplug_imagecache.models.uploads import KEPT_S, Uploads
from glowplug_imagecache.objects import digest_of

from tests.integration.imagecache.test_eviction import (
    a_beat,
    a_day_passes,
    a_keeper,
)
from tests.support.builders_images import TOKEN, a_store
from tests.support.eventually import eventually

W, OTHER = WorkspaceId("default"), WorkspaceId("other")


class Sender:
    """Sends weights as a gateway passes them on."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def listing(self, files: dict[str, bytes], workspace: WorkspaceId = W) -> dict[str, Any]:
        listed = [
            ListedFile(path, len(data), tuple(map(digest_of, _pieces(data))))
            for path, data in files.items()
        ]
        body = msgspec.json.encode(Listing(files=tuple(listed)))
        return await self._post("/models/listing", body, workspace)

    async def pieces(self, parts: list[bytes], workspace: WorkspaceId = W) -> dict[str, Any]:
        body = b"".join(piece_bytes(digest_of(part), part) for part in parts)
        return await self._post("/models/pieces", body, workspace)

    async def _post(self, path: str, body: bytes, workspace: WorkspaceId) -> dict[str, Any]:
        headers = {WORKSPACE_HEADER: workspace, "Authorization": f"Bearer {TOKEN}"}
        async with self._session.post(
            self._url + path, data=io.BytesIO(body), headers=headers
        ) as answer:
            data = await answer.read()
            found = msgspec.json.decode(data) if data else {}
            return {"status": answer.status, **found}


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


@pytest.fixture
async def sender(imagecache) -> AsyncIterator[Sender]:
    async with aiohttp.ClientSession() as session:
        yield Sender(imagecache.url, session)


async def ask(bus, source: str, name: str = "m", workspace: WorkspaceId = W, **more: Any) -> None:
    pull = ModelPull(**{"pull_id": f"pul_{os.urandom(4).hex()}", "source": source} | more)
    found = await bus.bucket(MODELS).get(f"{workspace}.{name}")
    there = found.value if found is not None and found.value is not None else None
    record = there or ModelRecord(workspace=workspace, name=name)
    await bus.bucket(MODELS).put(f"{workspace}.{name}", msgspec.structs.replace(record, pull=pull))


async def ended(bus, name: str = "m", workspace: WorkspaceId = W) -> ModelRecord:
    async def found() -> ModelRecord | None:
        entry = await bus.bucket(MODELS).get(f"{workspace}.{name}")
        record = entry.value if entry is not None else None
        return (
            record
            if record and (not record.pull or record.pull.state is PullState.FAILED)
            else None
        )

    return await eventually(found, what="the end of the pull")


DATA = random.Random(3).randbytes(2 * PIECE_BYTES + 5)
FILES = {"model.safetensors": DATA, "deep/config.json": b"{}", "empty": b""}


async def upload(
    sender: Sender, bus, files: dict[str, bytes], workspace: WorkspaceId = W
) -> ModelRecord:
    told = await sender.listing(files, workspace)
    parts = {digest_of(part): part for data in files.values() for part in _pieces(data)}
    await sender.pieces([parts[Digest(one)] for one in told["missing"]], workspace)
    await ask(bus, f"upload:{told['listing']}", workspace=workspace)
    return await ended(bus, workspace=workspace)


async def test_what_was_sent_becomes_a_tree_and_leaves_nothing_behind(
    bus, imagecache, images, sender, tmp_path
):
    record = await upload(sender, bus, FILES)
    assert record.pull is None
    version = record.versions[0]
    assert (version.files, version.bytes_total) == (3, len(DATA) + 2)
    root = await images.hold_tree(version.tree, "ctr_1", mounts=True)
    assert {path: (root / path).read_bytes() for path in FILES} == FILES
    assert (root / "empty").stat().st_mode & 0o777 == 0o644
    # Containers that see the host's own files have it where their users can look.
    opened = await images.hold_tree(version.tree, "ctr_2", mounts=False)
    assert (opened / "deep" / "config.json").read_bytes() == b"{}"
    assert opened.parent.parent.stat().st_mode & 0o005 == 0o005
    assert root.parent.parent.stat().st_mode & 0o077 == 0
    await images.release("ctr_1")
    assert list((tmp_path / "store" / "uploads" / W).iterdir()) == []


async def test_only_what_a_workspace_lacks_of_its_own_is_missing(bus, sender):
    first = await sender.listing(FILES)
    assert len(first["missing"]) == 4
    await upload(sender, bus, FILES)
    again = await sender.listing(FILES)
    assert again["missing"] == [digest_of(b"{}")]  # small files always travel
    changed = await sender.listing({"a": DATA[:-1]})
    assert changed["missing"] == [digest_of(DATA[2 * PIECE_BYTES : -1])]
    # Another workspace is asked for all of it, and gets nothing by naming it.
    stranger = await sender.listing(FILES, OTHER)
    assert len(stranger["missing"]) == 4
    await ask(bus, f"upload:{stranger['listing']}", workspace=OTHER)
    refused = await ended(bus, workspace=OTHER)
    assert refused.versions == ()
    assert refused.pull.error.code == "model.incomplete"


async def test_a_pull_whose_imagecache_died_is_done_by_another(bus, sender):
    told = await sender.listing({"a": DATA})
    await sender.pieces(_pieces(DATA))
    await ask(bus, f"upload:{told['listing']}", state=PullState.PULLING, owner="ins_dead")
    assert (await ended(bus)).versions[0].bytes_total == len(DATA)


async def test_a_failed_pull_keeps_what_was_there_and_can_be_tried_again(bus, sender):
    before = await upload(sender, bus, {"a": b"one"})
    for source, code in (
        ("upload:" + "0" * 64, "model.incomplete"),
        ("nonsense", "model.bad_source"),
    ):
        await ask(bus, source)
        record = await ended(bus)
        assert record.pull.error.code == code
        assert record.versions == before.versions
    after = await upload(sender, bus, {"a": b"two"})
    assert after.pull is None
    assert after.versions[1:] == before.versions


async def test_what_a_model_needs_is_never_evicted(bus, imagecache, images, sender):
    kept = (await upload(sender, bus, FILES)).versions[0]
    await sender.listing({"gone": b"gone"})
    await sender.pieces([b"gone"])
    told = await sender.listing({"gone": b"gone"})
    await ask(bus, f"upload:{told['listing']}", name="other")
    gone = (await ended(bus, "other")).versions[0]
    await bus.bucket(MODELS).delete(f"{W}.other")
    store = a_store(Path(imagecache.settings.data_dir))
    a_day_passes(store)
    # A container that was started with it has it still.
    beat = a_beat("")
    holding = msgspec.structs.replace(beat.containers[0], trees=(gone.tree,))
    keeper = a_keeper(imagecache, store, [msgspec.structs.replace(beat, containers=(holding,))])
    await keeper.tick()
    assert keeper.last is not None
    assert keeper.last.trees == ()
    keeper = a_keeper(imagecache, store, [beat])
    await keeper.tick()
    assert keeper.last is not None
    assert keeper.last.trees == (gone.tree,)
    root = await images.hold_tree(kept.tree, "ctr_1", mounts=True)
    assert {path: (root / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize("told", [{"workspace_bytes_max": 100}])
async def test_a_quota_is_said_before_anything_is_sent(bus, sender):
    answer = await sender.listing({"a": bytes(101)})
    assert (answer["status"], answer["error"]["code"]) == (429, "store.full")
    assert (await upload(sender, bus, {"a": bytes(90)})).versions[0].bytes_total == 90
    assert (await sender.listing({"a": bytes(90)}, OTHER))["status"] == 200


async def test_pieces_that_are_not_what_they_are_called_are_refused(sender):
    headers = piece_bytes(digest_of(b"said"), b"sent")
    answer = await sender._post("/models/pieces", headers, W)
    assert (answer["status"], answer["error"]["code"]) == (422, "request.bad_digest")
    answer = await sender._post("/models/pieces", headers[:-1], W)
    assert (answer["status"], answer["error"]["code"]) == (422, "request.invalid")
    answer = await sender._post("/models/listing", b'{"files": [{"path": "../x", "size": 0}]}', W)
    assert (answer["status"], answer["error"]["code"]) == (422, "model.refused")


def test_a_disk_without_room_is_said_and_old_pieces_go(tmp_path):
    uploads = Uploads(tmp_path / "uploads", 0)
    uploads.put(W, digest_of(b"x"), b"x")
    path = tmp_path / "uploads" / W / digest_of(b"x")
    now = path.stat().st_mtime
    assert uploads.sweep(now + KEPT_S - 60) == 0
    path.write_bytes(b"torn")
    assert uploads.read(W, digest_of(b"x")) is None
    uploads.put(W, digest_of(b"x"), b"x")
    assert uploads.sweep(now + KEPT_S + 3600) == 1
    full = Uploads(tmp_path / "uploads", 1 << 60)
    with pytest.raises(Exception, match="kept free") as caught:
        full.put(W, digest_of(b"x"), b"x")
    assert caught.value.code == "model.no_room"
    with pytest.raises(InvalidRequestError):
        uploads.put(W, digest_of(b"x"), b"y")
