"""The registry is complete: every message has a subject, every subject an owner and a listener."""

from __future__ import annotations

import ast
import itertools
import re

import pytest
from glowplug_contracts.codec import decode
from glowplug_contracts.errors import CODES, PlatformError
from glowplug_contracts.permissions import APP, SERVICES, SHARDS_MAX, permissions
from glowplug_contracts.streams import BUCKETS, STREAMS
from glowplug_contracts.subjects import PLACEHOLDERS, SUBJECTS

from tests.contracts.walk import message_types, named_subjects, reachable, wire_types
from tests.repo.tree import product

NAMES = list(named_subjects())
KNOWN = {*SERVICES, APP, "*"}


def overlap(one: str, other: str) -> bool:
    """Return whether some subject matches both patterns."""
    for a, b in itertools.zip_longest(one.split("."), other.split(".")):
        if ">" in (a, b):
            return True
        if a is None or b is None or (a != b and "*" not in (a, b)):
            return False
    return True


def matches(pattern: str, subject: str) -> bool:
    return overlap(pattern, subject)


def test_every_message_travels() -> None:
    travelling = set().union(*(reachable(kind) for kind, _ in wire_types().values()))
    assert [kind.__name__ for kind in message_types() if kind not in travelling] == []


def test_every_payload_is_the_payload_of_one_subject() -> None:
    # Cancelling goes two hops, gateway → scheduler → worker, with the same words.
    twice = {"CancelInvocation"}
    payloads = [s.payload.__name__ for s in SUBJECTS if s.payload.__name__ not in twice]
    assert len(payloads) == len(set(payloads))


@pytest.mark.parametrize("name", NAMES)
def test_a_subject_has_somebody_on_both_ends(name: str) -> None:
    subject = named_subjects()[name]
    assert subject.publishers
    assert subject.subscribers or subject.note
    assert set(subject.publishers) | set(subject.subscribers) <= KNOWN


@pytest.mark.parametrize("name", NAMES)
def test_a_subjects_words_are_documented(name: str) -> None:
    subject = named_subjects()[name]
    assert set(subject.fields) <= set(PLACEHOLDERS)
    assert re.fullmatch(r"v\d+(\.([a-z]+|\{\w+\}))+", subject.template)


def test_no_word_is_documented_that_no_subject_uses() -> None:
    assert set(PLACEHOLDERS) == {field for subject in SUBJECTS for field in subject.fields}


def test_no_two_subjects_overlap() -> None:
    patterns = {name: subject.pattern().subject for name, subject in named_subjects().items()}
    assert [
        pair for pair in itertools.combinations(patterns, 2)
        if overlap(patterns[pair[0]], patterns[pair[1]])
    ] == []  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_subject_is_captured_by_its_own_stream_only(name: str) -> None:
    subject = named_subjects()[name]
    capturing = [
        stream.name
        for stream in STREAMS
        for pattern in stream.subjects
        if matches(pattern.replace("{shard}", "*"), subject.pattern().subject)
    ]
    assert capturing == ([subject.stream.name] if subject.stream else [])


def test_every_stream_is_fed_and_says_why() -> None:
    assert {s.stream.name for s in SUBJECTS if s.stream} == {stream.name for stream in STREAMS}
    assert all(len(thing.why) > 20 for thing in (*STREAMS, *BUCKETS))


def test_every_stream_is_bounded() -> None:
    assert [s.name for s in STREAMS if not (s.max_bytes or s.max_msgs)] == []


def test_every_bucket_has_a_writer_and_a_reader() -> None:
    assert [b.name for b in BUCKETS if not b.writers or not b.readers] == []
    assert {one for b in BUCKETS for one in (*b.writers, *b.readers)} <= KNOWN


def test_no_service_may_write_what_it_does_not_own() -> None:
    for service in SERVICES:
        allowed = permissions(service).publish
        for name, subject in named_subjects().items():
            owner = service in subject.publishers or "*" in subject.publishers
            example = subject.pattern().subject
            assert any(matches(p, example) for p in allowed) == owner, f"{service} → {name}"


def test_users_programs_may_publish_events_and_nothing_else() -> None:
    allowed = permissions(APP)
    assert allowed.publish == ("v1.ingress.*",)
    assert allowed.subscribe == ("_INBOX.>",)


def test_permissions_name_every_shard_that_may_exist() -> None:
    assert f"$JS.API.DIRECT.GET.RECORDS_{SHARDS_MAX - 1}" in permissions("gateway").publish


def test_values_in_an_address_can_not_widen_it() -> None:
    for subject in SUBJECTS:
        for bad in ("*", ">", "a.b", "", "a b", "é", "x" * 97):
            if subject.fields:
                with pytest.raises(PlatformError) as caught:
                    subject.at(**dict.fromkeys(subject.fields, bad))
                assert caught.value.code == "request.bad_token"


def test_an_address_can_be_read_back() -> None:
    for subject in SUBJECTS:
        values = {field: f"{field}-7" for field in subject.fields}
        assert subject.parse(subject.at(**values).subject) == values


def test_bytes_that_are_no_message_are_a_contract_error() -> None:
    for name, (kind, wire) in wire_types().items():
        if wire == "raw":
            continue  # strangers' bytes: any are right, and are looked at later
        with pytest.raises(PlatformError) as caught:
            decode(b"\xc1 nonsense", kind, wire)  # type: ignore[arg-type]
        assert caught.value.code == "platform.contract", name


def test_every_error_code_in_the_code_is_registered() -> None:
    raised = set()
    for source in product():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            first = node.args[0]
            if called.endswith("Error") and isinstance(first, ast.Constant):
                value = first.value
                if isinstance(value, str) and re.fullmatch(r"[a-z]+\.[a-z_]+", value):
                    raised.add(value)
    assert raised - set(CODES) == set()
    assert raised, "no code is raised anywhere: this search is broken"


def test_codes_have_the_form_area_reason() -> None:
    assert [code for code in CODES if not re.fullmatch(r"[a-z]+\.[a-z_]+", code)] == []
