"""A newer attempt of a call that two containers seem to run (found by the simulation, seed 1688)."""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId, InvocationId
from glowplug_contracts.messages.invocation import Format, Input, InvocationRequested, Payload
from glowplug_scheduler.dispatch import BeatHeard, Dispatcher, Hand, RequestArrived, ShardTaken

from tests.support.builders_scale import WORKSPACE, a_beat, a_view


def a_request(invocation_id: str, attempt: int = 1) -> InvocationRequested:
    return InvocationRequested(
        invocation_id=InvocationId(invocation_id),
        workspace=WORKSPACE,
        deployment_id=DeploymentId("dep_f"),
        inputs=(Input(args=Payload(format=Format.JSON, data=b"{}")),),
        reply_to="gateway",
        attempt=attempt,
    )


def test_the_slot_that_a_superseded_attempt_leaves_is_filled_at_once():
    dispatcher = Dispatcher(0, 1)
    dispatcher.step(ShardTaken(1), 0)
    dispatcher.step(BeatHeard(a_beat(a_view("x"), a_view("y"), beat=1)), 0)
    dispatcher.step(RequestArrived(a_request("inv_1"), 1), 1)  # to x
    listed_twice = a_beat(a_view("x"), a_view("y", in_flight=("inv_1",)), beat=2)
    dispatcher.step(BeatHeard(listed_twice), 1.1)
    dispatcher.step(RequestArrived(a_request("inv_2"), 2), 1.2)  # no slot is free
    out = dispatcher.step(RequestArrived(a_request("inv_1", attempt=2), 3), 1.3)
    handed = [(each.invocation_id, each.container_id) for each in out if isinstance(each, Hand)]
    assert handed == [("inv_2", "y")]
    dispatcher.check()
