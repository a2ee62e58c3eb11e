"""CloudEvents as the specification writes them: what is read, how, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest
from glowplug_contracts.cloudevents import (
    EVENT_BYTES_MAX,
    check_unreserved,
    event_key,
    read_batch,
    read_events,
    read_structured,
    write_structured,
)
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, WorkspaceId
from glowplug_contracts.messages.event import CloudEvent, DataForm

from tests.support.builders_events import an_event

MUST = {"specversion": "1.0", "id": "A234-1234", "source": "/mycontext", "type": "com.example.x"}
HEADERS = {f"ce-{name}": value for name, value in MUST.items()}


def structured(**more: object) -> bytes:
    return json.dumps(MUST | more).encode()


def binary(body: bytes = b"", **headers: str) -> CloudEvent:
    given = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    (event,) = read_events(given.items(), body)
    return event


# The header-value examples of the HTTP binding, section 3.1.3.2, and what it says about older senders.
@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("plain text", "plain text"),
        ('"with \\"quotes\\" and \\\\"', 'with "quotes" and \\'),
        ('"%C3%A9"', "é"),
        ("%2525", "%25"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("  padded  ", "padded"),
        ("a(comment)", "a(comment)"),
    ],
)
def test_header_values_are_unquoted_then_percent_decoded_once(written, means):
    assert binary(ce_subject=written).subject == means


def test_the_case_of_header_names_is_ignored():
    given = {name.upper(): value for name, value in HEADERS.items()} | {
        "CONTENT-TYPE": "text/plain"
    }
    (event,) = read_events(given.items(), b"hi")
    assert (event.id, event.datacontenttype, event.data) == ("A234-1234", "text/plain", b"hi")


@pytest.mark.parametrize(
    ("content_type", "body", "form"),
    [
        ("", b"", DataForm.NONE),
        ("", b"\x00", DataForm.BYTES),
        ("application/json", b'{"a": 1}', DataForm.JSON),
        ("application/vnd.x+json; charset=utf-8", b"[1]", DataForm.JSON),
        ("text/plain; charset=UTF-8", "é".encode(), DataForm.TEXT),
        ("text/plain; charset=latin-1", "é".encode("latin-1"), DataForm.BYTES),
        ("text/plain", b"\xff", DataForm.BYTES),
        ("image/png", b"\x89PNG", DataForm.BYTES),
        ("application/json", b"", DataForm.NONE),
    ],
)
def test_the_data_of_the_binary_mode_is_the_body(content_type, body, form):
    event = binary(body, content_type=content_type) if content_type else binary(body)
    assert (event.form, event.data) == (form, body)


@pytest.mark.parametrize(
    ("members", "form", "data"),
    [
        ({}, DataForm.NONE, b""),
        ({"data": None}, DataForm.JSON, b"null"),
        ({"data": {"a": [1]}}, DataForm.JSON, b'{"a": [1]}'),
        ({"data": "text"}, DataForm.JSON, b'"text"'),
        ({"data": "<x/>", "datacontenttype": "application/xml"}, DataForm.TEXT, b"<x/>"),
        ({"data": 5, "datacontenttype": "application/json"}, DataForm.JSON, b"5"),
        ({"data_base64": "AAE="}, DataForm.BYTES, b"\x00\x01"),
        (
            {"data_base64": base64.b64encode(b"[1]").decode(), "datacontenttype": "text/json"},
            DataForm.JSON,
            b"[1]",
        ),
    ],
)
def test_the_data_of_the_structured_mode(members, form, data):
    event = read_structured(structured(**members))
    assert (event.form, event.data) == (form, data)


def test_extensions_are_canonical_strings_and_null_is_absent():
    event = read_structured(structured(aa="x", bb=True, cc=-7, dd=None, subject=None))
    assert event.extensions == {"aa": "x", "bb": "true", "cc": "-7"}
    assert event.subject == ""


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_required_attributes_are_required(name):
    without = json.dumps({n: v for n, v in MUST.items() if n != name}).encode()
    with pytest.raises(InvalidRequestError, match=name) as caught:
        read_structured(without)
    assert caught.value.code == "event.invalid"
    headers = {n: v for n, v in HEADERS.items() if n != f"ce-{name}"}
    with pytest.raises(InvalidRequestError, match=name):
        read_events(headers.items(), b"")


@pytest.mark.parametrize(
    "members",
    [
        {"specversion": "0.3"},
        {"id": ""},
        {"source": "not a uri"},
        {"time": "yesterday"},
        {"time": "2020-13-01T00:00:00Z"},
        {"datacontenttype": "json"},
        {"dataschema": "relative/path"},
        {"subject": ""},
        {"subject": "line\nbreak"},
        {"subject": "\u0085"},
        {"subject": "x" * 2_049},
        {"type": "\ufdd0"},
        {"Upper": "x"},
        {"under_score": "x"},
        {"x" * 65: "x"},
        {"fraction": 1.5},
        {"large": 2**31},
        {"small": -(2**31) - 1},
        {"object": {}},
        {"array": [1]},
        {"data": 1, "data_base64": "AA=="},
        {"data_base64": "no base64!"},
        {"data_base64": 5},
        {"data": {"a": 1}, "datacontenttype": "text/plain"},
        {"data": "x" * EVENT_BYTES_MAX},
        {"data_base64": base64.b64encode(b"x" * (EVENT_BYTES_MAX * 4 // 5)).decode()},
        {f"ext{n}": "x" for n in range(65)},
    ],
)
def test_what_the_specification_or_the_bounds_forbid_is_refused(members):
    with pytest.raises(InvalidRequestError) as caught:
        read_structured(structured(**members))
    assert caught.value.code == "event.invalid"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"specversion":"1.0","id":"\\ud800","source":"/x","type":"t"}',
        b'{"specversion":"1.0","id":"1","source":"/x","type":"t","e":'
        + b"[" * 5_000
        + b"]" * 5_000
        + b"}",
        b'{"specversion":"1.0","id":"1","source":"/x","type":"t","data":'
        + b"[" * 100
        + b"]" * 100
        + b"}",
        b"\xff\xfe{}",
    ],
)
def test_bytes_that_are_no_event_are_refused_whatever_they_are(body):
    with pytest.raises(InvalidRequestError):
        read_structured(body)


def test_headers_that_are_no_event_are_refused():
    twice = [*HEADERS.items(), ("CE-ID", "other")]
    with pytest.raises(InvalidRequestError, match="twice"):
        read_events(twice, b"")
    for more in ({"ce-data": "x"}, {"ce-datacontenttype": "text/plain"}, {"ce-a_b": "x"}):
        with pytest.raises(InvalidRequestError):
            read_events((HEADERS | more).items(), b"")
    for broken in ("%FF", "\udcff"):
        with pytest.raises(InvalidRequestError, match="subject"):
            binary(ce_subject=broken)
    with pytest.raises(InvalidRequestError, match="JSON"):
        binary(b"{", content_type="application/json")


def test_the_content_type_says_the_mode():
    body = structured(data=1)
    for kind in ("application/cloudevents+json", "Application/CloudEvents+JSON; charset=utf-8"):
        assert len(read_events({"Content-Type": kind}.items(), body)) == 1
    batch = b"[" + body + b"," + body + b"]"
    kind = "application/cloudevents-batch+json; charset=utf-8"
    assert len(read_events({"Content-Type": kind}.items(), batch)) == 2
    for unread in (
        "application/cloudevents",
        "application/cloudevents+avro",
        "application/cloudevents-batch",
    ):
        with pytest.raises(InvalidRequestError, match="not read"):
            read_events({"Content-Type": unread}.items(), body)


def test_a_batch_is_bounded_and_names_the_event_that_is_wrong():
    assert read_batch(b"[]") == ()
    with pytest.raises(InvalidRequestError, match="event 1 of the batch"):
        read_batch(b"[" + structured() + b",{}]")
    with pytest.raises(InvalidRequestError, match="1001"):
        read_batch(b"[" + b",".join([structured()] * 1_001) + b"]")


@pytest.mark.parametrize(
    "event",
    [
        an_event(),
        an_event(subject="a/b", time="2020-01-01T00:00:00.5+02:00", extensions={"a": "1"}),
        an_event(form=DataForm.TEXT, datacontenttype="text/plain", data='"é"\n'.encode()),
        an_event(form=DataForm.BYTES, datacontenttype="", data=b"\x00\xff"),
        an_event(form=DataForm.NONE, datacontenttype="", data=b""),
    ],
)
def test_what_is_written_reads_the_same(event):
    assert read_structured(write_structured(event)) == event


def test_an_events_key_follows_from_workspace_source_and_id_alone():
    key = event_key(DEFAULT_WORKSPACE, "/a", "b")
    assert key == event_key(DEFAULT_WORKSPACE, "/a", "b")
    others = {
        event_key(DEFAULT_WORKSPACE, "/a/", "b"),
        event_key(DEFAULT_WORKSPACE, "/", "ab"),
        event_key(DEFAULT_WORKSPACE, "/ab", ""),
        event_key(WorkspaceId("other"), "/a", "b"),
    }
    assert len(others | {key}) == 5


def test_strangers_can_not_speak_for_the_platform():
    for pretended in ({"source": "glowplug:deployments"}, {"type": "glowplug.event.refused"}):
        with pytest.raises(InvalidRequestError, match="own"):
            check_unreserved(an_event(**pretended))
    check_unreserved(an_event(source="/glowplug", type="my.glowplug.x"))
