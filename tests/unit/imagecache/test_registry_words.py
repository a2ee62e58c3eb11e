"""What registries, users and operators write, read without asking anybody."""

from __future__ import annotations

import ipaddress
import json

import pytest
from glowplug_contracts.errors import (
    ForbiddenError,
    InvalidRequestError,
    UnavailableError,
)
from glowplug_imagecache.registry.challenge import (
    RENEWED_EARLY_S,
    Challenge,
    choose_challenge,
    parse_challenges,
    read_token,
)
from glowplug_imagecache.registry.endpoints import (
    Registries,
    check_address,
    check_realm,
    follow,
    origin_of,
    parse_registries,
    shown_url,
)
from glowplug_imagecache.registry.logins import (
    LOGINS_MAX,
    Credentials,
    Login,
    Logins,
    login_key,
)
from glowplug_imagecache.registry.manifests import (
    LAYERS_MAX,
    Index,
    Manifest,
    read_config,
    read_manifest,
)
from glowplug_imagecache.registry.patience import Patience, parse_retry_after, pause_before
from glowplug_imagecache.registry.platforms import (
    Platform,
    choose_platform,
    closeness,
    parse_platform,
)
from glowplug_imagecache.registry.reference import parse_reference

D1 = f"sha256:{'1' * 64}"
D2 = f"sha256:{'2' * 64}"
OCI = "application/vnd.oci.image."
ORIGIN = ("https", "r.example", 443)


# References


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/debian", "docker.io/library/debian:latest"),
        ("docker.io/team/app", "docker.io/team/app:latest"),
        ("team/app/deep:1", "docker.io/team/app/deep:1"),
        ("ghcr.io/Team".lower() + "/app", "ghcr.io/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry:5000/app:v1", "registry:5000/app:v1"),
        ("REGISTRY.example/app", "registry.example/app:latest"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1"),
        (f"app@{D1}", f"docker.io/library/app@{D1}"),
        (f"r.example/app:1@{D1}", f"r.example/app:1@{D1}"),
        ("a__b--c/d.e-f_g", "docker.io/a__b--c/d.e-f_g:latest"),
        (f"x:{'t' * 128}", f"docker.io/library/x:{'t' * 128}"),
    ],
)
def test_a_name_is_read_as_the_field_reads_it(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole
    assert parse_reference(whole) == parse_reference(text)


def test_a_digest_rules_over_a_tag() -> None:
    assert parse_reference(f"a:1@{D1}").target == D1
    assert parse_reference("a:1").target == "1"
    assert parse_reference("a").scope == "repository:library/a:pull"


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "a@", "a:", "A/b/C", "team/App", "a//b", "/a", "a/", "-a", "a..b", "a___b", "../etc",
        "a:tag with space", "a:-x", f"x:{'t' * 129}", "a@sha256:12", f"a@SHA256:{'1' * 64}", f"a@md5:{'1' * 32}",
        "docker://debian", "https://r.example/a", "r.example:0/a", "r.example:99999/a", "r.example:x/a",
        "-r.example/a", "r..example/a", "[::1/a", "r.example/a?b", "r.example/a#b", "r.example\n/a", "a\n",
        "user:pw@r.example/a", "1" * 64, "a" * 513, f"r.example/{'a' * 256}", "r.example/ä",
        "127.1/a", "0x7f.1:5000/a", "1.2.3.4.5/a",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_reference(text)
    assert raised.value.code == "registry.bad_reference"
    assert len(str(raised.value)) < 400


# Challenges and tokens


def test_challenges_are_read_by_their_grammar() -> None:
    header = (
        'Negotiate abc==, Basic realm="a \\"b\\", c", Bearer realm="https://auth/t?x=1,2",'
        'service=registry , scope="repository:a/b:pull,push repository:c:pull"'
    )
    found = parse_challenges([header, "Digest qop=auth"])
    assert found[-1] == Challenge("digest", {"qop": "auth"})
    by_scheme = {one.scheme: one.parameters for one in found}
    assert by_scheme["basic"] == {"realm": 'a "b", c'}
    assert by_scheme["bearer"] == {
        "realm": "https://auth/t?x=1,2",
        "service": "registry",
        "scope": "repository:a/b:pull,push repository:c:pull",
    }
    chosen = choose_challenge(found)
    assert chosen is not None
    assert chosen.scheme == "bearer"


def test_the_best_challenge_that_can_be_answered_is_chosen() -> None:
    basic = Challenge("basic", {})
    assert choose_challenge([Challenge("bearer", {}), basic]) == basic
    assert choose_challenge([Challenge("digest", {})]) is None
    assert choose_challenge([]) is None


@pytest.mark.parametrize(
    "header", ['"', "=", "a=b", ",,,", 'Bearer realm="x', "\x00", "é", "B" * 20_000]
)
def test_what_is_no_challenge_offers_nothing_that_can_be_answered(header: str) -> None:
    assert choose_challenge(parse_challenges([header])) is None


@pytest.mark.parametrize(
    ("answer", "lasts_s"),
    [
        ({"token": "t"}, 60 - RENEWED_EARLY_S),
        ({"access_token": "t", "expires_in": 300}, 300 - RENEWED_EARLY_S),
        ({"token": "t", "expires_in": "300"}, 300 - RENEWED_EARLY_S),
        ({"token": "t", "expires_in": None}, 60 - RENEWED_EARLY_S),
        ({"token": "t", "expires_in": 10**12}, 3600 - RENEWED_EARLY_S),
        ({"token": "t", "expires_in": 5}, 0),
        ({"token": "t", "expires_in": -5}, 0),
        ({"token": "t", "access_token": "u", "more": 1}, 60 - RENEWED_EARLY_S),
    ],
)
def test_a_token_lasts_as_long_as_it_says_within_bounds(
    answer: dict[str, object], lasts_s: float
) -> None:
    token = read_token(json.dumps(answer).encode(), now=100.0)
    assert (token.value, token.until) == ("t", 100.0 + lasts_s)
    assert "t" not in repr(token).replace("Token", "").replace("until", "")


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b'{"token": 7}', b"\xff"],
)
def test_what_is_no_token_is_not_sent(answer: bytes) -> None:
    with pytest.raises(UnavailableError):
        read_token(answer, now=0.0)


