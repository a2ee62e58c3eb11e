"""Every due time fires once: owners killed between any two steps, zombies, clocks that jump, redeploys."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.schedule import CATCH_UP_MAX, CatchUp, ScheduleSpec
from glowplug_scheduler import schedule_types as t
from glowplug_scheduler.schedules import (
    CLAIM_SURE_S,
    FORGET_S,
    LOOK_MAX,
    Schedule,
    chosen,
    firing_id,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.schedule_world import KEY, VERSION, ScheduleWorld, all_due

TENS = 10.0
COUNT = itertools.count()


def test_a_calm_world_fires_every_due_time_once_in_order() -> None:
    world = ScheduleWorld()
    start = world.now
    world.own()
    world.run(start + 100)
    assert world.fired == all_due(start, world.now)
    assert world.state is not None
    assert world.state.fired == 10
    assert [e.due for e in world.state.history] == world.fired[::-1]
    assert [e.invocation_id for e in world.state.history] == [
        firing_id(KEY, due) for due in world.fired[::-1]
    ]


def killed_at(steps: int, done: str) -> bool:
    """One owner dies at its n-th step, done or not; the next takes over. Return whether all is right."""
    world = ScheduleWorld()
    start, first = world.now, world.own()
    while steps:
        if first.do_one():
            steps -= 1
        else:
            world.pass_time(0.5)
    if done == "unanswered":
        while not first.do_one(answered=False):
            world.pass_time(0.5)
    world.kill(first)
    world.pass_time(2.0)
    world.own()
    world.run(start + 60)
    # Killed before its first write nobody knew of the schedule: it counts from the takeover then.
    return world.fired in (all_due(start, world.now), all_due(start + 2.5, world.now))


@pytest.mark.parametrize("done", ["undone", "unanswered"])
@pytest.mark.parametrize("steps", range(14))
def test_killed_before_or_after_any_step_nothing_is_lost_or_doubled(steps, done) -> None:
    assert killed_at(steps, done)


def unclaimed(self, state, _version, _called, now):
    """Decide a due time without naming it: what a claim is there to prevent."""
    following = all_due(state.next_due, state.next_due + 10)[0]
    return msgspec.structs.replace(state, decided_until=state.next_due, next_due=following)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("glowplug_scheduler.schedules.firing_id", lambda _key, _due: f"inv_{next(COUNT)}"),
        ("glowplug_scheduler.schedules.Schedules._claim", unclaimed),
        ("glowplug_scheduler.schedules.OVERDUE_S", 1e9),
    ],
    ids=["ids that are not derived", "no claim", "blind trust in timers"],
)  # fmt: skip
def test_a_broken_machine_is_noticed(monkeypatch, where, what) -> None:
    monkeypatch.setattr(where, what)
    if where.endswith("OVERDUE_S"):
        world = ScheduleWorld()
        world.own()
        world.work()
        start, world.timer = world.now, 0.0  # the broker lost it
        world.run(start + 30)
        assert world.fired != all_due(start, world.now)
        return
    assert not all(killed_at(n, done) for n in range(14) for done in ("undone", "unanswered"))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "pass", "pass", "pass", "do", "do", "do", "half", "kill", "own", "own",
                "broker_down", "zombie_timer", "set_back", "again",
            ]
        ),
        st.integers(0, 5),
    ),
    max_size=120,
)  # fmt: skip


@given(EVENTS, st.sampled_from(["every 1s", "every 10s", "*/5 * * * * *"]))
@settings(max_examples=400, deadline=None)
def test_any_story_of_owners_and_clocks_fires_each_due_time_once(story, when) -> None:
    """Up to three owners believe at once that the shard is theirs; any of them dies at any step."""
    world = ScheduleWorld(when)
    world.own()
    world.work()
    start = world.state.decided_until
    for event, number in story:
        owner = world.owners[number % len(world.owners)] if world.owners else None
        if event == "pass":
            world.pass_time(0.4 * number)
        elif event == "broker_down":
            world.pass_time(1.5 * number, broker=False)
        elif event == "set_back":
            world.now -= 3.0 * number
        elif event == "zombie_timer":
            world.timer = world.state.next_due - 10 * number
        elif event == "again" and world.went_off and owner:
            owner.hear(t.WentOff(KEY, world.went_off - number))
        elif event == "own" and len(world.owners) < 3:
            world.own()
        elif event == "kill" and owner:
            world.kill(owner)
        elif event == "half" and owner and owner.do_one(answered=False):
            world.kill(owner)  # whoever does not hear that a thing is done is dead
        elif event == "do" and owner:
            owner.do_one()
        assert len(set(world.fired)) == len(world.fired)
    # Left alone, the world catches up: all that was due is fired, once, whatever was killed.
    world.own()
    end = max(world.now, world.state.decided_until) + 30
    world.run(end, step_s=0.4)
    assert len(set(world.fired)) == len(world.fired)
    assert sorted(world.fired) == all_due(start, world.state.decided_until, when)
    assert world.state.decided_until >= end - 12


def test_a_clock_set_back_fires_nothing_again_and_goes_on_where_it_was() -> None:
    world = ScheduleWorld("every 1s")
    world.own()
    world.run(world.now + 10)
    before = list(world.fired)
    set_back_to = world.now = world.now - 8
    world.run(set_back_to + 6)
    assert world.fired == before
    world.run(set_back_to + 20)
    assert world.fired[: len(before)] == before
    assert world.fired == all_due(before[0] - 1, world.now, "every 1s")[: len(world.fired)]
    assert len(world.fired) >= len(before) + 10


@pytest.mark.parametrize(
    ("catch_up", "in_time", "late"),
    [("skip", 1, 0), ("one", 1, 0), ("all", 1, 11)],
)
def test_an_outage_is_caught_up_by_the_policy_and_what_is_skipped_is_recorded(
    catch_up, in_time, late
) -> None:
    world = ScheduleWorld(catch_up=CatchUp(catch_up))
    first = world.own()
    world.run(world.now + 25)
    world.kill(first)
    before, gone_at = len(world.fired), world.now
    world.now += 120
    world.own()
    world.work()
    missed = all_due(gone_at, world.now)
    assert world.fired[before:] == missed[-(in_time + late) :]
    assert world.state.skipped == len(missed) - in_time - late
    if catch_up != "all":
        (line,) = [e for e in world.state.history if e.outcome == "skipped"]
        assert (line.due, line.last, line.count) == (missed[0], missed[-2], 11)
        assert line.reason == "late"


def test_one_fires_the_latest_only_where_none_came_in_time() -> None:
    due = [10.0, 20.0, 30.0]
    assert chosen(due, CatchUp.ONE, 1000.0) == [30.0]
    assert chosen(due, CatchUp.ONE, 25.0) == [30.0]
    assert chosen(due, CatchUp.ONE, 15.0) == [20.0, 30.0]
    assert chosen(due, CatchUp.SKIP, 1000.0) == []
    assert chosen(due, CatchUp.ALL, 1000.0) == due


def test_all_catches_up_the_latest_hundred_of_a_long_outage() -> None:
    world = ScheduleWorld("every 1s")
    first = world.own()
    world.run(world.now + 5)
    world.kill(first)
    before, gone_at = len(world.fired), world.now
    world.now += 3 * LOOK_MAX
    world.own()
    world.work()
    missed = all_due(gone_at, world.now, "every 1s")
    assert world.fired[before:] == missed[-CATCH_UP_MAX:]
    assert world.state.skipped == len(missed) - CATCH_UP_MAX
    assert world.state.fired + world.state.skipped == before + len(missed)


def test_a_paused_schedule_decides_nothing() -> None:
    world = ScheduleWorld()
    world.own()
    world.run(world.now + 15)
    before = list(world.fired)
    world.write(msgspec.structs.replace(world.state, paused=True))
    world.run(world.now + 50)
    assert world.fired == before
    resumed_at = world.now
    world.write(
        msgspec.structs.replace(
            world.state,
            paused=False,
            decided_until=resumed_at,
            next_due=(resumed_at // TENS + 1) * TENS,
        )
    )
    world.run(world.now + 30)
    assert world.fired == before + all_due(resumed_at, world.now)


def test_a_redeploy_keeps_the_due_times_and_the_pause() -> None:
    world = ScheduleWorld()
    owner = world.own()
    world.run(world.now + 15)
    world.write(msgspec.structs.replace(world.state, paused=True))
    next_due = world.state.next_due
    second = t.VersionSeen(KEY, DeploymentId("dep_2"), 2, world.version.spec)
    world.version = second
    owner.hear(second)
    owner.hear(t.VersionGone(KEY, VERSION))
    world.work()
    assert world.state.paused
    assert world.state.next_due == next_due


def test_the_newest_version_fires_and_an_old_ones_end_changes_nothing() -> None:
    world = ScheduleWorld()
    owner = world.own()
    world.work()
    owner.hear(t.VersionSeen(KEY, DeploymentId("dep_2"), 2, world.version.spec))
    fires = []
    real = world.do

    def do(decision):
        if isinstance(decision, t.Fire):
            fires.append(decision.deployment_id)
        return real(decision)

    world.do = do
    world.run(world.now + 12)
    owner.hear(t.VersionGone(KEY, VERSION))
    world.run(world.now + 10)
    assert fires == ["dep_2", "dep_2"]


def test_another_text_counts_from_now() -> None:
    world = ScheduleWorld()
    owner = world.own()
    world.run(world.now + 15)
    fired, now = list(world.fired), world.now
    other = t.VersionSeen(KEY, DeploymentId("dep_2"), 2, ScheduleSpec(when="every 7s"))
    world.version = other
    owner.hear(other)
    world.run(world.now + 30)
    assert world.fired == fired + all_due(now, world.now, "every 7s")


def test_a_deleted_schedule_is_forgotten_after_a_while_not_at_once() -> None:
    world = ScheduleWorld()
    owner = world.own()
    world.run(world.now + 15)
    owner.hear(t.VersionGone(KEY, VERSION))
    fired = list(world.fired)
    world.run(world.now + FORGET_S - 2)
    assert world.state is not None
    world.run(world.now + 5)
    assert world.state is None
    assert world.fired == fired
    assert owner.machine.schedules == {}


def test_an_old_claim_without_a_record_is_shown_as_unsure_and_never_made() -> None:
    """The owner died between claim and settling, and nobody came for hours."""
    world = ScheduleWorld("every 1h")
    owner = world.own()
    world.work()
    due = world.state.next_due
    world.pass_time(due - world.now + 0.1)
    owner.do_one()  # the timer was set when it was; this is the claim
    assert world.state.claimed == (due,)
    world.kill(owner)
    world.now += CLAIM_SURE_S + 60
    world.own()
    world.work()
    assert due not in world.fired
    (line,) = [e for e in world.state.history if e.reason == "unsure"]
    assert line.due == due
    assert world.state.claimed == ()


def test_an_old_claim_whose_record_stands_has_fired() -> None:
    world = ScheduleWorld("every 1h")
    owner = world.own()
    world.work()
    due = world.state.next_due
    world.pass_time(due - world.now + 0.1)
    owner.do_one()
    owner.do_one(answered=False)
    world.kill(owner)
    world.now += CLAIM_SURE_S + 60
    world.own()
    world.work()
    assert world.fired.count(due) == 1
    assert due in [e.due for e in world.state.history if e.outcome == "fired"]


def test_check_notices_what_must_not_be() -> None:
    world = ScheduleWorld()
    owner = world.own()
    world.work()
    broken = Schedule(KEY)
    broken.state = msgspec.structs.replace(world.state, claimed=(world.state.next_due,))
    owner.machine.schedules[KEY] = broken
    with pytest.raises(AssertionError):
        owner.machine.check()
