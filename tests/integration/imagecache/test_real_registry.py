"""Our registry client and reader of layers against tools and a registry that no one here wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from glowplug_contracts.errors import NotFoundError, RejectedError, UnauthenticatedError
from glowplug_imagecache.layers.reading import read_layers
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.platforms import Platform
from glowplug_imagecache.registry.pulling import Puller, RemoteImage
from glowplug_imagecache.registry.reference import parse_reference

from tests.support.real_registry import (
    PASSWORD,
    USER,
    Facts,
    Hashes,
    differences,
    facts_of_folder,
    facts_of_tree,
    lacking,
    later_changes,
    open_registry,
    password_auth,
    strange_files,
    tool,
)
from tests.support.registry_client import open_puller

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "present"),
]

AMD64 = Platform("linux", "amd64")
MINE = (USER, PASSWORD)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image by umoci, in two layers, as an OCI layout, and what umoci itself unpacks of it."""
    folder = tmp_path_factory.mktemp("workshop")
    oci = folder / "oci"
    tool("umoci", "init", "--layout", oci)
    tool("umoci", "new", "--image", f"{oci}:one")
    tool("umoci", "config", "--image", f"{oci}:one", "--architecture", "amd64", "--os", "linux")
    tool("umoci", "config", "--image", f"{oci}:one", "--config.env", "A=b", "--config.user", "7:8")
    tool("umoci", "unpack", "--image", f"{oci}:one", folder / "first")
    strange_files(folder / "first/rootfs")
    tool("umoci", "repack", "--image", f"{oci}:one", folder / "first")
    tool("umoci", "unpack", "--image", f"{oci}:one", folder / "second")
    later_changes(folder / "second/rootfs")
    tool("umoci", "repack", "--image", f"{oci}:one", folder / "second")
    tool("umoci", "unpack", "--image", f"{oci}:one", folder / "third")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def registry(workshop: Path) -> Iterator[str]:
    """A registry that has the image in the forms that registries have, behind a password."""
    with open_registry(workshop / "registry", password_auth(workshop)) as host:
        for name, options in {
            "oci": ("--format", "oci"),
            "docker": ("--format", "v2s2"),
        }.items():
            tool(
                "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", ":".join(MINE), *options,
                f"oci:{workshop / 'oci'}:one", f"docker://{host}/made/{name}:1",
            )  # fmt: skip
        yield host


async def pull(
    puller: Puller, host: str, name: str, folder: Path
) -> tuple[RemoteImage, list[Path]]:
    mine = {host: Credentials(*MINE)}
    image = await puller.find(parse_reference(f"{host}/{name}"), AMD64, mine)
    files = await asyncio.gather(
        *(puller.fetch(image, layer, folder, mine) for layer in image.layers)
    )
    return image, list(files)


def read(image: RemoteImage, files: list[Path]) -> dict[bytes, Facts]:
    hashes = Hashes()
    pairs = [(file, layer.diff_id) for file, layer in zip(files, image.layers, strict=True)]
    tree = read_layers(pairs, hashes)
    tree.check()
    return facts_of_tree(tree, hashes)


@pytest.mark.parametrize("form", ["oci", "docker"])
async def test_a_pulled_image_is_what_umoci_unpacks(
    registry: str, workshop: Path, tmp_path: Path, form: str
) -> None:
    async with open_puller() as puller:
        image, files = await pull(puller, registry, f"made/{form}:1", tmp_path)
    ours = read(image, files)
    assert len(image.layers) == 2
    assert differences(ours, facts_of_folder(workshop / "third/rootfs")) == []
    assert image.config.config is not None
    assert image.config.config.env == ("A=b",)
    assert image.config.config.user == "7:8"
    # What was put in is in it: the comparison was not of two empty trees.
    assert ours[b"etc/latin-\xe9\xff"].kind == "file"
    assert ours[b"usr/bin/write"].same_as == b"etc/wall"
    assert b"emptied/deep" not in ours


@pytest.fixture(scope="module")
def other_registry(workshop: Path) -> Iterator[str]:
    """One that has no blobs yet: buildah does not compress again what a registry has in some form."""
    with open_registry(workshop / "other", password_auth(workshop)) as host:
        yield host


