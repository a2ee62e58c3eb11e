"""Maps and queues, from outside and from inside containers."""

from __future__ import annotations

import asyncio
import queue
import sys

import pytest
from glowplug import Map, Queue
from glowplug.errors import InvalidInputError

from tests.e2e.conftest import APPS


@pytest.fixture(scope="module")
def inside(platform):
    sys.path.insert(0, str(APPS))
    try:
        import inside

        yield inside
    finally:
        sys.path.remove(str(APPS))


def the_same(found, wanted) -> bool:
    return found == wanted and [type(one) for one in found] == [type(one) for one in wanted]


def test_every_value_is_a_value_in_a_map(inside):
    shared = Map("values")
    for number, value in enumerate(inside.VALUES):
        shared[f"k{number}"] = value
    assert the_same([shared[f"k{number}"] for number in range(len(inside.VALUES))], inside.VALUES)
    assert the_same(
        [shared.get(f"k{n}", "default") for n in range(len(inside.VALUES))], inside.VALUES
    )
    assert all(f"k{number}" in shared for number in range(len(inside.VALUES)))
    assert the_same([shared.pop(f"k{n}") for n in range(len(inside.VALUES))], inside.VALUES)
    assert len(shared) == 0
    assert shared


def test_a_map_is_the_same_one_inside(inside):
    read, present, length, missing = inside.keeps_in_a_map.remote("both")
    assert the_same(read, inside.VALUES)
    assert (present, length, missing) == (True, len(inside.VALUES), "default")
    assert dict(Map("both").items()) == {f"k{n}": value for n, value in enumerate(inside.VALUES)}
    del Map("both")["k0"]
    with pytest.raises(KeyError):
        Map("both")["k0"]


def test_sums_from_several_containers_are_exact(inside):
    calls = [inside.counts_up.spawn("sums", 10) for _ in range(3)]
    seen = [one for call in calls for one in call.get(timeout=60)]
    assert sorted(seen) == list(range(1, 31))
    assert Map("sums")["n"] == 30


def test_what_a_map_does_not_take_is_refused_with_a_sentence(inside):
    shared = Map("refusing")
    with pytest.raises(InvalidInputError, match="1048576"):
        shared["large"] = b"x" * (1024 * 1024)
    with pytest.raises(InvalidInputError, match="pickled"):
        shared["lock"] = __import__("threading").Lock()
    with pytest.raises(TypeError, match="text"):
        shared[3] = 1
    with pytest.raises(InvalidInputError, match="ttl"):
        shared.put("k", 1, ttl=0.1)
    with pytest.raises(ValueError, match="Map"):
        Map("no/name")
    assert shared.put_if_absent("k", None)
    assert not shared.put_if_absent("k", 1)
    assert shared["k"] is None


def test_every_value_is_a_value_in_a_queue(inside):
    values = Queue("values")
    values.put_many(inside.VALUES)
    assert values.peek() == 0
    got = [values.get(timeout=10) for _ in inside.VALUES]
    assert the_same(got, inside.VALUES)
    with pytest.raises(queue.Empty):
        values.get(block=False)
    with pytest.raises(queue.Empty):
        values.get(timeout=0.05)


def test_order_is_kept_where_one_caller_puts_at_once(inside):
    assert inside.hands_on.remote("order", list(range(40))) == 40
    assert Queue("order").get_many(100) == list(range(40))

    async def put_all() -> None:
        await asyncio.gather(*(Queue_order.put.aio(n) for n in range(40)))

    Queue_order = Queue("order")  # noqa: N806
    asyncio.run(put_all())
    assert Queue_order.get_many(100) == list(range(40))


def test_a_waiting_container_gets_what_is_put_outside(inside):
    call = inside.waits_for_one.spawn("handed")
    Queue("handed").put({"from": "outside"})
    assert call.get(timeout=60) == {"from": "outside"}
