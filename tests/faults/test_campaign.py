"""A short part of the campaign with a fresh seed: what the long one promises, it must keep as well."""

from __future__ import annotations

import os
import random

import pytest

from faults.campaign import Slice, run_slice
from faults.plan import make_plan

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TASKS = 500
FAULTS = 6


async def test_all_that_was_accepted_survives_kills_at_random_steps(tmp_path):
    """Two shards with a workspace in each: tasks, calls, compositions, events, schedules, maps, gRPC."""
    seed = int(os.environ.get("GLOWPLUG_TEST_SEED") or random.randrange(10**6))
    print(f"seed {seed}: GLOWPLUG_TEST_SEED={seed} repeats these choices")
    # A pause of 30 s is the long campaign's.
    plan = make_plan(seed, FAULTS, kinds=("kill", "poison"))
    result = await run_slice(
        Slice(seed=seed, tasks=TASKS, plan=plan, limit_s=60, shards=2), tmp_path
    )
    assert result["violations"] == [], (seed, result)
    assert result["rested"], (seed, result)
    assert result["accepted"] > TASKS, (seed, result)
    assert result["faults"] > FAULTS / 2, (seed, result)
    assert sum(result["ends"].values()) == result["accepted"]
    for what in ("calls answered", "composed", "events", "due times", "map writes"):
        assert result[what] > 0, (what, result)
