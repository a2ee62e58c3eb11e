"""Schedules at the gateway: listed, shown, paused, resumed and run; what says nothing is refused."""

from __future__ import annotations

import itertools
import pickle
import time

import msgspec
import pytest
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.schedule import (
    NO_ARGUMENTS,
    CatchUp,
    ScheduleEntry,
    ScheduleSpec,
    ScheduleState,
)
from glowplug_contracts.streams import SCHEDULE_STATES
from glowplug_contracts.subjects import RECORD
from glowplug_gateway.schedules import paused, resumed

from tests.support.eventually import eventually

PATH = "/api/v1/schedules"


def scheduled(name="tidy", when="every 30s", **changes):
    spec = ScheduleSpec(
        when=when, **{k: changes.pop(k) for k in ("timezone", "catch_up") if k in changes}
    )
    return {"name": name, "kind": FunctionKind.SCHEDULE, "schedule": spec} | changes


def a_state(**changes):
    fields = {"name": "tidy", "workspace": "default", "when": "every 30s"}
    return ScheduleState(**(fields | changes))


async def test_lists_by_name_with_filters_and_a_cursor(gateway) -> None:
    for name, app in (("c", "two"), ("a", "one"), ("b", "one")):
        await gateway.deployed(**scheduled(name, app=app))
    await gateway.deployed(name="plain", kind=FunctionKind.FUNCTION)
    found = await gateway.json("GET", PATH)
    assert [one["name"] for one in found["schedules"]] == ["a", "b", "c"]
    assert found["cursor"] == ""
    first = await gateway.json("GET", f"{PATH}?limit=2")
    assert ([one["name"] for one in first["schedules"]], first["cursor"]) == (["a", "b"], "b")
    rest = await gateway.json("GET", f"{PATH}?limit=2&cursor=b")
    assert [one["name"] for one in rest["schedules"]] == ["c"]
    of_app = await gateway.json("GET", f"{PATH}?app=one")
    assert [one["name"] for one in of_app["schedules"]] == ["a", "b"]


async def test_shows_what_is_due_and_what_was(gateway, bus) -> None:
    await gateway.deployed(
        **scheduled(when="0 9 * * *", timezone="Europe/Berlin", catch_up=CatchUp.ONE)
    )
    shown = await gateway.json("GET", f"{PATH}/tidy")
    assert shown["next_due"] > time.time()
    assert (shown["when"], shown["timezone"], shown["catch_up"]) == (
        "0 9 * * *",
        "Europe/Berlin",
        "one",
    )
    history = (
        ScheduleEntry(outcome="skipped", due=60.0, last=90.0, count=2, at=95.0, reason="late"),
        ScheduleEntry(outcome="fired", due=30.0, at=30.1, invocation_id="inv_x"),
    )
    state = a_state(next_due=2e9, fired=7, skipped=2, history=history)
    await bus.bucket(SCHEDULE_STATES).put("default.tidy", state)
    shown = await gateway.json("GET", f"{PATH}/tidy")
    assert (shown["next_due"], shown["fired"], shown["skipped"]) == (2e9, 7, 2)
    assert shown["history"] == [
        {"due": 60.0, "last": 90.0, "count": 2, "outcome": "skipped", "reason": "late",
         "task_id": None, "at": 95.0},
        {"due": 30.0, "last": 30.0, "count": 1, "outcome": "fired", "reason": "",
         "task_id": "inv_x", "at": 30.1},
    ]  # fmt: skip


async def test_tells_the_next_due_times(gateway) -> None:
    await gateway.deployed(**scheduled())
    found = (await gateway.json("GET", f"{PATH}/tidy/next?count=3"))["next"]
    assert [one % 30 for one in found] == [0, 0, 0]
    assert [later - one for one, later in itertools.pairwise(found)] == [30, 30]
    await gateway.json("GET", f"{PATH}/tidy/next?count=101", status=422)


