"""Whole requests in, answers out: user code's words are checked before they become headers."""

from __future__ import annotations

import json

import pytest
from glowplug_gateway.whole_requests import (
    BadAnswerError,
    WholeRequest,
    answer_of,
    event_of,
)


def a_request(**more: object) -> WholeRequest:
    fields = {
        "method": "PUT",
        "path": "/endpoint/x",
        "raw_query": "a=1",
        "query": (("a", "1"),),
        "headers": (("X-Kind", "1"), ("x-kind", "2"), ("Authorization", "Bearer t"), ("TE", "x")),
        "body": b"hi",
        "request_id": "inv_1",
        "token_ours": True,
    }
    return WholeRequest(**(fields | more))


def test_the_event_has_our_words_and_awss() -> None:
    event = event_of(a_request())
    assert event["headers"] == {"x-kind": "1,2"}
    assert (event["method"], event["httpMethod"], event["body"]) == ("PUT", "PUT", "hi")
    assert event["requestContext"]["http"] == {"method": "PUT", "path": "/endpoint/x"}
    assert event_of(a_request(token_ours=False))["headers"]["authorization"] == "Bearer t"
    binary = event_of(a_request(body=b"\xff"))
    assert (binary["body"], binary["isBase64Encoded"]) == ("/w==", True)


def answered(**value: object):
    return answer_of(json.dumps(value).encode())


def test_status_headers_and_body_become_the_answer() -> None:
    answer = answered(statusCode="404", headers={"X-A": 1, "Connection": "close"}, body="no")
    assert (answer.status, answer.body) == (404, b"no")
    assert answer.headers == (("X-A", "1"), ("content-type", "text/plain"))
    assert answered(statusCode=200, body="AAE=", isBase64Encoded=True).body == b"\x00\x01"
    assert answered(statusCode=200, body={"a": 1}).body == b'{"a":1}'
    many = answered(statusCode=200, multiValueHeaders={"Set-Cookie": ["a=1", "b=2"]})
    assert [pair for pair in many.headers if pair[0] == "Set-Cookie"] == [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]
    plain = answer_of(b'{"no":"status"}')
    assert (plain.status, plain.body) == (200, b'{"no":"status"}')


@pytest.mark.parametrize(
    "value",
    [
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": True},
        {"statusCode": None},
        {"statusCode": "ok"},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "headers": {"X": "a\r\nSet-Cookie: b"}},
        {"statusCode": 200, "headers": {"X Y": "a"}},
        {"statusCode": 200, "headers": {"X": "a" * 10_000}},
        {"statusCode": 200, "headers": {f"X{n}": "a" for n in range(101)}},
        {"statusCode": 200, "multiValueHeaders": {"X": "a"}},
        {"statusCode": 200, "body": "?", "isBase64Encoded": True},
    ],
)
def test_what_is_no_answer_is_refused(value) -> None:
    with pytest.raises(BadAnswerError):
        answered(**value)
