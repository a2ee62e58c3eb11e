"""Events, batches and whole requests as the runner hands them to the user's code."""

from __future__ import annotations

import json

import pytest
from glowplug_contracts.cloudevents import arguments_of_many, arguments_of_one, write_structured

from tests.support.builders_events import an_event
from tests.support.runner_process import open_runner

APP = """
from glowplug import BatchFailedError, Event, on_event

def one(event, context):
    assert isinstance(event, Event), event
    return [event.id, event.type, event.data, event.extensions, context.task_id]

@on_event("a", batch=3)
def many(events):
    if events[0].data == "raise":
        raise BatchFailedError([events[1]], "sorry")
    if events[0].data == "unknown":
        return {"batchItemFailures": [{"itemIdentifier": "nobody"}]}
    if events[0].data == "strange":
        return {"batchItemFailures": ["x"]}
    return {"batchItemFailures": [{"itemIdentifier": e.id} for e in events if e.data == "bad"]}

async def amany(events):
    raise BatchFailedError([e.id for e in events if e.data == "bad"])

def lambda_handler(evt, ctx):
    return {"statusCode": 201, "body": evt["body"] + ctx.aws_request_id + ctx.function_name,
            "left": ctx.get_remaining_time_in_millis() > 0}
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    return str(tmp_path)


def run(runner, body: bytes):
    runner.send("run", body, id="inv_1", index=0, format="json", attempt=1)
    return runner.kind("result")


def batch(*data: str) -> bytes:
    events = [
        write_structured(an_event(str(n), data=json.dumps(one).encode()))
        for n, one in enumerate(data)
    ]
    return arguments_of_many(events)


def test_an_event_is_an_event(source):
    event = write_structured(an_event("7", extensions={"tenant": "x"}))
    with open_runner() as runner:
        runner.start(source=source, handler="app:one")
        header, body = run(runner, arguments_of_one(event))
        assert header["state"] == "succeeded", header
        assert json.loads(body) == [
            "7",
            "com.example.made",
            {"number": 1},
            {"tenant": "x"},
            "inv_1",
        ]


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        (["ok", "bad", "bad"], [1, 2]),
        (["raise", "ok"], [1]),
        (["unknown", "ok"], [0, 1]),
        (["strange", "ok"], [0, 1]),
    ],
)
def test_a_batch_says_which_failed(source, data, failed):
    with open_runner() as runner:
        runner.start(source=source, handler="app:many")
        header, _ = run(runner, batch(*data))
        assert header["state"] == "failed"
        assert header["error"]["code"] == "function.items_failed"
        assert header["error"]["details"]["failed_items"] == failed
        assert f"{len(failed)} of {len(data)} events failed" in header["error"]["message"]


def test_an_async_batch_raises_it_likewise(source):
    with open_runner() as runner:
        runner.start(source=source, handler="app:amany")
        header, _ = run(runner, batch("ok", "bad"))
        assert header["error"]["details"]["failed_items"] == [1]


def test_a_batch_without_failures_succeeds(source):
    with open_runner() as runner:
        runner.start(source=source, handler="app:many")
        header, body = run(runner, batch("ok", "ok"))
        assert (header["state"], json.loads(body)) == ("succeeded", {"batchItemFailures": []})


def test_outside_of_a_batch_the_words_mean_nothing(source):
    with open_runner() as runner:
        runner.start(source=source, handler="app:many")
        args = {"args": [[]], "kwargs": {}}
        header, _ = run(runner, json.dumps(args).encode())
        assert header["state"] == "failed"
        assert header["error"]["code"] == "function.failed"


def test_a_lambda_handler_gets_request_and_context_by_place(source):
    with open_runner() as runner:
        runner.start(source=source, handler="app:lambda_handler", name="hooks", timeout_s=60)
        args = {"takes": "request", "args": [{"body": "b-"}], "kwargs": {}}
        header, body = run(runner, json.dumps(args).encode())
        assert header["state"] == "succeeded", header
        assert json.loads(body) == {"statusCode": 201, "body": "b-inv_1hooks", "left": True}
