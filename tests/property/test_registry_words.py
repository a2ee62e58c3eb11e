"""Whatever registries and users write, it is read or refused in our words."""

from __future__ import annotations

import contextlib

import msgspec
from glowplug_contracts.errors import InvalidRequestError, UnavailableError
from glowplug_imagecache.registry.challenge import Challenge, parse_challenges, read_token
from glowplug_imagecache.registry.endpoints import follow, origin_of
from glowplug_imagecache.registry.manifests import Descriptor, Manifest, read_config, read_manifest
from glowplug_imagecache.registry.patience import parse_retry_after
from glowplug_imagecache.registry.reference import Reference, parse_reference
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scripted_registry import OCI

D = f"sha256:{'1' * 64}"
odd = st.text(st.sampled_from('aZ0.:/@-_[]%~ "=,\\\n\xe9'), max_size=40)


@given(odd)
def test_a_reference_is_itself_again_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        check_reference(parse_reference(text))


def check_reference(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference
    assert ".." not in reference.repository
    (host, port) = origin_of(f"https://{reference.host}/")[1:]
    assert host
    assert 0 < port <= 65535


words = st.text(st.sampled_from("abc-"), min_size=1, max_size=6)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
challenges = st.lists(
    st.builds(Challenge, words, st.dictionaries(words, values, max_size=4)), max_size=4
)


@given(challenges, st.sampled_from([", ", ",", " , "]))
def test_challenges_are_read_as_they_were_written(offered: list[Challenge], comma: str) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    written = comma.join(
        f"{one.scheme} {comma.join(f'{key}={quoted(value)}' for key, value in one.parameters.items())}".strip()
        for one in offered
    )
    assert parse_challenges([written]) == offered


@given(odd)
def test_no_header_makes_us_stumble(text: str) -> None:
    parse_challenges([text, text])
    parse_retry_after(text, 0.0)
    with contextlib.suppress(UnavailableError):
        assert follow("https://r.example/v2/", text).startswith("https://")


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", D])
    | st.sampled_from([f"{OCI}manifest.v1+json", f"{OCI}layer.v1.tar"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["schemaVersion", "mediaType", "manifests", "config", "layers", "digest", "size", "rootfs", "diff_ids"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip
fields = st.dictionaries(st.sampled_from(["mediaType", "manifests", "config", "layers"]), documents)


@given(st.binary(max_size=60) | documents | fields.map(lambda some: {"schemaVersion": 2, **some}))
def test_a_document_is_read_or_refused(document: object) -> None:
    data = document if isinstance(document, bytes) else msgspec.json.encode(document)
    manifest = Manifest(Descriptor(digest=D, size=1), ())
    with contextlib.suppress(InvalidRequestError):
        read_manifest(data, "")
    with contextlib.suppress(InvalidRequestError):
        read_config(data, manifest)
    with contextlib.suppress(UnavailableError):
        read_token(data, 0.0)
