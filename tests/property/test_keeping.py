"""Which templates are kept, under arbitrary events: nothing used is dropped, the budget holds, one at a time."""

from __future__ import annotations

from glowplug_worker import keeping
from glowplug_worker.keeping import Drop, Keeping, Key, Make
from glowplug_worker.ports import Limits
from glowplug_worker.templates import with_room
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20
BUDGET = 100 * MIB
KEYS = [Key(owner=owner, digest=digest) for owner in ("", "dep_a", "dep_b") for digest in "12"]
A, A2, B, BARE = KEYS[2], KEYS[3], KEYS[4], KEYS[0]


class World:
    """Performs what the machine decides, and knows what could happen next."""

    def __init__(self) -> None:
        self.machine = Keeping(budget_bytes=BUDGET, keep_s=60.0)
        self.now = 0.0
        self.making: set[Key] = set()
        self.living: set[Key] = set()
        self.children: dict[Key, int] = {}

    def step(self, event: keeping.Event) -> list[keeping.Decision]:
        decisions = list(self.machine.step(event, self.now))
        for decision in decisions:
            if isinstance(decision, Make):
                assert decision.key not in self.living | self.making
                self.making.add(decision.key)
            else:
                assert decision.key in self.living, "only what lives is dropped"
                assert not self.children.get(decision.key), "K1"
                self.living.discard(decision.key)
        self.machine.check()
        return decisions

    def made(self, key: Key, mib: int) -> list[keeping.Decision]:
        self.making.discard(key)
        self.living.add(key)
        return self.step(keeping.Made(key=key, memory_bytes=mib * MIB))


@given(st.data())
def test_any_order_of_events_keeps_the_invariants(data):
    world = World()
    for _ in range(data.draw(st.integers(0, 60))):
        world.now += data.draw(st.sampled_from([0.0, 1.0, 61.0]))
        key = data.draw(st.sampled_from(KEYS))
        kind = data.draw(
            st.sampled_from(
                ["served", "made", "unsafe", "fork", "end", "odd", "pass", "forget", "empty"]
            )
        )
        if kind == "served":
            world.step(keeping.Served(key=key, import_s=data.draw(st.sampled_from([0.0, 1.0]))))
        elif kind == "made" and world.making:
            world.made(min(world.making, key=str), data.draw(st.integers(1, 120)))
        elif kind == "unsafe" and world.making:
            gone = world.making.pop()
            kind = data.draw(st.sampled_from((keeping.Unsafe, keeping.Failed)))
            world.step(kind(key=gone, reason="threads"))
        elif kind == "fork" and world.machine.usable(key):
            world.children[key] = world.children.get(key, 0) + 1
            world.step(keeping.Forked(key=key))
        elif kind == "end" and world.children.get(key):
            world.children[key] -= 1
            world.step(keeping.ChildEnded(key=key))
        elif kind == "forget" and key.owner:
            world.step(keeping.Forgotten(owner=key.owner))
            gone = [k for k in KEYS if k.owner == key.owner]
            assert not any(world.machine.usable(k) or k in world.machine.unsafe for k in gone)
            assert all(world.children.get(k) for k in gone if k in world.living)
        elif kind == "empty":
            world.step(keeping.Emptied())
            assert all(world.children.get(k) for k in world.living)
            assert not any(world.machine.usable(k) for k in KEYS)
        elif kind == "odd" and key in world.living:
            if data.draw(st.booleans()):
                world.step(keeping.Retired(key=key))
            else:
                world.living.discard(key)
                world.children.pop(key, None)
                world.step(keeping.Died(key=key))
        else:
            world.step(keeping.Passed())


def test_a_long_import_pays_at_once_and_a_short_one_at_the_second_start():
    world = World()
    assert world.step(keeping.Served(key=A, import_s=1.0)) == [Make(A)]
    world.made(A, 10)
    assert world.step(keeping.Served(key=B, import_s=0.01)) == []
    assert world.step(keeping.Served(key=B, import_s=0.01)) == [Make(B)]
    assert World().step(keeping.Served(key=BARE)) == [Make(BARE)]


def test_the_least_recently_used_goes_first_and_what_has_children_stays():
    world = World()
    for key in (A, B, BARE):
        world.step(keeping.Served(key=key, import_s=1.0))
        world.now += 1
        assert world.made(key, 40) == ([] if key is not BARE else [Drop(A)])
    world = World()
    for key, mib, dropped in ((A, 40, []), (B, 60, []), (BARE, 50, [Drop(B)])):
        world.step(keeping.Served(key=key, import_s=1.0))
        world.now += 1
        assert world.made(key, mib) == dropped
        if key is A:
            world.step(keeping.Forked(key=A))


