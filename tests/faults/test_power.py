"""The power goes: what was acknowledged is on the disk. Without syncing it is not, or this test proves nothing."""

from __future__ import annotations

import pytest

from faults.disk import why_not
from faults.power import run_round

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.root]

LOAD_S = 2.0


@pytest.fixture(autouse=True)
def _a_machine_whose_power_can_be_cut():
    if reason := why_not():
        pytest.skip(reason)


async def test_nothing_acknowledged_is_lost_when_the_power_goes(tmp_path):
    result = await run_round(tmp_path, "always", seed=1, load_s=LOAD_S)
    assert result["acknowledged"] > 100
    assert result["lost"] == 0, result
    assert result["ended"] == result["acknowledged"], result


async def test_without_syncing_the_same_loses(tmp_path):
    result = await run_round(tmp_path, "2m", seed=1, load_s=LOAD_S)
    assert result["lost"] > 0, result