def test_a_login_serves_whose_it_is_until_it_ends() -> None:
    logins = Logins()
    mine = login_key(ORIGIN, "s", Credentials("me", "pw"))
    logins.put(mine, Login("Bearer a", 10.0))
    assert logins.get(mine, 9.0) == "Bearer a"
    assert logins.get(login_key(ORIGIN, "s", Credentials("me", "px")), 9.0) == ""
    assert logins.get(login_key(ORIGIN, "s", None), 9.0) == ""
    assert logins.get(mine, 10.0) == ""
    assert logins.get(mine, 9.0) == ""  # it was dropped
    shown = f"{mine} {Credentials('me', 'pw')} {Login('Bearer a', 10.0)}"
    assert "pw" not in shown
    assert "Bearer" not in shown


def test_logins_are_bounded_and_a_refused_one_is_dropped_once() -> None:
    logins = Logins()
    keys = [login_key(ORIGIN, str(n), None) for n in range(LOGINS_MAX + 1)]
    for key in keys:
        logins.put(key, Login("Bearer a", 10.0))
    assert logins.get(keys[0], 0.0) == ""
    logins.drop(keys[1], "Bearer older")
    assert logins.get(keys[1], 0.0) == "Bearer a"
    logins.drop(keys[1], "Bearer a")
    assert logins.get(keys[1], 0.0) == ""


# Patience


