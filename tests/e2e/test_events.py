"""Events through the whole platform: sent, routed, delivered, failed in part, replayed."""

from __future__ import annotations

import json

import pytest
from glowplug import Event, FunctionCall, send_event

from tests.support.eventually import eventually_sync


@pytest.fixture(scope="module")
def deployed(platform):
    platform.cli("deploy", "listening.py")
    yield platform
    for name in ("singly", "batched", "chained", "burst"):
        platform.cli("deployment", "delete", name)


def tasks(platform, name: str) -> list[dict]:
    """The invocations of a function, as its list shows them."""
    shown = platform.cli("task", "list", "--queue", name, "--limit", "500", "--json").stdout
    return json.loads(shown)["tasks"]


def results(platform, name: str) -> dict[str, dict]:
    """What ended invocations of a trigger returned, by the event's id."""
    found = [
        FunctionCall.from_id(one["task_id"])
        for one in tasks(platform, name)
        if one["status"] == "COMPLETE"
    ]
    return {value["id"]: value for value in (each.get(timeout=30) for each in found)}


def test_an_event_that_matches_is_delivered_once(deployed) -> None:
    first = send_event(
        "com.tests.singly.made", [1, 2], source="/e2e", subject="a/b.txt", id="one", color="red"
    )
    again = send_event("com.tests.singly.made", [1, 2], source="/e2e", subject="a/b.txt", id="one")
    assert first == again, "the same source and id is the same event"
    send_event("com.tests.singly.made", source="/e2e", subject="a/b.pdf", id="filtered out")
    send_event("com.tests.singly.made.deeper", source="/e2e", subject="a/b.txt", id="too deep")
    send_event("com.tests.singly.made", b"\x00\x01", source="/e2e", subject="b.txt", id="bytes")
    found = eventually_sync(
        lambda: (r := results(deployed, "singly")).keys() >= {"one", "bytes"} and r
    )
    assert found.keys() == {"one", "bytes"}
    assert found["bytes"]["data"] == [0, 1]
    assert (found["one"]["data"], found["one"]["extensions"]) == ([1, 2], {"color": "red"})


def test_only_what_failed_of_a_batch_comes_back(deployed) -> None:
    works_at = {0: 1, 1: 2, 2: 3, 3: 1, 4: 9}
    for number, attempt in works_at.items():
        send_event(
            "com.tests.batch",
            {"number": number, "works_at": attempt, "way": "raise" if number == 2 else "return"},
            source="/batches",
            id=f"b{number}",
        )
    letters = eventually_sync(
        lambda: json.loads(deployed.cli("dlq", "list", "--queue", "batched", "--json").stdout)[
            "dead_letters"
        ]
    )
    logs = deployed.cli("logs", "batched").stdout
    tried: dict[int, int] = {}
    for line in logs.splitlines():
        if "batched" in line:
            for number in json.loads(line[line.index("[") :]):
                tried[number] = tried.get(number, 0) + 1
    assert tried == {0: 1, 1: 2, 2: 3, 3: 1, 4: 3}
    shown = [
        json.loads(deployed.cli("dlq", "show", one["task_id"], "--json").stdout) for one in letters
    ]
    left = [each["id"] for one in shown for each in one["arguments"]["value"]["args"][0]]
    assert left == ["b4"], "the dead letter holds exactly what never worked"


def test_code_in_a_container_sends_events(deployed) -> None:
    send_event("com.tests.chain", source="/e2e", id="c")
    found = eventually_sync(lambda: results(deployed, "singly").get("c-1"))
    assert found["data"] == {"because_of": "c"}


def test_the_command_line_sends_tails_and_replays(deployed, tmp_path) -> None:
    (tmp_path / "data.json").write_text('{"n": 3}')
    sent = deployed.cli(
        "event", "send", "com.tests.singly.cli", "--source", "/cli", "--subject", "x.txt",
        "--id", "cli-1", "--file", str(tmp_path / "data.json"), "--ext", "kind=test",
    ).stdout.strip()  # fmt: skip
    assert sent.startswith("evt_")
    lines = deployed.cli(
        "event", "tail", "--no-follow", "--type", "com.tests.*.cli", "--json"
    ).stdout
    (shown,) = [json.loads(line) for line in lines.splitlines()]
    assert shown["event_id"] == sent
    assert (shown["event"]["data"], shown["event"]["kind"]) == ({"n": 3}, "test")
    assert "x.txt" in deployed.cli("event", "tail", "--no-follow", "--source", "/cli").stdout
    eventually_sync(lambda: "cli-1" in results(deployed, "singly"))
    before = len(tasks(deployed, "singly"))
    asked = ("event", "replay", "--since", "1h", "--trigger", "singly", "--source", "/cli")
    assert "1 delivered again" in deployed.cli(*asked).stdout
    repeated = deployed.cli(*asked).stdout
    assert "0 delivered again" in repeated
    assert "--id" in repeated
    eventually_sync(lambda: len(tasks(deployed, "singly")) == before + 1)


def test_a_wrong_pattern_is_told_when_it_is_deployed(platform, tmp_path) -> None:
    app = tmp_path / "wrong.py"
    app.write_text('from glowplug import on_event\n@on_event("a\\\\")\ndef wrong(event): ...\n')
    done = platform.cli("deploy", str(app), check=False)
    assert done.returncode == 1
    assert "backslash" in done.stderr


def test_a_trigger_runs_here_for_a_test(platform) -> None:
    import importlib.util

    from tests.e2e.conftest import APPS

    spec = importlib.util.spec_from_file_location("listening_here", APPS / "listening.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.burst.local(Event(id="1", source="/s", type="t", data=5)) == 5
    with pytest.raises(TypeError, match="called by events"):
        module.burst(Event(id="1", source="/s", type="t"))


def test_a_handler_written_for_aws_deploys_unchanged(platform) -> None:
    shown = platform.cli("deploy", "hooks.py:lambda_handler", "--memory", "64Mi", "--json").stdout
    (deployed,) = json.loads(shown)["deployments"]
    assert deployed["name"] == "hooks"
    answer = platform.http("POST", "/endpoint/hooks?a=1&a=2", {"n": 1})
    told = answer.json()
    assert (answer.status, answer.headers["X-Kind"]) == (201, "hook")
    assert told.pop("id").startswith("inv_")
    assert told == {
        "got": {"n": 1},
        "method": "POST",
        "query": {"a": "1,2"},
        "agent": True,
        "token": False,
        "time_left": True,
    }
    assert platform.http("POST", "/endpoint/hooks", {"fail": 1}).status == 500
    bad = platform.http("POST", "/endpoint/hooks", {"bad": 1})
    assert (bad.status, bad.json()["error"]["code"]) == (500, "function.bad_result")
    assert platform.http("POST", "/endpoint/hooks", {}, token="").status == 401
    refused = platform.cli("deploy", "listening.py:singly", "--gpu", "any", check=False)
    assert (refused.returncode, "decorator" in refused.stderr) == (2, True)
    platform.cli("deployment", "delete", "hooks")
