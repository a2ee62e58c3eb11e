"""What a container may ask, and how much at once."""

from __future__ import annotations

import pytest
from glowplug_contracts.inside import ALLOWED, allows, passing_headers
from glowplug_worker.asks import ASKS_MAX, HELD_BYTES_MAX, Asks, Forward, Refuse
from glowplug_worker.frames import Ask, FrameError

TASK = "/api/v1/tasks/inv_1"


def an_ask(ask_id: int = 1, path: str = TASK, method: str = "GET", **headers: str) -> Ask:
    return Ask(ask_id=ask_id, method=method, path=path, headers=headers)


def test_what_the_list_names_may_go():
    for method, path in ALLOWED:
        assert allows(method, path.replace("{", "").replace("}", ""))
        assert allows(method, path.replace("{", "").replace("}", "") + "?wait_s=1.5")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/tokens"),
        ("GET", "/api/v1/secrets/x"),
        ("GET", "/api/v1/whoami"),
        ("GET", "/api/v1/logs"),
        ("DELETE", "/api/v1/deployments/x"),
        ("PUT", "/api/v1/blobs/" + "0" * 64),
        ("TRACE", TASK),
        ("get", TASK),
        ("GET", "/api/v1/tasks/../tokens"),
        ("GET", "/api/v1/tasks/%2e%2e%2ftokens"),
        ("GET", "/api/v1/tasks/./x"),
        ("GET", "/api/v1/tasks//x"),
        ("GET", "/api/v1/tasks/x/"),
        ("GET", "//api/v1/tasks/x"),
        ("GET", "http://other/api/v1/tasks/x"),
        ("GET", TASK + " HTTP/1.1\r\nX: y"),
        ("GET", TASK + "\n"),
        ("GET", TASK + "#x"),
        ("GET", TASK + "\\..\\x"),
        ("GET", "/api/v1/tasks/" + "x" * 2_000),
        ("GET", ""),
        ("GET", TASK + "?x\r\n"),
    ],
)
def test_nothing_else_may_go(method, path):
    assert not allows(method, path)
    refused = Asks().take(0, an_ask(path=path, method=method), 0)
    assert isinstance(refused, Refuse)
    assert refused.status == 403


def test_headers_that_say_who_asks_do_not_pass():
    given = {
        "Glowplug-Inside-Workspace": "other",
        "glowplug-inside-container": "ctr_2",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "Host": "elsewhere",
        "Transfer-Encoding": "chunked",
        "traceparent": "00-1-1-01",
        "Glowplug-Format": "json",
        "Content-Type": "application/json",
    }
    assert passing_headers(given.items()) == {
        "Glowplug-Format": "json",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Glowplug-Format": "json\r\nGlowplug-Inside-Workspace: other"},
        {"Glowplug-Format\r\nX": "y"},
        {"Glowplug-Format ": "y"},
        {"": "y"},
        {"Glowplug-Format": "ü"},
        {"Glowplug-Format": "y" * 10_000},
        {f"Glowplug-{number}": "y" for number in range(100)},
    ],
)
def test_headers_that_are_none_end_the_container(headers):
    with pytest.raises(FrameError):
        Asks().take(0, an_ask(**headers), 0)


def test_a_number_is_used_once_while_its_request_is_open():
    asks = Asks()
    assert isinstance(asks.take(0, an_ask(1), 0), Forward)
    with pytest.raises(FrameError):
        asks.take(0, an_ask(1), 0)
    assert isinstance(asks.take(1, an_ask(1), 0), Forward)  # another process counts for itself
    asks.end(0, 1)
    assert isinstance(asks.take(0, an_ask(1), 0), Forward)
    asks.check()


def test_requests_in_flight_are_bounded_over_all_processes():
    asks = Asks()
    for number in range(ASKS_MAX):
        assert isinstance(asks.take(number % 3, an_ask(number), 0), Forward)
    refused = asks.take(0, an_ask(ASKS_MAX), 0)
    assert isinstance(refused, Refuse)
    assert refused.status == 429
    asks.end(0, 0)
    assert isinstance(asks.take(0, an_ask(ASKS_MAX), 0), Forward)
    asks.check()


def test_bytes_in_flight_are_bounded():
    asks = Asks()
    piece = HELD_BYTES_MAX // 4
    for number in range(4):
        assert isinstance(asks.take(0, an_ask(number), piece), Forward)
    assert isinstance(asks.take(0, an_ask(9), 1), Refuse)
    asks.end(0, 2)
    assert isinstance(asks.take(0, an_ask(9), piece), Forward)
    with pytest.raises(FrameError):
        asks.take(0, an_ask(10), HELD_BYTES_MAX)
    asks.check()


def test_an_answer_goes_no_further_than_its_credit():
    asks = Asks()
    asks.take(0, an_ask(1), 0)
    first = asks.sendable(0, 1)
    assert first > 0
    asks.sent(0, 1, first)
    assert asks.sendable(0, 1) == 0
    asks.grant(0, 1, first + 10)
    assert asks.sendable(0, 1) == 10
    asks.grant(0, 1, 1)  # never falls
    assert asks.sendable(0, 1) == 10
    asks.grant(0, 1, 1 << 62)  # and runs ahead by a bound only
    assert asks.sendable(0, 1) <= 4 * 1024 * 1024
    asks.grant(0, 77, 1 << 62)  # nobody asked that
    assert asks.sendable(0, 77) == 0
    asks.check()