def test_pauses_double_up_to_a_bound_and_obey_what_is_said() -> None:
    patience = Patience(first_pause_s=1.0, pause_max_s=5.0, told_to_wait_max_s=30.0)
    assert [pause_before(n, None, patience, 1.0) for n in (1, 2, 3, 4, 10**6)] == [1, 2, 4, 5, 5]
    assert pause_before(1, None, patience, 0.0) == 0.5
    assert pause_before(1, 20.0, patience, 0.5) == 20.0
    assert pause_before(4, 0.0, patience, 1.0) == 5.0
    assert pause_before(1, 31.0, patience, 0.5) is None


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        (None, None), ("", None), ("0", 0.0), ("120", 120.0), ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0), ("soon", None), ("-1", None), ("1.5", None), ("٣", None),
        ("9" * 400, 999999999999.0), ("Wed, 99 Foo 2015", None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(text: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(text, unix_now=1445412480.0) == wait_s


# Platforms


def test_platforms_are_read() -> None:
    assert parse_platform("amd64") == Platform("linux", "amd64")
    assert parse_platform("Linux/aarch64") == Platform("linux", "arm64")
    assert str(parse_platform("linux/arm/v7")) == "linux/arm/v7"
    for text in ("", "linux/", "a/b/c/d", "linux/a b"):
        with pytest.raises(InvalidRequestError):
            parse_platform(text)


def test_the_closest_image_for_a_machine_is_chosen() -> None:
    v5, v6, v7, v8 = (Platform("linux", "arm", f"v{n}") for n in (5, 6, 7, 8))
    arm = Platform("linux", "arm")
    assert choose_platform([v5, v6, v8], v7) == 1
    assert choose_platform([v5, arm, v6], v7) == 1
    assert choose_platform([v7, v6], arm) == 0
    arm64 = Platform("linux", "arm64")
    assert choose_platform([v7, Platform("linux", "arm64", "v8")], arm64) == 1
    assert closeness(Platform("linux", "arm64", "v9"), arm64) is None
    amd = [Platform("linux", "amd64", f"v{n}") for n in (1, 2, 3, 4)]
    assert choose_platform(amd, Platform("linux", "amd64", "v3")) == 2
    assert choose_platform(amd, Platform("linux", "amd64")) == 0
    assert choose_platform([None], arm) == 0
    assert choose_platform([None, arm], arm) == 1
    assert closeness(Platform("windows", "arm"), arm) is None
    assert closeness(Platform("linux", "riscv64", "odd"), Platform("linux", "riscv64")) is None


@pytest.mark.parametrize(
    "offered", [[], [None, None], [Platform("windows", "amd64"), Platform("unknown", "unknown")]]
)
def test_where_nothing_fits_it_says_what_there_is(offered: list[Platform | None]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        choose_platform(offered, Platform("linux", "amd64"))
    assert raised.value.code == "registry.no_platform"
    assert str(raised.value).endswith("there for: " + ("windows/amd64" if any(offered) else "none"))


# Where to ask


def test_mirrors_come_first_and_the_hub_has_an_address_of_its_own() -> None:
    registries = Registries(
        mirrors={"docker.io": ["https://mirror.example:8443/hub/", "http://10.0.0.1:5000"]},
        plain=frozenset({"old.example:80"}),
    )
    hub = registries.endpoints("docker.io")
    assert [one.url for one in hub] == [
        "https://mirror.example:8443/hub",
        "http://10.0.0.1:5000",
        "https://registry-1.docker.io",
    ]
    assert [one.host for one in hub] == ["mirror.example:8443", "10.0.0.1:5000", "docker.io"]
    reference = parse_reference("debian:12")
    assert hub[0].url_of(reference, "manifests", "12") == (
        "https://mirror.example:8443/hub/v2/library/debian/manifests/12?ns=docker.io"
    )
    assert hub[2].url_of(reference, "blobs", D1).endswith(f"/v2/library/debian/blobs/{D1}")


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("r.example", "https"), ("localhost", "http"), ("localhost:5000", "http"), ("127.0.0.1:1", "http"),
        ("[::1]:5000", "http"), ("[::1]", "http"), ("10.0.0.1:5000", "https"), ("localhost.example", "https"),
        ("old.example:80", "http"),
    ],
)  # fmt: skip
def test_only_this_host_and_named_ones_are_asked_without_tls(host: str, scheme: str) -> None:
    registries = Registries(plain=frozenset({"old.example:80"}))
    (endpoint,) = registries.endpoints(host)
    assert endpoint.url == f"{scheme}://{host}"


def test_origins_are_scheme_host_and_port() -> None:
    assert origin_of("https://R.example/x") == ORIGIN
    assert origin_of("https://r.example:443") == ORIGIN
    assert origin_of("http://r.example") != ORIGIN
    assert origin_of("https://r.example:444") != ORIGIN


def test_redirects_and_realms_never_leave_tls() -> None:
    assert follow("https://a.example/x/y", "/z") == "https://a.example/z"
    assert follow("http://a.example/", "https://b.example/") == "https://b.example/"
    for to in (
        "http://a.example/",
        "file:///etc/passwd",
        "https://u@b.example/",
        "x" * 9000,
        "/a b",
        "/é",
    ):
        with pytest.raises(UnavailableError):
            follow("https://a.example/", to)
    with pytest.raises(UnavailableError):
        check_realm("https://a.example/v2/", "http://auth.example/token")


def test_closed_addresses_are_refused_however_they_are_written() -> None:
    nothing: tuple[ipaddress.IPv4Network, ...] = ()
    for host in (
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
    ):
        with pytest.raises(ForbiddenError):
            check_address(f"http://{host}:5000/", nothing)
    check_address("http://8.8.8.8/", nothing)
    check_address("http://10.1.2.3/", [ipaddress.ip_network("10.0.0.0/8")])


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0177.0.0.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "a.0x1",
        "1.2.3.4.5",
    ],
)
def test_addresses_that_are_not_written_out_are_not_asked(host: str) -> None:
    with pytest.raises(UnavailableError, match="not written out"):
        check_address(f"http://{host}/", [ipaddress.ip_network("0.0.0.0/0")])


