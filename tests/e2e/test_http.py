"""What curl sees."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture(scope="module", autouse=True)
def deployed(platform):
    platform.cli("deploy", "basics.py")


def test_a_json_body_becomes_keyword_arguments(platform):
    answer = platform.http("POST", "/endpoint/greet", {"name": "Ada"})
    assert (answer.status, answer.json()) == (200, {"greeting": "hello Ada"})


def test_no_token_and_a_wrong_token_are_401(platform):
    assert platform.http("POST", "/endpoint/greet", {"name": "Ada"}, token="").status == 401
    assert platform.http("POST", "/endpoint/greet", {"name": "Ada"}, token="gp_x").status == 401


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "name"),
        ({"name": "Ada", "times": "many"}, "times"),
        ({"name": "Ada", "tims": 2}, "tims"),
    ],
)
def test_bad_input_is_422_with_the_fields_path(platform, body, path):
    answer = platform.http("POST", "/endpoint/greet", body)
    assert answer.status == 422
    assert path in json.dumps(answer.json()["error"]["details"])


def test_a_generator_streams_as_server_sent_events(platform):
    answer = platform.http("POST", "/endpoint/ticks", {"count": 3})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    data = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert [json.loads(line) for line in data][:3] == [{"tick": n} for n in range(3)]


def test_an_exception_is_500_with_type_message_and_id(platform):
    answer = platform.http("POST", "/endpoint/broken", {})
    error = answer.json()["error"]
    assert answer.status == 500
    assert (error["type"], error["message"]) == ("LookupError", "nothing here")
    assert answer.headers["Glowplug-Invocation-Id"].startswith("inv_")


def test_beyond_max_pending_is_429_with_retry_after(platform):
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: platform.http("POST", "/endpoint/narrow", {"seconds": 1.0}), range(8)
            )
        )
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert {answer.status for answer in answers} == {200, 429}


def test_versions_are_both_callable(platform):
    platform.cli("deploy", "basics.py:greet")
    for path in ("/endpoint/greet/v1", "/endpoint/greet/v2", "/endpoint/greet/latest"):
        assert platform.http("POST", path, {"name": "x"}).status == 200
    assert platform.http("POST", "/endpoint/greet/v99", {"name": "x"}).status == 404


def test_a_task_put_over_http_can_be_asked_for(platform):
    task = platform.http("POST", "/taskqueue/add", {"a": 2, "b": 3}).json()["task_id"]
    platform.http("GET", f"/api/v1/tasks/{task}/result?wait_s=30")
    status = platform.http("GET", f"/tasks/{task}/status").json()
    assert (status["state"], status["result"]) == ("completed", 5)


def test_health_names_every_part(platform):
    parts = platform.http("GET", "/health", token="").json()["parts"]
    services = {"gateway", "scheduler", "autoscaler", "imagecache", "worker", "sandbox"}
    assert services <= set(parts)