async def test_a_pause_survives_a_redeploy_and_ends_with_resume(gateway, bus) -> None:
    await gateway.deployed(**scheduled())
    assert (await gateway.json("POST", f"{PATH}/tidy/pause"))["paused"]
    assert (await gateway.json("POST", f"{PATH}/tidy/pause"))["next_due"] is None
    await gateway.deployed(**scheduled(when="every 60s"))
    shown = await gateway.json("GET", f"{PATH}/tidy")
    assert (shown["paused"], shown["version"]) == (True, 2)
    await eventually(lambda: _listed_as_paused(gateway))
    resumed_one = await gateway.json("POST", f"{PATH}/tidy/resume")
    assert not resumed_one["paused"]
    assert resumed_one["next_due"] > time.time()


async def _listed_as_paused(gateway) -> bool:
    return bool((await gateway.json("GET", f"{PATH}?paused=1"))["schedules"])


def test_resuming_counts_what_passed_and_goes_on_from_now() -> None:
    state = paused(a_state(decided_until=60.0, next_due=90.0), 65.0)
    assert (state.paused, state.paused_at) == (True, 65.0)
    after = resumed(state, 155.0)
    assert (after.paused, after.decided_until, after.next_due, after.skipped) == (
        False,
        155,
        180,
        3,
    )
    (line,) = after.history
    assert (line.due, line.last, line.count, line.reason) == (90.0, 150.0, 3, "paused")
    assert resumed(after, 500.0) is after


def test_a_clock_set_back_during_a_pause_takes_nothing_back() -> None:
    state = paused(a_state(decided_until=600.0, next_due=630.0), 600.0)
    after = resumed(state, 100.0)
    assert (after.decided_until, after.next_due, after.skipped) == (600.0, 630.0, 0)


@pytest.mark.parametrize("door", ["/schedule/tidy", f"{PATH}/tidy/run"])
async def test_run_now_is_an_ordinary_durable_record(gateway, bus, door) -> None:
    deployment = await gateway.deployed(**scheduled())
    before = time.time()
    task = (await gateway.json("POST", door, status=202))["task_id"]
    found = await bus.last(RECORD.at(shard=0, workspace="default", invocation_id=task))
    record = found.message
    assert record.deployment_id == deployment
    assert before <= record.scheduled_for <= time.time()
    assert record.input.args.data == NO_ARGUMENTS
    assert (await gateway.json("GET", f"/tasks/{task}/status"))["state"] == "pending"
    await gateway.json("POST", door, status=422, data=b'{"for": "tomorrow"}')


def test_no_arguments_are_no_arguments() -> None:
    assert pickle.loads(NO_ARGUMENTS) == ((), {})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedule": None}, "schedule"),
        ({"schedule": ScheduleSpec(when="whenever")}, "schedule.when"),
        ({"schedule": ScheduleSpec(when="@daily", timezone="Mars/X")}, "schedule.timezone"),
        ({"kind": FunctionKind.FUNCTION}, "schedule"),
        ({"is_generator": True}, "is_generator"),
    ],
)
async def test_what_says_nothing_is_refused_with_the_field(gateway, changes, field) -> None:
    path, spec = "/api/v1/deployments", scheduled() | changes
    from tests.support.gateway_world import a_spec

    found = await gateway.json("POST", path, status=422, data=msgspec.json.encode(a_spec(**spec)))
    assert field in found["error"]["details"]["fields"]


async def test_what_has_no_schedule_is_not_found(gateway) -> None:
    await gateway.deployed(name="plain", kind=FunctionKind.FUNCTION)
    for name in ("plain", "nobody"):
        for method, path in (("GET", ""), ("GET", "/next"), ("POST", "/pause"), ("POST", "/run")):
            await gateway.json(method, f"{PATH}/{name}{path}", status=404)
        await gateway.json("POST", f"/schedule/{name}", status=404)


async def test_a_deleted_name_begins_anew(gateway, bus) -> None:
    await gateway.deployed(**scheduled())
    await gateway.json("POST", f"{PATH}/tidy/pause")
    await gateway.json("DELETE", "/api/v1/deployments/tidy")
    assert await bus.bucket(SCHEDULE_STATES).get("default.tidy") is None
    await gateway.deployed(**scheduled())
    assert not (await gateway.json("GET", f"{PATH}/tidy"))["paused"]