def test_what_operators_write_is_read() -> None:
    found = parse_registries(
        "docker.io=https://m.example/path, docker.io=http://10.0.0.1:5000,ghcr.io=https://g.example",
        "old.example:80,",
        "10.0.0.0/8, fd00::/8",
    )
    assert found.mirrors == {
        "docker.io": ["https://m.example/path", "http://10.0.0.1:5000"],
        "ghcr.io": ["https://g.example"],
    }
    assert found.plain == {"old.example:80"}
    assert [str(one) for one in found.networks] == ["10.0.0.0/8", "fd00::/8"]
    assert parse_registries("", "", "") == Registries()


@pytest.mark.parametrize(
    "mirrors",
    [
        "https://m.example", "docker.io=m.example", "docker.io=ftp://m.example", "docker.io=https://m.example/?x=1",
        "docker.io=https://u:p@m.example", "docker.io=", "=https://m.example",
    ],
)  # fmt: skip
def test_a_mirror_that_is_no_base_url_is_refused(mirrors: str) -> None:
    with pytest.raises(ValueError, match="mirror"):
        parse_registries(mirrors, "", "")


def test_urls_are_shown_without_their_secrets() -> None:
    assert shown_url("https://u:p@r.example/x?sig=secret") == "r.example/x"


# Manifests


def a_manifest(**changes: object) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{OCI}manifest.v1+json",
        "config": {"mediaType": f"{OCI}config.v1+json", "digest": D1, "size": 2},
        "layers": [{"mediaType": f"{OCI}layer.v1.tar+gzip", "digest": D2, "size": 2}],
        **changes,
    }


def read(document: object, content_type: str = "") -> Index | Manifest:
    return read_manifest(json.dumps(document).encode(), content_type)


