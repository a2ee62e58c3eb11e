"""A layer packed on one worker is the same tree on another."""

from __future__ import annotations

import asyncio
import os
import sys
import zipfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import ContractError, NotFoundError, RejectedError
from glowplug_contracts.ids import ContainerId, Digest, ImageDigest, WorkspaceId
from glowplug_contracts.manifests import decode_manifest, encode_manifest
from glowplug_imagecache.objects import frame_of

from tests.support.builders_images import (
    a_file,
    a_link,
    a_manifest,
    a_store,
    chunk_file,
    open_imagecache,
    open_worker_images,
    read_tree,
    write_tree,
)

NO_PARENT = ImageDigest("")
CTR = ContainerId("ctr_1")
WORKSPACE = WorkspaceId("default")
PYTHON = Path(sys.executable)


async def test_a_tree_with_everything_odd_round_trips(tmp_path: Path) -> None:
    layer = write_tree(
        tmp_path / "layer",
        {
            "bin/tool": b"#!/bin/sh\n",
            "site-packages/pkg/__init__.py": b"",
            "site-packages/ü ñ\n.py": b"odd",
            "big": os.urandom(3 * 1024 * 1024 + 5),
            "same": b"twice",
            "again": b"twice",
            "empty/folder": None,
            "to-dir": "empty",
            "bin/up": "../same",
            "dangling": "nowhere",
            "absolute": "/layer/bin/tool",
            "deep/er/absolute": "/layer/",
        },
    )
    (layer / "bin/tool").chmod(0o755)
    (layer / "same").chmod(0o400)
    (layer / "empty").chmod(0o555)
    expected = read_tree(layer) | {
        "absolute": ("link", "bin/tool"),
        "deep/er/absolute": ("link", "../../."),
    }
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w1", url) as first,
        open_worker_images(tmp_path / "w2", url) as second,
    ):
        committed = await first.commit(layer, NO_PARENT, "3.11", {"GREETING": "hi"})
        assert committed.error is None
        assert committed.files == 6
        image = await second.ensure(committed.image_digest)
    assert read_tree(image.root) == expected
    assert (image.env, image.python_version) == ({"GREETING": "hi"}, "3.11")
    assert (image.root / "same").stat().st_mode & 0o777 == 0o444
    assert (image.root / "bin/tool").stat().st_mode & 0o777 == 0o755


async def test_packing_again_pushes_only_what_is_new(tmp_path: Path) -> None:
    layer = write_tree(tmp_path / "layer", {"a": b"a" * 1000, "b": b"b" * 10})
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        first = await images.commit(layer, NO_PARENT, "3.11", {})
        again = await images.commit(layer, NO_PARENT, "3.11", {})
        write_tree(layer, {"c": b"c" * 7})
        more = await images.commit(layer, first.image_digest, "3.11", {})
    assert (first.bytes_total, first.bytes_pushed) == (1010, 1010)
    assert (again.image_digest, again.bytes_pushed) == (first.image_digest, 0)
    assert (more.bytes_total, more.bytes_pushed) == (1017, 7)


@pytest.mark.parametrize(
    ("name", "target"), [("evil", "/etc/passwd"), ("evil", "../../x"), ("d/evil", "../../x")]
)
async def test_a_layer_with_a_link_that_leads_out_is_not_stored(
    tmp_path: Path, name: str, target: str
) -> None:
    layer = write_tree(tmp_path / "layer", {name: target})
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        committed = await images.commit(layer, NO_PARENT, "3.11", {})
    assert committed.image_digest == ""
    assert committed.error is not None
    assert committed.error.code == "image.build_failed"
    assert "evil" in committed.error.message


async def test_a_layer_with_a_pipe_is_not_stored_and_does_not_block(tmp_path: Path) -> None:
    layer = write_tree(tmp_path / "layer", {})
    os.mkfifo(layer / "pipe")
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        committed = await images.commit(layer, NO_PARENT, "3.11", {})
    assert committed.error is not None
    assert "pipe" in committed.error.message


