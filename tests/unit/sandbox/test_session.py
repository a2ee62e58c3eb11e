"""One session's life."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.container import ContainerKind
from glowplug_contracts.messages.deployment import ImageSpec
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.sandbox import SandboxState
from glowplug_sandbox.session import (
    TRANSITIONS,
    ContainerEnded,
    ContainerLost,
    ContainerReady,
    StartTimedOut,
    Terminate,
    Used,
    is_live,
    step,
    wanted_of,
)

from tests.support.builders_sandbox import CONTAINER, SANDBOX, a_session

READY = ContainerReady(WorkerId("w1"))
CRASHED = RemoteError(code="function.crashed", type="ContainerCrashedError", message="exit 9")

EVENTS = [
    READY,
    ContainerEnded(failed=True, reason="crashed", error=CRASHED),
    ContainerEnded(failed=False, reason="deleted"),
    ContainerLost("gone"),
    StartTimedOut(5.0),
    Used(),
    Terminate("asked"),
]


def test_the_life_of_a_session():
    running = step(a_session(), READY, 1)
    assert (running.state, running.worker_id, running.used_at) == (SandboxState.RUNNING, "w1", 1)
    used = step(running, Used(), 5)
    assert used.used_at == 5
    ended = step(used, Terminate("asked"), 6)
    assert (ended.state, ended.reason) == (SandboxState.TERMINATED, "asked")


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("state", [SandboxState.TERMINATED, SandboxState.FAILED])
def test_the_ends_are_final(state, event):
    record = a_session(state)
    assert step(record, event, 9) is record


def test_every_state_is_reached_and_left_by_the_table():
    reached = {step(a_session(state), e, 1).state for state, _ in TRANSITIONS for e in EVENTS}
    assert reached == set(SandboxState)
    assert {state for state, _ in TRANSITIONS} == {SandboxState.STARTING, SandboxState.RUNNING}


def test_a_failed_container_fails_the_session_with_its_own_error():
    failed = step(a_session(), EVENTS[1], 1)
    assert (failed.state, failed.reason, failed.error) == (
        SandboxState.FAILED,
        "crashed",
        CRASHED,
    )


def test_a_session_that_did_not_start_says_why_no_worker_took_it():
    failed = step(a_session(), StartTimedOut(5.0, {"w1": "cpu", "w2": "gpu"}), 1)
    assert failed.error is not None
    assert failed.error.code == "scheduler.no_worker_fits"
    assert failed.error.message == (
        "the sandbox did not start within 5 s: no worker takes it (w1: cpu; w2: gpu)"
    )


def test_an_empty_container_elsewhere_does_not_stand_in_for_a_lost_one():
    failed = step(a_session(SandboxState.RUNNING), ContainerReady(WorkerId("w2")), 1)
    assert (failed.state, failed.reason) == (SandboxState.FAILED, "lost")


def test_ready_said_twice_changes_nothing():
    record = a_session(SandboxState.RUNNING)
    assert step(record, READY, 7) is record


def test_a_starting_session_outlives_the_loss_of_a_worker():
    record = a_session()
    assert step(record, ContainerLost("gone"), 1) is record


def test_the_container_is_wanted_as_the_session_says():
    record = a_session()
    wanted = wanted_of(record)
    assert (wanted.container_id, wanted.spec.kind) == (CONTAINER, ContainerKind.SANDBOX)
    assert (wanted.spec.name, wanted.owner, wanted.spec.timeout_s) == (SANDBOX, "sandbox", 0.0)
    assert [is_live(a_session(state)) for state in SandboxState] == [True, True, False, False]


def test_a_session_has_its_images_environment_and_its_own_wins():
    record = a_session()
    spec = msgspec.structs.replace(
        record.spec, image=ImageSpec(env={"A": "image", "B": "image"}), env={"B": "session"}
    )
    wanted = wanted_of(msgspec.structs.replace(record, spec=spec))
    assert wanted.spec.env == {"A": "image", "B": "session"}