@pytest.mark.parametrize(
    "layer",
    [
        f"{OCI}layer.v1.tar", f"{OCI}layer.v1.tar+gzip", f"{OCI}layer.v1.tar+zstd",
        f"{OCI}layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ],
)  # fmt: skip
def test_manifests_of_oci_and_docker_are_read(layer: str) -> None:
    document = a_manifest(layers=[{"mediaType": layer, "digest": D2, "size": 7}])
    found = read(document, f"{OCI}manifest.v1+json; charset=utf-8")
    assert isinstance(found, Manifest)
    assert found.layers[0].digest == D2
    del document["mediaType"]
    assert read(document) == found


def test_attestations_in_an_index_are_no_images() -> None:
    entry = {"mediaType": f"{OCI}manifest.v1+json", "digest": D1, "size": 2}
    found = read(
        {
            "schemaVersion": 2,
            "manifests": [
                {**entry, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
                {**entry, "mediaType": "application/x-other"},
                {**entry, "platform": {"os": "linux", "architecture": "amd64", "os.version": "1"}},
            ],
        },
        f"{OCI}index.v1+json",
    )
    assert isinstance(found, Index)
    assert [one.platform for one in found.entries] == [Platform("linux", "amd64")]


LAYER = {"mediaType": f"{OCI}layer.v1.tar", "digest": D2, "size": 1}


@pytest.mark.parametrize(
    ("document", "content_type", "words"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema 1"),
        (a_manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (a_manifest(), f"{OCI}index.v1+json", "calls itself"),
        (a_manifest(manifests=[]), "", "neither an index nor"),
        (a_manifest(schemaVersion=3), "", "neither an index nor"),
        (a_manifest(mediaType=f"{OCI}index.v1+json"), "", "no image"),
        ({"schemaVersion": 2, "mediaType": f"{OCI}manifest.v1+json", "manifests": []}, "", "no image"),
        (a_manifest(config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": D1, "size": 1}), "",
         "artifact"),
        (a_manifest(layers=[{**LAYER, "mediaType": f"{OCI}layer.v1.tar+gzip+encrypted"}]), "", "encrypted"),
        (a_manifest(layers=[{**LAYER, "urls": ["https://elsewhere"]}]), "", "foreign"),
        (a_manifest(layers=[{**LAYER, "digest": "md5:1"}]), "", "sha256"),
        (a_manifest(layers=[{**LAYER, "digest": "sha256:../../etc/passwd"}]), "", "sha256"),
        (a_manifest(layers=[{**LAYER, "size": -1}]), "", "-1 bytes"),
        (a_manifest(layers=[{**LAYER, "size": 10**15}]), "", "at most"),
        (a_manifest(layers=[LAYER] * (LAYERS_MAX + 1)), "", "layers"),
        (a_manifest(layers=[{**LAYER, "size": 2**35}] * 3), "", "together"),
        ([], "", "can't be read"),
        (a_manifest(layers="x"), "", "can't be read"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_refused_with_what_it_is(
    document: object, content_type: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as raised:
        read(document, content_type)
    assert raised.value.code == "registry.unsupported"


def test_a_configuration_names_every_layer() -> None:
    manifest = read(a_manifest())
    assert isinstance(manifest, Manifest)

    def config(**changes: object) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [D2], **changes}
        config = {"Env": None, "Cmd": ["a"], "User": "", "Labels": None, "Volumes": {"/x": {}}}
        return json.dumps(
            {"os": "linux", "architecture": "amd64", "rootfs": rootfs, "config": config}
        ).encode()

    found = read_config(config(), manifest)
    assert found.diff_ids == (D2,)
    assert found.config.cmd == ("a",)
    for bad in (
        config(diff_ids=[]),
        config(diff_ids=[D1, D2]),
        config(diff_ids=["x"]),
        b"{",
        b'{"os": 1}',
    ):
        with pytest.raises(InvalidRequestError):
            read_config(bad, manifest)
