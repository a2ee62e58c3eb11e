"""What callers say about durable work: read strictly, and what becomes of it in the record."""

from __future__ import annotations

import json

import msgspec
import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, DeploymentId, Digest, InvocationId, make_id
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentSpec,
    FunctionKind,
    SourceRef,
)
from glowplug_contracts.messages.http import PutOptions
from glowplug_contracts.messages.invocation import Format, Payload
from glowplug_contracts.messages.record import InvocationRecord, RateLimit
from glowplug_gateway.intake import fingerprint, new_record
from glowplug_gateway.put_options import read_options

TASK = InvocationId(make_id("invocation", 0, bytes(10)))
JSON = Payload(format=Format.JSON, data=b'{"args":[1],"kwargs":{}}', size=24)
LARGE = Payload(format=Format.PICKLE, blob=Digest("0" * 64), size=10**6)


def a_record(
    options: PutOptions | None = None, args: Payload = JSON, **spec: object
) -> InvocationRecord:
    spec = {"name": "q", "kind": FunctionKind.TASK_QUEUE, "source": SourceRef()} | spec
    deployment = Deployment(
        deployment_id=DeploymentId("dep_1"),
        workspace=DEFAULT_WORKSPACE,
        version=1,
        spec=DeploymentSpec(**spec),  # type: ignore[arg-type]
    )
    return new_record(deployment, TASK, args, options or PutOptions(), "", 1000.0, {})


def test_what_is_not_said_is_the_functions() -> None:
    record = a_record(
        priority=3,
        timeout_s=7.0,
        expires_s=60.0,
        keep_result_s=5.0,
        rate=RateLimit(count=2),
        callback_url="https://x",
    )
    assert (record.priority, record.timeout_s, record.expires_at) == (3, 7.0, 1060.0)
    assert (record.keep_result_s, record.rate.count, record.callback_url) == (5.0, 2, "https://x")
    assert record.dead_letter
    assert not a_record(kind=FunctionKind.FUNCTION).dead_letter


def test_what_is_said_goes_before() -> None:
    said = PutOptions(
        priority=-3, timeout_s=-1, ttl_s=5.0, keep_result_s=0.0, callback_url="", delay_s=30.0
    )
    record = a_record(said, priority=3, timeout_s=7.0, expires_s=60.0, callback_url="https://x")
    assert (record.priority, record.timeout_s, record.keep_result_s) == (-3, -1, 0.0)
    assert (record.due_at, record.expires_at, record.callback_url) == (1030.0, 1035.0, "")


def test_keys_are_the_functions_own() -> None:
    assert a_record(PutOptions(concurrency_key="a", concurrency_limit=2)).key.key == "q/a"
    ordered = a_record(PutOptions(fifo_key="a")).key
    assert (ordered.ordered, ordered.limit) == (True, 1)
    assert ordered.key != a_record(PutOptions(concurrency_key="a")).key.key


def test_large_arguments_expire_and_can_not_wait_for_ever() -> None:
    assert a_record(args=LARGE).expires_at == 1000.0 + 30 * 86_400
    with pytest.raises(InvalidRequestError, match="large arguments"):
        a_record(PutOptions(delay_s=31 * 86_400.0), args=LARGE)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"priority": 11}, "priority"),
        ({"priority": 1.5}, ""),
        ({"delay_s": -1}, "delay_s"),
        ({"delay_s": 1, "eta": 2}, "eta"),
        ({"eta": "soon"}, ""),
        ({"ttl_s": 0}, "ttl_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -0.5}, "timeout_s"),
        ({"idempotency_key": "x" * 257}, "idempotency_key"),
        ({"idempotency_window_s": 8 * 86_400}, "idempotency_window_s"),
        ({"fifo_key": "a", "concurrency_key": "b"}, "concurrency_key"),
        ({"fifo_key": "a", "delay_s": 1}, "fifo_key"),
        ({"concurrency_limit": 0}, "concurrency_limit"),
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {f"t{n}": "x" for n in range(33)}}, "tags"),
        ({"tags": {"a": "x" * 257}}, "tags"),
        ({"callback_url": "ftp://x"}, "callback_url"),
        ({"keep_result_s": -1}, "keep_result_s"),
        ({"prority": 1}, "prority"),
        ([], ""),
    ],
)
def test_what_is_wrong_is_refused_by_name(said: object, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_options(json.dumps(said), None)
    fields = caught.value.details["fields"]
    assert f"options.{field}".rstrip(".") in fields  # type: ignore[operator]


@pytest.mark.parametrize(
    "header", ["", "{", "[" * 5000, '{"eta": NaN}', '{"eta": 1e999}', "x" * 9000]
)
def test_what_is_no_object_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError):
        read_options(header, None)


def test_a_parent_is_an_id() -> None:
    with pytest.raises(InvalidRequestError, match="no invocation id"):
        read_options('{"parent": "x"}', None)
    assert read_options(json.dumps({"parent": TASK}), None).parent == TASK


def test_the_web_has_its_own_header_for_the_key() -> None:
    assert read_options(None, "k-1").idempotency_key == "k-1"


def test_equal_arguments_have_one_fingerprint() -> None:
    spaced = msgspec.structs.replace(JSON, data=b'{"kwargs": {}, "args": [1]}')
    other = msgspec.structs.replace(JSON, data=b'{"args":[2],"kwargs":{}}')
    assert fingerprint(spaced) == fingerprint(JSON) != fingerprint(other)
    assert fingerprint(LARGE) != fingerprint(msgspec.structs.replace(LARGE, blob=Digest("1" * 64)))
