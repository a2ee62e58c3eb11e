"""Our registry client and reader of layers against tools and a registry that no one here wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tarfile import LNKTYPE, SYMTYPE

import pytest
from glowplug_contracts.errors import NotFoundError, RejectedError, UnauthenticatedError
from glowplug_imagecache.flattening import flatten_layers
from glowplug_imagecache.layers.reading import read_layers
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.platforms import Platform
from glowplug_imagecache.registry.pulling import Puller, RemoteImage
from glowplug_imagecache.registry.reference import parse_reference

from tests.support.builders_images import a_store, extract
from tests.support.certificates import a_certificate
from tests.support.layers import tar_of
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
from tests.support.registry_tokens import SERVICE, signed_token, token_auth
from tests.support.scripted_registry import TokenService, open_scripted

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
    assert image.config.config.env == ("A=b",)
    assert image.config.config.user == "7:8"
    # What was put in is in it: the comparison was not of two empty trees.
    assert ours[b"etc/latin-\xe9\xff"].kind == "file"
    assert ours[b"usr/bin/write"].same_as == b"etc/wall"
    assert b"emptied/deep" not in ours


async def test_what_is_flattened_and_extracted_again_is_what_umoci_unpacks(
    registry: str, workshop: Path, tmp_path: Path
) -> None:
    async with open_puller() as puller:
        image, files = await pull(puller, registry, "made/oci:1", tmp_path)
    pairs = [(file, layer.diff_id) for file, layer in zip(files, image.layers, strict=True)]
    store = a_store(tmp_path / "store")
    flat = flatten_layers(store, pairs)
    assert flatten_layers(a_store(tmp_path / "another"), pairs).digest == flat.digest
    lost = extract(store, flat.digest, tmp_path / "root")
    assert lost == {}
    theirs = facts_of_folder(workshop / "third/rootfs")
    assert differences(facts_of_folder(tmp_path / "root"), theirs) == []
    sparse = (tmp_path / "root/sparse").stat()
    assert sparse.st_size == 5_000_000
    assert sparse.st_blocks * 512 < 4_000_000  # of its five pieces, the ones with content


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


def through_links() -> list[bytes]:
    """Return layers that no tool here would write, but that others have: links in paths, implied parents."""
    lower = [
        a_tar_dir("usr/bin"), (info("usr/bin/ls"), b"ls"), (info("bin", type=SYMTYPE, linkname="usr/bin"), b""),
        a_tar_dir("d"), (info("d/x"), b"x"), (info("d/e/y"), b"y"), (info("f"), b"f"), (info("g"), b"g"),
    ]  # fmt: skip
    upper = [
        (info("bin/new"), b"through a link of the layer below"),
        (info("here", type=SYMTYPE, linkname="/d/e"), b""), a_tar_dir("d"), a_tar_dir("d/e"),
        (info("here/z"), b"through a link of this layer"),
        (info("d/.wh.x"), b""), (info("g/h"), b"below what was a file"), (info("i/j/k"), b"implied"),
        (info("i/l", type=LNKTYPE, linkname="i/j/k"), b""),
    ]  # fmt: skip
    top = [
        (info("d/e/.wh..wh..opq"), b""), a_tar_dir("d/e"), (info("d/e/new"), b"n"), (info(".wh.f"), b""),
    ]  # fmt: skip
    return [tar_of(layer) for layer in (lower, upper, top)]


def removed_and_made_again() -> list[bytes]:
    """Return layers in which a whiteout and what replaces it stand in one layer, in both orders."""
    lower = [
        (info("i/j/k"), b"k"), (info("l/m"), b"m"), (info("n/o"), b"o"), (info("f"), b"f"),
        (info("same", type=LNKTYPE, linkname="f"), b""),
    ]  # fmt: skip
    upper = [
        (info(".wh.i"), b""), a_tar_dir("i"), (info("i/again"), b"i"), a_tar_dir("l"), (info("l/again"), b"l"),
        (info(".wh.l"), b""), (info("n/again"), b"n"), (info("n/.wh..wh..opq"), b""), (info("f"), b"another"),
        (info("linked", type=LNKTYPE, linkname="same"), b""), (info("i/.wh.again"), b""),
    ]  # fmt: skip
    return [tar_of(layer) for layer in (lower, upper)]


def info(name: str, **facts: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(member, key, value)
    return member


def a_tar_dir(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return info(name, type=tarfile.DIRTYPE, mode=0o755), b""


def make(workshop: Path, host: str, name: str, tars: list[bytes]) -> str:
    """Push an image of these layers; return where umoci has it."""
    oci = f"{workshop / 'oci'}:{name}"
    tool("umoci", "new", "--image", oci)
    tool("umoci", "config", "--image", oci, "--architecture", "amd64", "--os", "linux")
    for number, tar in enumerate(tars):
        (workshop / f"{number}.tar").write_bytes(tar)
        tool("umoci", "raw", "add-layer", "--image", oci, workshop / f"{number}.tar")
    push = ("skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", ":".join(MINE))
    tool(*push, f"oci:{oci}", f"docker://{host}/{name}:1")
    return oci


# Of directories that nobody names, tools make up the time.
NOT_TIMES = ("mtime_ns",)


async def test_paths_through_links_lead_where_an_overlay_has_them(
    workshop: Path, registry: str, built: Path, tmp_path: Path
) -> None:
    oci = make(workshop, registry, "through", through_links())
    container = buildah(workshop, "from", f"oci:{oci}")
    theirs = facts_of_folder(Path(buildah(workshop, "mount", container)))
    async with open_puller() as puller:
        image, files = await pull(puller, registry, "through:1", tmp_path)
    assert differences(read(image, files), theirs, without=NOT_TIMES) == []


async def test_what_is_removed_and_made_again_in_one_layer_is_what_umoci_unpacks(
    workshop: Path, registry: str, tmp_path: Path
) -> None:
    # buildah is not asked: with its overlays, what a whiteout hid comes back below a new directory.
    oci = make(workshop, registry, "again", removed_and_made_again())
    tool("umoci", "unpack", "--image", oci, tmp_path / "theirs")
    async with open_puller() as puller:
        image, files = await pull(puller, registry, "again:1", tmp_path)
    theirs = facts_of_folder(tmp_path / "theirs/rootfs")
    assert differences(read(image, files), theirs, without=NOT_TIMES) == []
    assert b"i/again" in theirs


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


async def test_a_real_registry_believes_the_tokens_that_we_fetch(
    registry: str, workshop: Path, tmp_path: Path
) -> None:
    certificate, key = a_certificate(tmp_path / "keys")
    async with open_scripted() as service, open_puller() as puller:
        tokens = TokenService(
            f"{service.url}/token",
            sign=lambda scope: signed_token(certificate, key, scope),
        )
        service.always.append(tokens.give)
        with open_registry(workshop / "tokens", token_auth(tokens.realm, certificate)) as host:
            # What docker-registry has behind a password, it has behind tokens too.
            (workshop / "tokens/store").symlink_to(workshop / "registry/store")
            image, files = await pull(puller, host, "made/oci:1", tmp_path)
            assert len(read(image, files)) > 20
            assert [asked["service"] for asked in tokens.asked] == [SERVICE]
            assert tokens.asked[0]["scope"] == "repository:made/oci:pull"


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
