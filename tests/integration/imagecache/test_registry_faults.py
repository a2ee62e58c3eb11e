"""What the registry client does when a registry fails, lies, limits, redirects or asks who we are."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from glowplug_contracts.errors import (
    ContractError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PlatformError,
    UnauthenticatedError,
    UnavailableError,
)
from glowplug_imagecache.registry.endpoints import Registries
from glowplug_imagecache.registry.logins import Credentials
from glowplug_imagecache.registry.platforms import Platform
from glowplug_imagecache.registry.pulling import Puller
from glowplug_imagecache.registry.reference import Reference, parse_reference

from tests.support.certificates import a_certificate
from tests.support.registry_client import QUICK, open_puller
from tests.support.scripted_registry import (
    ScriptedRegistry,
    TokenService,
    a_tar,
    broken_off,
    instead,
    moved,
    open_scripted,
    status,
)

AMD64 = Platform("linux", "amd64")
LAYER = a_tar({"hello": bytes(range(256)) * 4000})
ME = Credentials("me", "pass:wörd")


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    async with open_scripted() as registry:
        registry.add_image(LAYER)
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[ScriptedRegistry]:
    async with open_scripted() as other:
        yield other


@pytest.fixture
async def puller() -> AsyncIterator[Puller]:
    async with open_puller() as puller:
        yield puller


def ref(registry: ScriptedRegistry, name: str = "team/app:1") -> Reference:
    return parse_reference(f"{registry.host}/{name}")


async def pull(
    puller: Puller, reference: Reference, folder: Path, me: dict[str, Credentials] | None = None
) -> bytes:
    image = await puller.find(reference, AMD64, me)
    path = await puller.fetch(image, image.layers[0], folder, me)
    return gzip.decompress(path.read_bytes())


async def refusal(puller: Puller, reference: Reference, folder: Path, **me: Any) -> PlatformError:
    with pytest.raises(PlatformError) as raised:
        await pull(puller, reference, folder, **me)
    return raised.value


# Failing and trying again


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_what_passes_by_is_waited_for(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, code: int
) -> None:
    registry.faults += [status(code), status(code, on="/blobs/"), status(code, on="/blobs/")]
    assert await pull(puller, ref(registry), tmp_path) == LAYER


async def test_a_registry_that_stays_down_is_named(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    registry.always.append(status(503))
    error = await refusal(puller, ref(registry), tmp_path)
    assert isinstance(error, UnavailableError)
    assert error.code == "registry.unavailable"
    assert "127.0.0.1 answered 503" in str(error)
    assert len(registry.requests) == QUICK.tries_max


async def test_nobody_there_is_named(puller: Puller, tmp_path: Path) -> None:
    async with open_scripted() as gone:
        reference = ref(gone)
    error = await refusal(puller, reference, tmp_path)
    assert error.code == "registry.unavailable"
    assert "Connect call failed" in str(error)


@pytest.mark.parametrize("host", ["l" * 64 + ".example", "no-such-host.invalid"])
async def test_names_that_lead_nowhere_are_named(puller: Puller, tmp_path: Path, host: str) -> None:
    error = await refusal(puller, parse_reference(f"{host}/app"), tmp_path)
    assert error.code == "registry.unavailable"
    assert host in str(error)


@pytest.mark.parametrize(("has_tls", "words"), [(False, "speaks no TLS"), (True, "not trusted")])
async def test_what_is_wrong_with_a_registrys_tls_is_told(
    tmp_path: Path, has_tls: bool, words: str
) -> None:
    context = None
    if has_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*a_certificate(tmp_path))
    async with open_scripted(context) as registry:
        # By a name of this host it would be asked without TLS; a mirror's URL is taken as it stands.
        mirrors = {"r.example": [f"https://{registry.host}"]}
        (mirror, _) = Registries(mirrors=mirrors).endpoints("r.example")
        async with open_puller(mirrors) as puller:
            with pytest.raises(UnavailableError, match=words):
                async with puller._asker.ask(mirror, f"{mirror.url}/v2/", "", ME, {}):
                    pass
        assert registry.requests == []


async def test_a_limit_is_obeyed_or_passed_on(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    registry.faults.append(status(429, Retry_After="0"))
    assert await pull(puller, ref(registry), tmp_path) == LAYER
    registry.always.append(status(429, Retry_After="3600"))
    error = await refusal(puller, ref(registry), tmp_path / "again")
    assert isinstance(error, OverloadedError)
    assert error.code == "registry.rate_limited"
    assert error.retry_after_s == 3600


# Downloads


@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_a_download_that_breaks_off_comes_whole(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, knows_ranges: bool
) -> None:
    image = await puller.find(ref(registry), AMD64)
    blob = image.layers[0].blob
    registry.knows_ranges = knows_ranges
    registry.faults += [broken_off(registry, blob.size // 3), broken_off(registry, blob.size // 3)]
    path = await puller.fetch(image, image.layers[0], tmp_path, on_bytes=registry.hear)
    assert gzip.decompress(path.read_bytes()) == LAYER
    ranges = [headers.get("Range") for headers in registry.asked(blob.digest)]
    assert ranges[0] is None
    assert ranges[1] == f"bytes={blob.size // 3}-"
    assert await asyncio.to_thread(os.listdir, tmp_path) == [path.name]


async def test_a_download_that_gets_on_by_a_byte_a_try_is_given_up(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    image = await puller.find(ref(registry), AMD64)
    registry.always.append(broken_off(registry, 1))
    with pytest.raises(UnavailableError):
        await puller.fetch(image, image.layers[0], tmp_path, on_bytes=registry.hear)
    assert len(registry.asked(image.layers[0].blob.digest)) == QUICK.tries_max
    registry.always.clear()  # what came is kept, and serves the next try
    path = await puller.fetch(image, image.layers[0], tmp_path)
    assert registry.requests[-1][1]["Range"] == f"bytes={QUICK.tries_max}-"
    assert gzip.decompress(path.read_bytes()) == LAYER


@pytest.mark.parametrize("damage", ["other", "longer", "shorter", "part"])
async def test_wrong_bytes_are_never_kept(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, damage: str
) -> None:
    image = await puller.find(ref(registry), AMD64)
    blob = image.layers[0].blob
    right = registry.blobs[blob.digest]
    wrong = {
        "other": right[:-1] + bytes([right[-1] ^ 1]),
        "longer": right + b"x",
        "shorter": right[:-1],
        "part": right[::-1],
    }[damage]
    target = tmp_path / blob.digest.replace(":", "-")
    if damage == "part":
        # Left by an earlier process, on a disk that has forgotten some of it.
        (tmp_path / f"{target.name}.part").write_bytes(wrong[:100])
        assert await puller.fetch(image, image.layers[0], tmp_path) == target
        assert target.read_bytes() == right
        return
    registry.blobs[blob.digest] = wrong
    with pytest.raises((ContractError, UnavailableError)) as raised:
        await puller.fetch(image, image.layers[0], tmp_path)
    assert raised.value.code == (
        "registry.unavailable" if damage == "shorter" else "registry.corrupt"
    )
    assert not target.exists()
    registry.blobs[blob.digest] = right
    assert await puller.fetch(image, image.layers[0], tmp_path) == target
    assert target.read_bytes() == right


async def test_a_part_that_was_not_asked_for_is_not_taken(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    image = await puller.find(ref(registry), AMD64)
    blob = image.layers[0].blob
    registry.faults += [
        broken_off(registry, 100),
        status(206, on="/blobs/", Content_Range=f"bytes 7-{blob.size - 1}/{blob.size}"),
        broken_off(registry, 100),
        status(416, on="/blobs/"),
    ]
    path = await puller.fetch(image, image.layers[0], tmp_path, on_bytes=registry.hear)
    assert gzip.decompress(path.read_bytes()) == LAYER


async def test_a_layer_that_a_disk_has_forgotten_is_fetched_again(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    image = await puller.find(ref(registry), AMD64)
    path = await puller.fetch(image, image.layers[0], tmp_path)
    right = path.read_bytes()
    path.write_bytes(right[:500] + bytes(100) + right[600:])
    assert await puller.fetch(image, image.layers[0], tmp_path) == path
    assert path.read_bytes() == right
    await puller.fetch(image, image.layers[0], tmp_path)
    assert len(registry.asked(image.layers[0].blob.digest)) == 2


async def test_two_who_want_one_layer_fetch_it_once(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    image = await puller.find(ref(registry), AMD64)
    paths = await asyncio.gather(
        *(puller.fetch(image, image.layers[0], tmp_path) for _ in range(5))
    )
    assert len(set(paths)) == 1
    assert len(registry.asked(image.layers[0].blob.digest)) == 1


async def test_a_full_disk_is_named_and_leaves_nothing(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await puller.find(ref(registry), AMD64)
    real_open = Path.open

    def open_full(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.suffix == ".part" and arguments == ("ab",):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(UnavailableError) as raised:
        await puller.fetch(image, image.layers[0], tmp_path)
    assert raised.value.code == "registry.no_room"
    assert len(registry.asked(image.layers[0].blob.digest)) == 1  # asking again makes no room
    monkeypatch.undo()
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
    assert await puller.fetch(image, image.layers[0], tmp_path)


# Manifests


async def test_a_tag_is_pinned_to_what_it_stood_for(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    image = await puller.find(ref(registry), AMD64)
    registry.add_image(a_tar({"hello": b"another"}))
    assert await pull(puller, image.reference, tmp_path) == LAYER


async def test_an_index_is_searched_for_the_platform(
    registry: ScriptedRegistry, puller: Puller
) -> None:
    arm = registry.add_image(LAYER, tag="arm", platform=("linux", "arm64"))
    amd = registry.add_image(LAYER, tag="amd")
    inner = registry.add_index([registry.entry(amd, None)], "inner")
    registry.add_index(
        [
            registry.entry(arm, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
            registry.entry(inner, {"os": "linux", "architecture": "amd64"}),
        ],
        "all",
    )
    reference = ref(registry, "team/app:all")
    assert (await puller.find(reference, AMD64)).reference.digest == amd
    found = await puller.find(reference, Platform("linux", "arm64"))
    assert found.reference.digest == arm
    with pytest.raises(InvalidRequestError) as raised:
        await puller.find(reference, Platform("linux", "s390x"))
    assert raised.value.code == "registry.no_platform"
    assert "linux/amd64, linux/arm64/v8" in str(raised.value)
    registry.manifests["loop"] = registry.manifests["inner"]
    for _ in range(3):
        inner = registry.add_index([registry.entry(inner, None)], "deep")
    with pytest.raises(InvalidRequestError, match="indexes in indexes"):
        await puller.find(ref(registry, "team/app:deep"), AMD64)


async def test_an_image_for_another_machine_is_refused_though_no_index_says_so(
    registry: ScriptedRegistry, puller: Puller
) -> None:
    registry.add_image(LAYER, platform=("linux", "arm64"))
    with pytest.raises(InvalidRequestError, match=r"not built for linux/amd64.*linux/arm64"):
        await puller.find(ref(registry), AMD64)


@pytest.mark.parametrize("on", ["/manifests/sha256", "/blobs/"])
async def test_a_document_that_is_not_its_digest_is_refused(
    registry: ScriptedRegistry, puller: Puller, on: str
) -> None:
    image = await puller.find(ref(registry), AMD64)
    registry.always.append(instead(b'{"schemaVersion": 2}', on=on))
    with pytest.raises(ContractError) as raised:
        await puller.find(image.reference, AMD64)
    assert raised.value.code == "registry.corrupt"


async def test_a_tag_whose_bytes_are_not_what_the_registry_says_is_refused(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    registry.always.append(
        status(200, on="/manifests/", Docker_Content_Digest=f"sha256:{'0' * 64}")
    )
    assert (await refusal(puller, ref(registry), tmp_path)).code == "registry.corrupt"


async def test_an_endless_manifest_ends(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    registry.always.append(instead(b" " * (4 * 1024 * 1024 + 1), on="/manifests/"))
    assert "over 4194304 bytes" in str(await refusal(puller, ref(registry), tmp_path))


# Mirrors


async def test_mirrors_are_asked_in_order_and_the_registry_last(
    registry: ScriptedRegistry, other: ScriptedRegistry, tmp_path: Path
) -> None:
    other.always.append(status(503))
    async with open_scripted() as second:
        second.add_image(LAYER)
        mirrors = {registry.host: [other.url, f"{second.url}/"]}
        async with open_puller(mirrors) as puller:
            assert await pull(puller, ref(registry), tmp_path, {registry.host: ME}) == LAYER
        assert len(other.asked("/manifests/1")) == QUICK.mirror_tries_max
        assert registry.requests == []
        assert second.requests[0][0] == f"/v2/team/app/manifests/1?ns={registry.host}"
        # The mirror got no password that was meant for the registry.
        assert not any("Authorization" in headers for _, headers in second.requests)


@pytest.mark.parametrize("ill", ["gone", "404", "401", "corrupt"])
async def test_a_mirror_that_fails_costs_nothing_but_time(
    registry: ScriptedRegistry, other: ScriptedRegistry, tmp_path: Path, ill: str
) -> None:
    other.add_image(LAYER)
    other.always += {
        "gone": [],
        "404": [status(404)],
        "401": [status(401)],
        "corrupt": [instead(b"x" * 100, on="/blobs/")],
    }[ill]
    mirror = "http://127.0.0.1:9" if ill == "gone" else other.url
    async with open_puller({registry.host: [mirror]}) as puller:
        assert await pull(puller, ref(registry), tmp_path) == LAYER


@pytest.mark.parametrize("honest", [True, False])
async def test_what_a_mirror_began_the_registry_ends(
    registry: ScriptedRegistry, other: ScriptedRegistry, tmp_path: Path, honest: bool
) -> None:
    other.add_image(LAYER)
    async with open_puller({registry.host: [other.url]}) as puller:
        image = await puller.find(ref(registry), AMD64)
        blob = image.layers[0].blob
        if not honest:
            other.blobs[blob.digest] = bytes(blob.size)
        other.faults += [broken_off(other, 1000) for _ in range(QUICK.mirror_tries_max)]
        path = await puller.fetch(image, image.layers[0], tmp_path, on_bytes=other.hear)
    assert gzip.decompress(path.read_bytes()) == LAYER
    ranges = [headers.get("Range") for headers in registry.asked(blob.digest)]
    # A lie is seen at the end only; then the registry is asked for the whole.
    assert ranges == ["bytes=2000-"] + ([] if honest else [None])


# Who we are


async def test_a_token_is_fetched_once_for_a_whole_pull(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    tokens = TokenService(f"{registry.url}/token", password="pass:wörd")
    registry.always += [tokens.challenge, tokens.give]
    mine = {registry.host: ME}
    assert await pull(puller, ref(registry), tmp_path, mine) == LAYER
    (asked,) = tokens.asked
    assert asked["service"] == 'a, "quoted" one'
    assert asked["scope"] == "repository:team/app:pull"
    # Another's pull does not profit from it, and is asked for its own.
    error = await refusal(puller, ref(registry), tmp_path / "other")
    assert isinstance(error, UnauthenticatedError)
    assert "who are you?" in str(error)
    wrong = {registry.host: Credentials("me", "hunter2")}
    error = await refusal(puller, ref(registry), tmp_path / "third", me=wrong)
    assert "hunter2" not in f"{error!r} {wrong}"


async def test_layers_at_once_log_in_once(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    registry.add_image(*[a_tar({str(n): b"x"}) for n in range(6)])
    image = await puller.find(ref(registry), AMD64)
    tokens = TokenService(f"{registry.url}/token")
    registry.always += [tokens.challenge, tokens.give]
    await asyncio.gather(*(puller.fetch(image, layer, tmp_path) for layer in image.layers))
    assert len(tokens.given) == 1


async def test_a_token_that_ended_is_renewed(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    tokens = TokenService(f"{registry.url}/token")
    registry.always += [tokens.challenge, tokens.give]
    image = await puller.find(ref(registry), AMD64)
    tokens.valid.clear()
    assert await puller.fetch(image, image.layers[0], tmp_path)
    assert tokens.given == ["token-0", "token-1"]
    tokens.realm = f"{registry.url}/nowhere"
    tokens.valid.clear()
    assert isinstance(await refusal(puller, ref(registry), tmp_path / "x"), NotFoundError)


async def test_a_token_that_is_refused_at_once_is_not_fetched_for_ever(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    tokens = TokenService(f"{registry.url}/token")
    registry.always += [tokens.give, status(401, WWW_Authenticate=f'Bearer realm="{tokens.realm}"')]
    error = await refusal(puller, ref(registry), tmp_path)
    assert isinstance(error, UnauthenticatedError)
    assert len(tokens.given) == 1


async def test_basic_is_shown_only_where_it_is_asked_for(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    mine = {registry.host: ME}
    assert await pull(puller, ref(registry), tmp_path, mine) == LAYER
    assert not any("Authorization" in headers for _, headers in registry.requests)
    registry.faults.append(status(401, WWW_Authenticate='Basic realm="here", charset="UTF-8"'))
    assert await pull(puller, ref(registry), tmp_path / "again", mine) == LAYER
    assert registry.requests[-1][1]["Authorization"] == ME.basic


@pytest.mark.parametrize(
    "said", ["", "Negotiate", 'Bearer service="x"', "Digest realm=a", '"', "Bearer ="]
)
async def test_a_login_that_nobody_knows_is_a_refusal(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, said: str
) -> None:
    registry.always.append(status(401, WWW_Authenticate=said))
    error = await refusal(puller, ref(registry), tmp_path, me={registry.host: ME})
    assert isinstance(error, UnauthenticatedError)
    assert not any("Authorization" in headers for _, headers in registry.requests)


# Redirects


async def test_a_redirect_to_another_host_gets_no_credentials(
    registry: ScriptedRegistry, other: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    tokens = TokenService(f"{registry.url}/token")
    registry.always += [tokens.challenge, tokens.give]
    image = await puller.find(ref(registry), AMD64)
    blob = image.layers[0].blob.digest
    other.blobs = registry.blobs
    registry.faults += [
        moved(f"{other.url}/v2/x/blobs/{blob}?sig=a%2Fb%3D", on=f"/blobs/{blob}"),
        moved(f"{other.url}/v2/x/blobs/{blob}", on=f"/blobs/{blob}"),
    ]
    other.faults.append(broken_off(other, 1000))
    assert await puller.fetch(image, image.layers[0], tmp_path, on_bytes=other.hear)
    assert other.requests[0][0].endswith("?sig=a%2Fb%3D")
    assert all("Authorization" not in headers for _, headers in other.requests)
    assert registry.asked(blob)[-1]["Authorization"] == "Bearer token-0"
    assert other.requests[-1][1]["Range"] == "bytes=1000-"


async def test_an_address_that_has_grown_old_is_asked_for_again(
    registry: ScriptedRegistry, other: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    other.blobs = registry.blobs
    registry.faults.append(moved(f"{other.url}/expired", on="/blobs/"))
    other.faults.append(status(403))
    assert await pull(puller, ref(registry), tmp_path) == LAYER


@pytest.mark.parametrize(
    "where",
    ["ftp://127.0.0.1/x", "http://user:pw@127.0.0.1/", "http://", "http://[::1", "gopher:x", ""],
)
async def test_redirects_that_lead_astray_are_not_followed(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path, where: str
) -> None:
    registry.always.append(moved(where, on="/manifests/"))
    assert (await refusal(puller, ref(registry), tmp_path)).code == "registry.unavailable"


async def test_nothing_that_is_not_public_is_asked(
    registry: ScriptedRegistry, puller: Puller, tmp_path: Path
) -> None:
    # The tests' own client may reach 127.0.0.0/8, and so may its redirects, but nothing else that is closed.
    for closed in ("http://169.254.169.254/latest", "http://[::1]:80/", "http://10.0.0.1/"):
        registry.faults.append(moved(closed, on="/manifests/"))
        assert isinstance(await refusal(puller, ref(registry), tmp_path), ForbiddenError)
    async with open_puller(networks=()) as strict:
        for name in (registry.host, f"localhost:{registry.host.rpartition(':')[2]}"):
            registry.requests.clear()
            error = await refusal(strict, parse_reference(f"{name}/a"), tmp_path)
            assert error.code == "registry.forbidden"
            assert registry.requests == []
