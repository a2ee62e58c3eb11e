"""Much durable work in one request: stored together, refused one by one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from glowplug import task_queue
from glowplug.client.session import close_session
from glowplug.errors import QueueFullError
from glowplug_contracts.messages.deployment import FunctionKind
from glowplug_contracts.messages.http import PUTS_MAX, PutItem, PutManyRequest, PutOptions
from glowplug_contracts.messages.invocation import Format, Payload, State
from glowplug_contracts.streams import RECORDS

from tests.support.builders_records import read, record_at, task_id
from tests.support.gateway_world import TOKEN

RECORDS_0 = msgspec.structs.replace(RECORDS, name="RECORDS_0")


def a_put(number: int, **options) -> PutItem:
    data = b'{"args":[%d],"kwargs":{}}' % number
    return PutItem(
        invocation_id=task_id(number),
        args=Payload(format=Format.JSON, data=data, size=len(data)),
        options=PutOptions(**options),
    )


async def put(gateway, puts, status: int = 202, queue: str = "queue"):
    body = msgspec.msgpack.encode(PutManyRequest(puts=tuple(puts)))
    return await gateway.json(
        "POST", f"/api/v1/deployments/{queue}/spawn-many", status=status, data=body
    )


@pytest.fixture
async def queue(gateway):
    return await gateway.deployed(name="queue", kind=FunctionKind.TASK_QUEUE, app="books")


async def test_every_piece_is_a_record_with_its_options_before_the_answer(gateway, queue, bus):
    said = await put(gateway, [a_put(n, priority=n % 10, tags={"n": str(n)}) for n in range(300)])
    assert [one["task_id"] for one in said["tasks"]] == [task_id(n) for n in range(300)]
    assert (await bus.stream_info(RECORDS_0))["messages"] == 300
    for number in (0, 77, 299):
        record = await read(bus, task_id(number))
        assert (record.state, record.deployment_id) == (State.ACCEPTED, queue)
        assert (record.priority, record.tags) == (number % 10, {"n": str(number)})
        assert record.input.args.data == b'{"args":[%d],"kwargs":{}}' % number


async def test_one_that_is_refused_fails_none_of_its_neighbours(gateway, queue, bus):
    await put(gateway, [a_put(5)])
    other = msgspec.structs.replace(a_put(6), invocation_id=task_id(5))
    wrong = a_put(7, priority=99)
    blob = PutItem(
        invocation_id=task_id(8), args=Payload(format=Format.JSON, blob="0" * 64, size=1)
    )
    said = await put(gateway, [*(a_put(n) for n in range(40, 80)), other, wrong, blob, a_put(9)])
    errors = [one.get("error", {}).get("code") for one in said["tasks"]]
    assert errors == [None] * 40 + [
        "invocation.conflict",
        "request.invalid",
        "request.bad_digest",
        None,
    ]
    assert (await read(bus, task_id(9))).state is State.ACCEPTED


async def test_the_same_request_again_is_the_same_tasks(gateway, queue, bus):
    puts = [a_put(n) for n in range(60)]
    first = await put(gateway, puts)
    sequence = (await bus.last(record_at(task_id(30)))).sequence
    assert await put(gateway, puts) == first
    assert (await bus.last(record_at(task_id(30)))).sequence == sequence
    assert (await bus.stream_info(RECORDS_0))["messages"] == 60


@pytest.mark.parametrize(
    "puts",
    [
        [],
        [a_put(0)] * (PUTS_MAX + 1),
        [PutItem(invocation_id=task_id(1), args=Payload(format=Format.JSON))],
    ],
)
async def test_bounds_of_a_request(gateway, queue, puts):
    await put(gateway, puts, status=422)


async def test_arguments_that_belong_in_a_blob_are_refused(gateway, queue):
    large = PutItem(invocation_id=task_id(1), args=Payload(format=Format.JSON, data=b"x" * 300_000))
    await put(gateway, [large], status=413)


@pytest.fixture
def client(gateway, monkeypatch, tmp_path):
    monkeypatch.setenv("GLOWPLUG_URL", gateway.url)
    monkeypatch.setenv("GLOWPLUG_TOKEN", TOKEN)
    monkeypatch.setenv("GLOWPLUG_QUIET", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    close_session()


async def test_put_many_from_python_keeps_the_order(gateway, client, bus, monkeypatch):
    queue = task_queue(name="sums")(lambda a, b: a + b)
    tasks = await queue.put_many.aio(range(1_300), range(1_300))
    assert len({task.task_id for task in tasks}) == 1_300
    assert (await bus.stream_info(RECORDS_0))["messages"] == 1_300
    import cloudpickle

    for number in (0, 500, 1_299):
        args = (await read(bus, tasks[number].task_id)).input.args
        assert cloudpickle.loads(args.data) == ((number, number), {})
    tagged = await queue.options(tags={"k": "v"}).put_many.aio([1], [2])
    assert (await read(bus, tagged[0].task_id)).tags == {"k": "v"}


async def test_what_a_full_queue_refuses_is_said_of_each(gateway, client, bus, monkeypatch):
    monkeypatch.setattr("glowplug.client.calls.PUT_WAIT_S", 0.0)
    queue = task_queue(name="narrow", max_pending_tasks=3)(lambda a: a)
    found = await queue.put_many.aio(range(5), return_exceptions=True)
    assert [isinstance(one, QueueFullError) for one in found] == [False] * 3 + [True] * 2
    with pytest.raises(QueueFullError):
        await asyncio.to_thread(queue.put_many, range(2))
