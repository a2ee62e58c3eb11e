"""The container machine under arbitrary events: its tables hold, ends are final, kills come."""

from __future__ import annotations

from typing import Any

from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_worker import container as life
from glowplug_worker.ports import Evidence, Limits
from hypothesis import given, settings
from hypothesis import strategies as st

ERROR = RemoteError(code="function.start_failed", type="E", message="m")
S = ContainerState


def test_every_state_and_event_is_decided_or_impossible() -> None:
    pairs = {(state, event) for state in S for event in life.Event.__args__}
    assert set(life.TRANSITIONS) | life.IMPOSSIBLE == pairs
    assert not set(life.TRANSITIONS) & life.IMPOSSIBLE


def test_every_state_can_be_reached() -> None:
    reached, todo = {S.BOUND}, [S.BOUND]
    while todo:
        at = todo.pop()
        for (state, _), targets in life.TRANSITIONS.items():
            new = targets - reached if state is at else frozenset()
            reached |= new
            todo += new
    assert reached == set(S)


def events(data: Any, busy: bool) -> dict[type, Any]:
    """One event of each kind, with drawn contents."""
    process = data.draw(st.integers(0, 1))
    return {
        life.Bound: life.Bound(),
        life.Pulled: life.Pulled(),
        life.StartFailed: life.StartFailed(error=ERROR),
        life.RunnerReady: life.RunnerReady(process=process),
        life.RunnerGone: life.RunnerGone(
            process=process, violation=data.draw(st.sampled_from(["", "", "nonsense"]))
        ),
        life.Exited: life.Exited(code=3, busy=busy),
        life.StopAsked: life.StopAsked(
            grace_s=data.draw(st.sampled_from([0.0, 1.0, 30.0])), reason="idle", busy=busy
        ),
        life.Emptied: life.Emptied(),
        life.Overran: life.Overran(),
        life.Overgrown: life.Overgrown(limit_bytes=1, peak_bytes=2),
        life.DeviceLost: life.DeviceLost(gpu_id="GPU-1", why="Xid 79"),
        life.ImageLost: life.ImageLost(),
        life.Passed: life.Passed(busy=busy),
    }


# What leads on, so that walks get far before something ends them.
USUAL = {S.BOUND: life.Bound, S.PULLING: life.Pulled, S.STARTING: life.RunnerReady}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_walk_ends_once_and_every_draining_container_is_killed(data: Any) -> None:
    machine = life.ContainerLife(processes=2, concurrency=3, expires_at=5000.0)
    now, ends, draining_since = 100.0, 0, None
    for _ in range(data.draw(st.integers(1, 20))):
        busy = data.draw(st.booleans())
        now += data.draw(st.sampled_from([0.0, 0.1, 1.0, 1.0, 6000.0]))
        state = machine.state
        possible = [each for each in life.Event.__args__ if (state, each) not in life.IMPOSSIBLE]
        chosen = USUAL.get(state) if data.draw(st.integers(0, 2)) else None
        event = events(data, busy)[chosen or data.draw(st.sampled_from(possible))]
        decisions = machine.step(event, now)
        machine.check()
        assert not (state in life.ENDS and decisions)
        for decision in decisions:
            if isinstance(decision, life.Announce) and decision.state in life.ENDS:
                ends += 1
                assert decision.reason
                assert (decision.error is not None) == (decision.state is S.FAILED)
        assert ends == int(machine.ended)
        assert machine.slots in (0, 3, 6)
        if machine.state is S.DRAINING and state is not S.DRAINING:
            draining_since = now
            assert any(isinstance(each, life.Drain) for each in decisions)
    if machine.state is S.DRAINING:
        assert draining_since is not None
        late = machine.step(life.Passed(busy=True), max(now, draining_since) + 31.0)
        assert late == [life.Kill()]
        over = machine.step(life.Exited(signal=9, busy=True), now + 32.0)
        assert isinstance(over[0], life.Lose)
        assert machine.ended


@given(oom_kills=st.integers(0, 3), code=st.sampled_from([None, 0, 1]), served=st.booleans())
def test_only_the_kernels_word_makes_it_out_of_memory(oom_kills, code, served) -> None:
    machine = life.ContainerLife(processes=1, concurrency=1)
    for event in (life.Bound(), life.Pulled(), *([life.RunnerReady(process=0)] * served)):
        machine.step(event, 1.0)
    evidence = Evidence(
        limits=Limits(memory_bytes=1000), oom_kills=oom_kills, memory_peak_bytes=999
    )
    exited = life.Exited(code=code, signal=9 if code is None else None, evidence=evidence)
    error = machine.step(exited, 2.0)[-1].error
    if oom_kills and code is None:
        assert (error.code, error.type) == ("function.out_of_memory", "OutOfMemoryError")
        assert error.details == {"limit_bytes": 1000, "peak_bytes": 999}
    else:
        assert error.type == ("ContainerCrashedError" if served else "StartupError")