def test_what_was_not_used_for_long_is_dropped():
    world = World()
    world.step(keeping.Served(key=A, import_s=1.0))
    world.made(A, 10)
    world.now = 59.0
    assert world.step(keeping.Passed()) == []
    world.now = 60.0
    assert world.step(keeping.Passed()) == [Drop(A)]


def test_a_newer_version_retires_the_older_which_goes_with_its_last_container():
    world = World()
    world.step(keeping.Served(key=A, import_s=1.0))
    world.made(A, 10)
    world.step(keeping.Forked(key=A))
    world.step(keeping.Served(key=A2, import_s=1.0))
    assert world.made(A2, 10) == []
    assert world.machine.usable(A2)
    assert not world.machine.usable(A)
    assert world.step(keeping.ChildEnded(key=A)) == [Drop(A)]


def test_what_is_unsafe_or_fails_again_and_again_is_not_made_again():
    world = World()
    world.step(keeping.Served(key=A, import_s=1.0))
    world.making.clear()
    world.step(keeping.Unsafe(key=A, reason="it started a thread"))
    assert world.step(keeping.Served(key=A, import_s=1.0)) == []
    assert world.machine.unsafe == {A: "it started a thread"}
    for _ in range(keeping.FAILURES_MAX):
        assert world.step(keeping.Served(key=B, import_s=1.0)) == [Make(B)]
        world.made(B, 10)
        world.living.discard(B)
        world.step(keeping.Died(key=B))
    assert world.step(keeping.Served(key=B, import_s=1.0)) == []
    assert B in world.machine.unsafe


def test_what_could_not_be_made_is_tried_again_at_later_starts_but_not_for_ever():
    world = World()
    for _ in range(keeping.FAILURES_MAX):
        assert world.step(keeping.Served(key=A, import_s=1.0)) == [Make(A)]
        world.making.clear()
        world.step(keeping.Failed(key=A, reason="no memory"))
    assert world.step(keeping.Served(key=A, import_s=1.0)) == []
    assert world.machine.unsafe == {A: "no memory"}


def test_what_is_larger_than_the_budget_is_dropped_at_once_and_says_why():
    world = World()
    world.step(keeping.Served(key=A, import_s=1.0))
    assert world.made(A, 101) == [Drop(A)]
    assert "memory" in world.machine.unsafe[A]


def test_what_belongs_to_a_deployment_that_is_over_goes_and_may_come_again():
    world = World()
    for key in (A, B):
        world.step(keeping.Served(key=key, import_s=1.0))
        world.made(key, 10)
    world.step(keeping.Forked(key=A))
    assert world.step(keeping.Forgotten(owner="dep_a")) == []
    assert not world.machine.usable(A)
    assert world.step(keeping.ChildEnded(key=A)) == [Drop(A)]
    assert world.machine.usable(B)
    # However often: it is no failure of the template.
    for _ in range(keeping.FAILURES_MAX + 1):
        assert world.step(keeping.Served(key=A, import_s=1.0)) == [Make(A)]
        world.made(A, 10)
        assert world.step(keeping.Forgotten(owner="dep_a")) == [Drop(A)]


def test_one_that_was_being_made_as_the_worker_emptied_goes_when_that_is_said_again():
    world = World()
    world.step(keeping.Served(key=A, import_s=1.0))
    assert world.step(keeping.Emptied()) == []
    world.made(A, 10)
    assert world.step(keeping.Emptied()) == [Drop(A)]


def test_a_template_has_no_more_children_than_there_is_room_for():
    machine = Keeping(budget_bytes=BUDGET, keep_s=60.0)
    assert list(machine.step(keeping.Served(key=A, import_s=1.0), 0.0)) == [Make(A)]
    machine.step(keeping.Made(key=A, memory_bytes=MIB), 0.0)
    for _ in range(keeping.CHILDREN_MAX):
        assert machine.usable(A)
        machine.step(keeping.Forked(key=A), 1.0)
    assert not machine.usable(A), "further starts are plain"
    machine.step(keeping.ChildEnded(key=A), 2.0)
    assert machine.usable(A)


def test_the_room_is_part_of_a_templates_limit():
    room = keeping.CHILDREN_MAX * keeping.CHILD_BYTES
    assert with_room(Limits(memory_bytes=MIB)).memory_bytes == MIB + room
    assert with_room(Limits()) == Limits(), "what has no limit needs no room"