async def test_concurrent_starts_share_one_fetch_and_a_restart_needs_none(tmp_path: Path) -> None:
    layer = write_tree(tmp_path / "layer", {"a": b"a"})
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        digest = (await images.commit(layer, NO_PARENT, "3.11", {})).image_digest
        found = await asyncio.gather(*(images.ensure(digest) for _ in range(5)))
        assert len({image.root for image in found}) == 1
        assert images.digests() == [digest]
    async with open_worker_images(tmp_path / "w", "http://127.0.0.1:1") as images:
        assert (await images.ensure(digest)).root == found[0].root


async def test_what_the_disk_may_not_have_is_fetched_again(tmp_path: Path) -> None:
    layer = write_tree(tmp_path / "layer", {"a": b"a"})
    async with open_imagecache(a_store(tmp_path / "store")) as url:
        async with open_worker_images(tmp_path / "w", url) as images:
            digest = (await images.commit(layer, NO_PARENT, "3.11", {})).image_digest
            root = (await images.ensure(digest)).root
        (root / "a").write_bytes(b"")
        (tmp_path / "w" / "images" / f"{digest}.safe").unlink()
        (tmp_path / "w" / "images" / "new-left-by-a-crash").mkdir()
        async with open_worker_images(tmp_path / "w", url) as images:
            assert images.digests() == []
            assert ((await images.ensure(digest)).root / "a").read_bytes() == b"a"
    assert sorted(path.name for path in (tmp_path / "w" / "images").iterdir()) == [
        digest,
        f"{digest}.safe",
    ]


async def test_an_image_whose_chunk_is_corrupt_is_not_found_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    layer = write_tree(tmp_path / "layer", {"a": b"right"})
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        digest = (await images.commit(layer, NO_PARENT, "3.11", {})).image_digest
        chunk_file(tmp_path / "store", frame_of(b"right").digest).write_bytes(b"rot")
        with pytest.raises(NotFoundError) as caught:
            await images.ensure(digest)
        assert caught.value.code == "image.not_found"
        assert list((tmp_path / "w" / "images").iterdir()) == []


async def test_refuses_manifests_of_other_hosts_and_ones_that_lead_out(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    foreign = store.add_blob(encode_manifest(a_manifest(host="plan9")))
    hostile = store.add_blob(encode_manifest(a_manifest(a_link("d", "/etc"), a_file("d/passwd"))))
    async with (
        open_imagecache(store) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        with pytest.raises(RejectedError, match="plan9"):
            await images.ensure(ImageDigest(foreign))
        with pytest.raises(ContractError):
            await images.ensure(ImageDigest(hostile))


async def test_a_build_begins_with_a_writable_copy_of_its_parent(tmp_path: Path) -> None:
    layer = write_tree(tmp_path / "layer", {"tool": b"1", "site-packages/x.py": b"2"})
    (layer / "tool").chmod(0o555)
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        parent = (await images.commit(layer, NO_PARENT, "3.11", {})).image_digest
        await images.prepare_build(CTR, WORKSPACE, parent, tmp_path / "build", PYTHON, mounts=True)
        (tmp_path / "build" / "layer" / "tool").write_bytes(b"changed")
        assert ((await images.ensure(parent)).root / "tool").read_bytes() == b"1"
        await images.prepare_build(
            CTR, WORKSPACE, NO_PARENT, tmp_path / "empty", PYTHON, mounts=True
        )
    assert set(read_tree(tmp_path / "empty" / "layer")) == {"bin", "site-packages"}


async def test_a_source_is_unpacked_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("app.py", b"print(1)")
    async with (
        open_imagecache(a_store(tmp_path / "store")) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        digest: Digest = await images.client.put((tmp_path / "s.zip").read_bytes(), WORKSPACE, 0)
        paths = await asyncio.gather(*(images.ensure_source(digest, WORKSPACE) for _ in range(3)))
        assert len(set(paths)) == 1
        assert read_tree(paths[0]) == {"app.py": ("file", (b"print(1)", False))}


async def test_a_manifest_is_readable_as_a_blob(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    layer = write_tree(tmp_path / "layer", {"a": b"a"})
    async with (
        open_imagecache(store) as url,
        open_worker_images(tmp_path / "w", url) as images,
    ):
        digest = (await images.commit(layer, NO_PARENT, "3.11", {})).image_digest
        host = images.host
    manifest = decode_manifest(store.blob(Digest(digest)))
    assert (manifest.host, [entry.path for entry in manifest.entries]) == (host, ["a"])
