"""Images of registries as bases: what is kept of them, and what each thing that goes wrong is called."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from glowplug_contracts.errors import PlatformError, UnavailableError
from glowplug_contracts.manifests import ChunkFrame
from glowplug_contracts.tree_rules import decode_tree
from glowplug_imagecache.bases import Bases
from glowplug_imagecache.contents import objects_needed
from glowplug_imagecache.folders import LayerFolder
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.registry.downloads import Download
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.manifests import Descriptor
from glowplug_imagecache.store import Store

from tests.support.bases import a_layer, open_bases, pulled
from tests.support.builders_images import a_store, chunk_file, extract, read_tree
from tests.support.scripted_registry import (
    ScriptedRegistry,
    instead,
    open_scripted,
    status,
)

HIDDEN = b"hidden by the next layer " * 4000


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    async with open_scripted() as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path / "store")


@pytest.fixture
async def bases(store: Store, tmp_path: Path) -> AsyncIterator[Bases]:
    async with open_bases(store, tmp_path / "store") as opened:
        yield opened


def an_image(registry: ScriptedRegistry, tag: str = "1", **config: object) -> str:
    below = a_layer({"etc/name": b"below", "big": HIDDEN, "small": b"hidden, too"})
    above = a_layer({"etc/name": b"above", ".wh.big": b"", ".wh.small": b""}, python="")
    registry.add_image(below, above, tag=tag, config={"config": config} if config else None)
    return f"{registry.host}/team/app:{tag}"


async def test_a_pulled_base_is_its_layers_laid_over_one_another(
    registry: ScriptedRegistry, bases: Bases, store: Store, tmp_path: Path
) -> None:
    name = an_image(
        registry, Env=["PATH=/usr/local/bin:/bin", "A=b", "odd", "=c"], WorkingDir="/srv"
    )
    said: list[str] = []
    manifest = await pulled(bases, name, said=said)
    base = manifest.base
    assert base is not None
    assert base.reference.startswith(f"{name}@sha256:")
    assert (base.path, base.env, base.cwd) == ("/usr/local/bin:/bin", {"A": "b"}, "/srv")
    assert (base.python, manifest.python_version) == ("/usr/local/bin/python3", "3.12")
    assert "Python 3.12 at /usr/local/bin/python3" in "".join(said)
    extract(store, base.tree, tmp_path / "root")
    tree = read_tree(tmp_path / "root")
    assert (tmp_path / "root/etc/name").read_bytes() == b"above"
    assert tree["usr/local/bin/python3"] == ("link", "python3.12")
    assert "big" not in tree


async def test_what_a_later_layer_hides_is_not_stored(
    registry: ScriptedRegistry, bases: Bases, store: Store
) -> None:
    manifest = await pulled(bases, an_image(registry))
    assert manifest.base is not None
    assert store.missing([digest_of(HIDDEN)]) == [digest_of(HIDDEN)]
    tree = decode_tree(store.blob(manifest.base.tree))
    chunks = {path.name for path in (store.temporary()[1].parent.parent / "chunks").glob("*/*")}
    assert chunks == {each.digest.hex() for each in (*tree.packs, *tree.pieces)}
    assert not tree.pieces


async def test_two_images_with_a_layer_in_common_pull_it_once(
    registry: ScriptedRegistry, bases: Bases
) -> None:
    shared = a_layer({"shared": b"s"})
    registry.add_image(shared, a_layer({"a": b"1"}, python=""), tag="a")
    registry.add_image(shared, a_layer({"a": b"2"}, python=""), tag="b")
    for tag in ("a", "b"):
        await pulled(bases, f"{registry.host}/app:{tag}")
    assert len(registry.asked("/blobs/")) == 2 * 2 + 1  # two configurations, three layers


@pytest.mark.parametrize(
    ("breaks", "code", "says"),
    [
        ("gone", "registry.unavailable", "503"),
        ("denied", "registry.denied", "127.0.0.1"),
        ("unknown tag", "registry.not_found", "no such image"),
        ("platform", "registry.no_platform", "linux/amd64"),
        ("manifest", "registry.corrupt", "other bytes"),
        ("layer", "registry.corrupt", "other bytes"),
        ("python", "image.unsupported", "python_version '3.13' is not in the image"),
        ("disk", "registry.no_room", "bytes free"),
        ("too large", "layer.too_large", "over 1000 bytes"),
    ],
)
async def test_what_goes_wrong_has_one_name_and_the_next_try_works(
    registry: ScriptedRegistry, store: Store, tmp_path: Path, breaks: str, code: str, says: str
) -> None:
    name = an_image(registry)
    digest = next(each for each in registry.manifests if each.startswith("sha256:"))
    options: dict[str, str] = {}
    bounds, free = Bounds(), 0
    match breaks:
        case "gone":
            registry.always.append(status(503))
        case "denied":
            registry.always.append(status(401, WWW_Authenticate="Basic realm=x"))
        case "unknown tag":
            options = {"tag": "2"}
        case "platform":
            options = {"platform": "linux/arm64"}
        case "manifest":
            registry.always.append(instead(b"{}", on="/manifests/"))
        case "layer":
            layer = max(registry.blobs.items(), key=lambda each: len(each[1]))
            registry.always.append(instead(b"x" * len(layer[1]), on=layer[0]))
        case "python":
            options = {"python_version": "3.13"}
        case "disk":
            free = 1 << 60
        case "too large":
            bounds = Bounds(bytes_max=1000)
    wanted = name.rpartition(":")[0] + f":{options.pop('tag', '1')}"
    if breaks == "manifest":
        wanted += f"@{digest}"
    async with open_bases(store, tmp_path / "store", bounds=bounds, free_bytes_min=free) as bases:
        with pytest.raises(PlatformError, match=says) as caught:
            await pulled(bases, wanted, **options)
    assert caught.value.code == code
    assert "\n" not in caught.value.message
    registry.always.clear()
    async with open_bases(store, tmp_path / "store") as bases:
        assert (await pulled(bases, name)).base is not None


async def test_credentials_are_shown_and_never_told(
    registry: ScriptedRegistry, bases: Bases, capsys: pytest.CaptureFixture[str]
) -> None:
    name = an_image(registry)
    mine = Credentials("builder", "open-sesame")

    async def only_mine(request):
        if request.headers.get("Authorization") == mine.basic:
            return None
        return await status(401, WWW_Authenticate="Basic realm=x")(request)

    registry.always.append(only_mine)
    said: list[str] = []
    manifest = await pulled(bases, name, logins={registry.host: mine}, said=said)
    assert manifest.base is not None
    with pytest.raises(PlatformError) as caught:
        await pulled(bases, name, logins={registry.host: Credentials("builder", "wrong-sesame")})
    assert caught.value.code == "registry.denied"
    everything = "".join(said) + str(manifest) + str(caught.value) + capsys.readouterr().out
    assert "sesame" not in everything


async def test_a_stopped_pull_leaves_nothing_half_written(
    registry: ScriptedRegistry, bases: Bases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = an_image(registry)
    put = Store.put_chunks
    reached, loop = asyncio.Event(), asyncio.get_running_loop()

    def slowly(self: Store, frames):
        loop.call_soon_threadsafe(reached.set)
        return put(self, frames)

    monkeypatch.setattr(Store, "put_chunks", slowly)
    pulling = asyncio.create_task(pulled(bases, name))
    await reached.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    root = store.temporary()[1].parent.parent
    assert [path for path in (root / "tmp").iterdir() if path.stat().st_size] == []
    assert (await pulled(bases, name)).base is not None


async def test_what_is_evicted_while_a_pull_stores_it_is_stored_again(
    registry: ScriptedRegistry, bases: Bases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, evicted = Store.put_chunks, []

    def put_and_evict(self: Store, frames: Sequence[ChunkFrame]) -> int:
        count = put(self, frames)
        if not evicted:  # as a round would whose grace is over
            evicted.extend(frame.digest for frame in frames)
            for digest in evicted:
                chunk_file(store.root, digest).unlink()
        return count

    monkeypatch.setattr(Store, "put_chunks", put_and_evict)
    manifest = await pulled(bases, an_image(registry))
    assert evicted
    assert store.missing(evicted) == []
    assert store.missing(list(objects_needed(store, manifest))) == []


async def test_a_pull_whose_objects_are_evicted_all_the_time_ends_with_a_sentence(
    registry: ScriptedRegistry, bases: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "put_chunks", lambda self, frames: 0)
    with pytest.raises(UnavailableError, match="EVICT_GRACE_S higher"):
        await pulled(bases, an_image(registry))


async def test_layers_of_a_pull_stay_until_it_ends(
    registry: ScriptedRegistry, bases: Bases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = an_image(registry)
    monkeypatch.setattr("glowplug_imagecache.bases.LAYERS_KEPT_S", -3600.0)  # all are too old
    folder = store.root / "layers" / "0"
    said: list[str] = []

    async def sweep_when_all_are_here(text: str) -> None:
        said.append(text)
        await bases.sweep()

    found = await bases.find(name, "linux/amd64", {})
    manifest = await bases.pull(found, "", {}, sweep_when_all_are_here)
    assert manifest.base is not None
    assert "2 layers are here" in said[0]
    await bases.sweep()
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_two_processes_do_not_share_a_folder_of_layers(tmp_path: Path) -> None:
    first, second = LayerFolder(tmp_path), LayerFolder(tmp_path)
    assert first.path != second.path
    left = first.path / "sha256-abc.part"
    left.touch()
    first.close()
    third = LayerFolder(tmp_path)
    assert (third.path / "sha256-abc.part").exists()
    before = left.stat().st_mtime + 1
    assert third.sweep(before, {"sha256-abc"}) == 0
    assert second.sweep_others(before) == 0  # a process that lives sweeps its own
    third.close()
    assert second.sweep_others(before) == 1
    left.touch()
    fourth = LayerFolder(tmp_path)
    assert fourth.sweep(left.stat().st_mtime + 1) == 1
    for each in (second, fourth):
        each.close()


async def test_a_download_that_is_given_up_has_let_go_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    keep = Download._keep

    def slowly(self: Download) -> None:
        begun.set()
        go_on.wait()
        keep(self)

    monkeypatch.setattr(Download, "_keep", slowly)
    data = b"whole"
    blob = Descriptor(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))
    (tmp_path / "blob.part").write_bytes(data)
    download = Download(tmp_path / "blob", blob)
    await download.open()
    finishing = asyncio.create_task(download.finish())
    await asyncio.to_thread(begun.wait)
    finishing.cancel()
    done, _ = await asyncio.wait([finishing], timeout=0)
    assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert (tmp_path / "blob").read_bytes() == data
    assert await Download(tmp_path / "blob", blob).is_there()
