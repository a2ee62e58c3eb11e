"""Buffers and crash loops, as a user sees them."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

from tests.support.eventually import eventually_sync


def test_a_buffer_is_ready_while_a_call_runs_and_goes_with_it(platform):
    from glowplug import Map

    platform.cli("deploy", "scaled.py:waits")
    states = lambda: sorted(one["state"] for one in platform.containers("waits"))  # noqa: E731
    assert states() == []
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(platform.http, "POST", "/endpoint/waits", {})
        try:
            eventually_sync(lambda: states() == ["ready"] * 3, what="one that works and two more")
            busy = [one["in_flight"] for one in platform.containers("waits")]
            assert sorted(busy) == [0, 0, 1]
            assert "2 more than busy ones" in platform.cli("deployment", "show", "waits").stdout
        finally:
            Map("scaled-gate").set("open", True)
        assert call.result().json() == "through"
    eventually_sync(lambda: states() == [], what="all to go")


def test_a_deployment_whose_starts_fail_says_so_until_one_succeeds(platform, tmp_path):
    def shown(name: str) -> dict:
        return platform.http("GET", f"/api/v1/deployments/{name}").json()

    def failed(times: int) -> dict:
        failing = shown(first)["failing"]
        return failing if failing and failing["in_a_row"] >= times else {}

    platform.cli("volume", "create", "scaled")
    platform.cli("deploy", "scaled.py:needs_a_file")
    first = shown("needs_a_file")["deployment_id"]
    assert shown(first)["failing"] is None
    for times in (1, 2):
        assert platform.http("POST", "/endpoint/needs_a_file", {}).status >= 500
        failing = eventually_sync(lambda n=times: failed(n), what=f"{times} failed starts")
    assert (failing["why"], failing["in_a_row"]) == ("start_failed", 2)
    last = eventually_sync(lambda: shown(first)["last_failure"], what="the last failure")
    assert failing["until"] > last["at"]
    printed = platform.cli("deployment", "show", "needs_a_file").stdout
    assert "2 starts in a row failed; " in printed
    assert "there is no file named ok yet" in printed
    listed = json.loads(platform.cli("deployment", "list", "--json").stdout)["deployments"]
    assert [one["deployment_id"] for one in listed if one["failing"]] == [first]

    # A new version begins anew, whatever became of the old one.
    platform.cli("deploy", "scaled_next.py")
    assert platform.http("POST", "/endpoint/needs_a_file", {}).json() == "the next version"
    assert shown("needs_a_file")["failing"] is None
    assert shown(first)["failing"]["in_a_row"] == 2

    # The old one, called by its id, does well once its file is there.
    (tmp_path / "ok").touch()
    platform.cli("volume", "cp", str(tmp_path / "ok"), "scaled:ok")
    nothing = pickle.dumps(((), {}))
    answer = platform.http("POST", f"/api/v1/deployments/{first}/call", nothing)
    assert answer.status == 200
    assert b"started" in answer.body
    eventually_sync(lambda: shown(first)["failing"] is None, what="it to do well again")
    assert "in a row" not in platform.cli("deployment", "show", first).stdout