@pytest.fixture(scope="module")
def built(workshop: Path, registry: str, other_registry: str) -> Iterator[Path]:
    """The same changes made by buildah, whose layers are overlays: opaque directories, other tars."""
    try:
        yield build_with_buildah(workshop, {"zstd": other_registry, "gzip": registry})
    finally:
        buildah(workshop, "umount", "--all")
        buildah(workshop, "rm", "--all")


def buildah(workshop: Path, *command: str) -> str:
    places = ("--root", workshop / "graph", "--runroot", workshop / "run")
    return tool("buildah", *places, "--storage-driver", "overlay", *command)


def build_with_buildah(workshop: Path, registries: Mapping[str, str]) -> Path:
    base = buildah(workshop, "from", "scratch")
    strange_files(Path(buildah(workshop, "mount", base)))
    buildah(workshop, "commit", base, "lower")
    upper = buildah(workshop, "from", "--pull-never", "lower")
    later_changes(Path(buildah(workshop, "mount", upper)))
    buildah(workshop, "commit", upper, "whole")
    for form, options in {
        "zstd": ("--format", "oci", "--compression-format", "zstd"),
        "gzip": ("--format", "v2s2", "--compression-format", "gzip"),
    }.items():
        where = ("--tls-verify=false", "--creds", ":".join(MINE), "whole")
        buildah(workshop, "push", *options, *where, f"docker://{registries[form]}/built:{form}")
    whole = buildah(workshop, "from", "--pull-never", "whole")
    return Path(buildah(workshop, "mount", whole))


@pytest.mark.parametrize("form", ["gzip", "zstd"])
async def test_a_pulled_image_is_what_buildah_mounts(
    registry: str, other_registry: str, built: Path, tmp_path: Path, form: str
) -> None:
    host = {"gzip": registry, "zstd": other_registry}[form]
    async with open_puller() as puller:
        image, files = await pull(puller, host, f"built:{form}", tmp_path)
    magic = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5"}[form]
    assert all(file.read_bytes().startswith(magic) for file in files)
    assert differences(read(image, files), facts_of_folder(built)) == []


async def test_each_refusal_of_a_real_registry_has_its_sentence(registry: str) -> None:
    async with open_puller() as puller:

        async def refusal(
            name: str, who: tuple[str, str] | None, platform: Platform = AMD64
        ) -> RejectedError:
            mine = {registry: Credentials(*who)} if who else {}
            with pytest.raises(RejectedError) as raised:
                await puller.find(parse_reference(f"{registry}/{name}"), platform, mine)
            return raised.value

        none, wrong = (
            await refusal("built:gzip", None),
            await refusal("built:gzip", ("me", "guess")),
        )
        assert isinstance(none, UnauthenticatedError)
        assert "asks for a name and a password" in str(none)
        assert isinstance(wrong, UnauthenticatedError)
        assert "refuses these credentials" in str(wrong)
        assert "guess" not in str(wrong)
        unknown = await refusal("built:no-such-tag", MINE)
        assert isinstance(unknown, NotFoundError)
        assert "manifest unknown" in str(unknown)
        other = await refusal("built:gzip", MINE, Platform("linux", "riscv64"))
        assert other.code == "registry.no_platform"
        assert "linux/amd64" in str(other)


async def test_a_download_goes_on_where_it_broke_off(
    registry: str, built: Path, tmp_path: Path
) -> None:
    async with open_puller() as puller:
        mine = {registry: Credentials(*MINE)}
        image = await puller.find(parse_reference(f"{registry}/built:gzip"), AMD64, mine)
        layer = image.layers[0]
        whole = await puller.fetch(image, layer, tmp_path, mine)
        data = whole.read_bytes()
        whole.rename(tmp_path / f"{whole.name}.part")
        os.truncate(tmp_path / f"{whole.name}.part", 1000)
        heard: list[int] = []
        again = await puller.fetch(image, layer, tmp_path, mine, on_bytes=heard.append)
    assert again.read_bytes() == data
    assert heard[0] > 1000
    assert heard[-1] == len(data)
