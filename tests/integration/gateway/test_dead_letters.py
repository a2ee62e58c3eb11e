"""Dead letters: listed, looked at, replayed and removed; one, all, or by filter."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from glowplug_contracts.ids import DEFAULT_WORKSPACE, derived
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.invocation import Format, Payload, RetryPolicy, State

from tests.support.builders_records import a_record, ended, read, record_at, task_id, write
from tests.support.eventually import eventually

LETTERS = "/api/v1/dead-letters"


async def listed(gateway, query: str = "") -> list[str]:
    answer = await gateway.json("GET", f"{LETTERS}?limit=1000&{query}")
    return [one["task_id"] for one in answer["dead_letters"]]


def ids(*numbers: int) -> list[str]:
    return [task_id(number) for number in numbers]


def again_of(number: int) -> str:
    return derived(DEFAULT_WORKSPACE, "replay", task_id(number))


@pytest.fixture
async def pages(gateway):
    return await gateway.deployed(
        name="pages", kind=FunctionKind.TASK_QUEUE, app="books", timeout_s=77.0
    )


@pytest.fixture
async def letters(gateway, bus, pages):
    """Four letters and five records that are none."""
    await write(bus, a_record(1, State.FAILED, tags={"tenant": "a"}))
    await write(bus, a_record(2, State.TIMED_OUT))
    await write(bus, a_record(3, State.EXPIRED, name="other", app="shop"))
    await write(bus, a_record(4, State.DEAD))
    await write(bus, a_record(5, State.SUCCEEDED))
    await write(bus, a_record(6, State.CANCELLED))
    await write(bus, a_record(7, State.FAILED, dead_letter=False))
    await write(bus, a_record(8))
    await write(bus, a_record(9, State.FAILED, workspace="foreign"))

    async def are_there():
        return len(await listed(gateway)) == 4

    await eventually(are_there)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [4, 3, 2, 1]),
        ("queue=pages", [4, 2, 1]),
        ("app=shop", [3]),
        ("state=timeout", [2]),
        ("state=expired,dead", [4, 3]),
        ("tag=tenant%3Da", [1]),
        ("since=1002.5", [4, 3]),
        ("replayed=1", []),
        ("replayed=all", [4, 3, 2, 1]),
    ],
)
async def test_only_what_ended_unsuccessfully_and_is_to_be_kept_is_listed(
    gateway, letters, query, numbers
):
    assert await listed(gateway, query) == ids(*numbers)


async def test_a_letter_shows_payload_headers_attempts_and_the_last_error(gateway, bus):
    headers = {"ce-type": "page.added"}
    record = a_record(1, State.FAILED, headers=headers, dead_letter_keep_s=1_000.0)
    await write(bus, record)
    shown = await gateway.json("GET", f"{LETTERS}/{task_id(1)}")
    assert shown["arguments"] == {
        "format": "json",
        "size": record.input.args.size,
        "value": {"args": [], "kwargs": {"n": 1}},
    }
    assert shown["headers"] == headers
    assert shown["error"]["type"] == "ValueError"
    assert shown["error"]["traceback"] == "Traceback …\n"
    assert [(one["attempt"], one["state"], one["error"]) for one in shown["timeline"]] == [
        (1, "failed", "no such page")
    ]
    assert shown["kept_until"] == record.ended_at + 1_000
    assert shown["reason"] == "error"


async def test_pickled_arguments_are_shown_as_bytes_and_never_unpickled(gateway, bus):
    data = b"cos\nsystem\n(S'false'\ntR."
    args = Payload(format=Format.PICKLE, data=data, size=len(data))
    record = a_record(1, State.FAILED)
    await write(
        bus, msgspec.structs.replace(record, input=msgspec.structs.replace(record.input, args=args))
    )
    shown = (await gateway.json("GET", f"{LETTERS}/{task_id(1)}"))["arguments"]
    assert shown == {
        "format": "pickle",
        "size": len(data),
        "base64": "Y29zCnN5c3RlbQooUydmYWxzZScKdFIu",
    }


@pytest.mark.parametrize("number", [5, 6, 7, 8, 9, 10])
async def test_what_is_no_letter_or_not_ones_own_is_404(gateway, letters, number):
    for method, path in (("GET", ""), ("POST", "/replay"), ("DELETE", "")):
        await gateway.json(method, f"{LETTERS}/{task_id(number)}{path}", status=404)


async def test_a_replay_is_a_new_task_with_the_same_payload_and_the_letter_says_so(
    gateway, letters, bus, pages
):
    said = await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay", status=202)
    assert said == {"task_id": again_of(1), "replay_of": task_id(1)}
    letter, again = await read(bus, task_id(1)), await read(bus, again_of(1))
    assert (letter.state, letter.replayed_as) == (State.FAILED, again.invocation_id)
    assert (again.state, again.replay_of, again.attempt) == (State.ACCEPTED, task_id(1), 0)
    assert (again.input, again.tags, again.name) == (letter.input, {"tenant": "a"}, "pages")
    assert (again.attempts, again.outcome) == ((), None)
    # The version that is deployed now, and what it says of time and retries.
    assert (again.deployment_id, again.timeout_s) == (pages, 77.0)
    assert await listed(gateway) == ids(4, 3, 2)
    assert await listed(gateway, "replayed=1") == ids(1)


async def test_replaying_again_and_again_is_one_task(gateway, letters, bus):
    path = f"{LETTERS}/{task_id(1)}/replay"
    said = await asyncio.gather(*(gateway.json("POST", path, status=202) for _ in range(10)))
    assert {one["task_id"] for one in said} == {again_of(1)}
    first = (await bus.last(record_at(again_of(1)))).sequence
    await gateway.json("POST", path, status=202)
    assert (await bus.last(record_at(again_of(1)))).sequence == first


async def test_a_replay_that_died_half_way_goes_on_with_the_same_task(gateway, letters, bus, pages):
    """The task was made, the letter was not told; then another version was deployed."""
    letter = await read(bus, task_id(2))
    again = msgspec.structs.replace(
        letter, invocation_id=again_of(2), deployment_id=pages, replay_of=task_id(2),
        state=State.ACCEPTED, outcome=None,
    )  # fmt: skip
    sequence = await write(bus, again)
    await gateway.deployed(name="pages", kind=FunctionKind.TASK_QUEUE, timeout_s=777.0)
    assert await listed(gateway) == ids(4, 3, 2, 1)
    said = await gateway.json("POST", f"{LETTERS}/{task_id(2)}/replay", status=202)
    assert said["task_id"] == again_of(2)
    assert (await bus.last(record_at(again_of(2)))).sequence == sequence
    assert (await read(bus, task_id(2))).replayed_as == again_of(2)


async def test_a_replay_can_stay_with_the_version_that_failed(gateway, bus, pages):
    retry = RetryPolicy(max_retries=9)
    await write(bus, a_record(1, State.FAILED, deployment_id=pages, retry=retry, timeout_s=5.0))
    newer = await gateway.deployed(name="pages", kind=FunctionKind.TASK_QUEUE, timeout_s=777.0)
    assert newer != pages
    await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay?version=same", status=202)
    again = await read(bus, again_of(1))
    assert (again.deployment_id, again.retry, again.timeout_s) == (pages, retry, 5.0)


async def test_a_letter_of_a_programs_own_function_is_replayed_by_that_version(gateway, bus):
    last = (await gateway.deploy(ephemeral=True, name="mine", kind=FunctionKind.TASK_QUEUE))[-1]
    version = last["deployment"]["deployment_id"]
    await write(bus, a_record(1, State.FAILED, name="mine", deployment_id=version))
    await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay", status=202)
    assert (await read(bus, again_of(1))).deployment_id == version


async def test_a_letter_of_what_is_not_deployed_any_more_waits_for_it(gateway, letters):
    said = await gateway.json("POST", f"{LETTERS}/{task_id(3)}/replay", status=404)
    assert "deploy it, then replay" in said["error"]["message"]
    assert task_id(3) in await listed(gateway)


async def test_a_replay_that_fails_is_a_letter_of_its_own(gateway, letters, bus):
    await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay", status=202)
    found = await bus.last(record_at(again_of(1)))
    await write(bus, ended(found.message, State.FAILED), found.sequence)

    async def is_listed():
        return again_of(1) in await listed(gateway)

    await eventually(is_listed)
    said = await gateway.json("POST", f"{LETTERS}/{again_of(1)}/replay", status=202)
    assert said["task_id"] not in (again_of(1), task_id(1))


async def test_all_that_fit_are_replayed_page_by_page_and_what_can_not_is_named(
    gateway, letters, bus
):
    pages = []
    cursor = ""
    while cursor is not None:
        page = await gateway.json("POST", f"{LETTERS}/replay?limit=3&cursor={cursor}")
        pages.append(page)
        cursor = page["cursor"]
    replayed = {one["replay_of"]: one["task_id"] for page in pages for one in page["replayed"]}
    assert replayed == {task_id(n): again_of(n) for n in (1, 2, 4)}
    (failed,) = [one for page in pages for one in page["failed"]]
    assert (failed["task_id"], failed["error"]["code"]) == (task_id(3), "deployment.not_found")
    assert await listed(gateway) == ids(3)


async def test_purging_removes_for_good(gateway, letters, bus):
    assert await gateway.json("DELETE", f"{LETTERS}/{task_id(1)}") == {"purged": [task_id(1)]}
    assert await bus.last(record_at(task_id(1))) is None
    await gateway.json("GET", f"/tasks/{task_id(1)}/status", status=404)
    await gateway.json("DELETE", f"{LETTERS}/{task_id(1)}", status=404)
    assert await listed(gateway) == ids(4, 3, 2)


async def test_all_are_only_purged_when_that_was_said(gateway, letters):
    await gateway.json("DELETE", LETTERS, status=422)
    gone = await gateway.json("DELETE", f"{LETTERS}?app=books&state=dead")
    assert (gone["purged"], gone["cursor"]) == (ids(4), None)
    assert await listed(gateway) == ids(3, 2, 1)
    gone = await gateway.json("DELETE", f"{LETTERS}?all=1")
    assert gone["purged"] == ids(3, 2, 1)
    assert await listed(gateway) == []


async def test_what_others_purged_meanwhile_is_skipped(gateway, bus, pages):
    for number in range(3):
        await write(bus, a_record(number, State.FAILED))

    async def are_there():
        return len(await listed(gateway)) == 3

    await eventually(are_there)
    found = await bus.last(record_at(task_id(1)))
    await bus.remove(record_at(task_id(1)), expect_last=found.sequence)
    done = await gateway.json("POST", f"{LETTERS}/replay")
    assert len(done["replayed"]) == 2
    assert (done["skipped"], done["failed"]) in ((1, []), (0, []))  # its list may know it already


async def test_a_replay_is_refused_where_as_much_waits_as_may(gateway, letters, bus):
    await gateway.deployed(name="pages", kind=FunctionKind.TASK_QUEUE, max_pending=1)
    await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay", status=202)
    said = await gateway.json("POST", f"{LETTERS}/{task_id(2)}/replay", status=429)
    assert said["error"]["retry_after_s"] > 0
    assert not (await read(bus, task_id(2))).replayed_as
    # Asked for again, what has been replayed is no further task.
    await gateway.json("POST", f"{LETTERS}/{task_id(1)}/replay", status=202)
