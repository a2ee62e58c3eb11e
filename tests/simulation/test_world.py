"""The control plane by seed: it survives bad luck, and comes to rest.

Fresh seeds each run. GLOWPLUG_SIM_SEEDS says how many, GLOWPLUG_SIM_SEED replays one; a failure prints
the seed and the end of its story. The last tests show that the checkers can fail: each breaks one part.
"""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from glowplug_autoscaler.decide import Autoscaler
from glowplug_contracts.messages.invocation import State
from glowplug_gateway import waiting
from glowplug_gateway.waiting import Waiting
from glowplug_scheduler import dispatch, place
from glowplug_scheduler.dispatch import Dispatcher
from glowplug_scheduler.place import Placement

from tests.support.world import Machines
from tests.support.world_play import LostError, play

SEEDS = int(os.environ.get("GLOWPLUG_SIM_SEEDS", "150"))
CALM_SEEDS = 20
REPLAY = os.environ.get("GLOWPLUG_SIM_SEED")
# Worlds that every run has in common.
KEPT = (
    14,
    16,
    24,
    31,
    49,
    1688,
    513311083,
    562847030,
    971078649,
    926389403,
    933421994,
    24109329,
    11500379,
    957996405,
)
SOME = range(60)


def fresh_seeds(count: int) -> list[int]:
    chance = random.SystemRandom()
    return [int(REPLAY)] if REPLAY else [chance.randrange(10**9) for _ in range(count)]


def test_ill_worlds_heal():
    for seed in fresh_seeds(SEEDS):
        play(seed)


@pytest.mark.parametrize("seed", KEPT)
def test_kept_worlds_heal(seed):
    play(seed)


def test_in_calm_worlds_placement_is_exact_and_nothing_is_lost():
    for seed in fresh_seeds(CALM_SEEDS):
        counts = play(seed, calm=True).counts
        wrong = {"bind full", "bind stale", "run stale", "given up: invocation.lost"}
        assert not {what: counts[what] for what in wrong if counts[what]}, f"seed {seed}"


def test_ill_worlds_are_ill():
    """What is survived really happens: losses, repeats, takeovers of calls, refusals."""
    seen = set()
    for seed in SOME:
        seen |= play(seed).counts.keys()
    assert seen >= {
        "starts under a rate",
        "followers began",
        "frozen",
        "ends refused",
        "dropped",
        "doubled",
        "attempts beyond the first",
        "calls taken to another gateway",
        "bind accepted",
        "run stale",
        "run full",
        "run unknown",
        "refused",
        "calls sent straight",
        "calls refused straight",
        "links broken",
        "tasks sent straight",
        "tasks refused straight",
        "tasks stored late",
        "tasks put back",
        "tasks cancelled",
    }


def test_equal_seeds_make_equal_worlds():
    one, other = play(7), play(7)
    assert (one.steps, one.counts, one.story) == (other.steps, other.counts, other.story)


# -- The checkers can fail ---------------------------------------------------------------------------


class ForgetfulDispatcher(Dispatcher):
    """Tells nobody about lost attempts, and claims to know every call."""

    def step(self, event, now):
        out = super().step(event, now)
        return [
            dispatch.AnswerProbe(each.token, msgspec.structs.replace(each.known, unknown=()))
            if isinstance(each, dispatch.AnswerProbe)
            else each
            for each in out
            if not isinstance(each, dispatch.SendLost)
        ]


class ImpatientDispatcher(Dispatcher):
    """Gives durable work up at its first loss."""

    def step(self, event, now):
        out = super().step(event, now)
        return [
            msgspec.structs.replace(each, state=State.DEAD)
            if isinstance(each, dispatch.WriteRecord)
            else each
            for each in out
        ]


class HastyDispatcher(Dispatcher):
    """Knows no rates."""

    def step(self, event, now):
        if isinstance(event, dispatch.RecordSeen):
            event = msgspec.structs.replace(event, rate_count=0)
        return super().step(event, now)


class EagerDispatcher(Dispatcher):
    """Lets nothing wait for the end of anything."""

    def step(self, event, now):
        if isinstance(event, dispatch.RecordSeen):
            event = msgspec.structs.replace(event, after_count=0)
        return super().step(event, now)


class DeafWaiting(Waiting):
    """Never hears of a loss, and believes that every call is known."""

    def step(self, event, now):
        if isinstance(event, waiting.LostHeard | waiting.ProbeAnswered):
            return ()
        return super().step(event, now)


class StubbornAutoscaler(Autoscaler):
    """Never scales in."""

    def step(self, event, now):
        return [each for each in super().step(event, now) if each.target >= each.previous]


class BlindPlacement(Placement):
    """Believes every worker's host to be a hundred times as large as it says."""

    def step(self, event, now):
        if isinstance(event, place.BeatHeard):
            beat = event.beat
            larger = {"cpu_millis": beat.cpu_millis * 100, "memory_bytes": beat.memory_bytes * 100}
            event = place.BeatHeard(msgspec.structs.replace(beat, **larger))
        return super().step(event, now)


@pytest.mark.parametrize(
    ("machines", "promise"),
    [
        (Machines(dispatcher=ForgetfulDispatcher), "C2"),
        (Machines(dispatcher=ImpatientDispatcher), "C2"),
        (Machines(dispatcher=HastyDispatcher), "C8"),
        (Machines(dispatcher=EagerDispatcher), "C9"),
        (Machines(waiting=DeafWaiting), "C2"),
        (Machines(autoscaler=StubbornAutoscaler), "C4"),
        (Machines(placement=BlindPlacement, worker_checks_capacity=False), "C3"),
        (Machines(worker_compares_and_sets=False), "C1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_part_is_noticed(machines, promise):
    with pytest.raises(LostError, match=rf"seed \d+: BrokenError: {promise}"):
        _play_some(machines)


def _play_some(machines: Machines) -> None:
    for seed in SOME:
        play(seed, machines=machines)
