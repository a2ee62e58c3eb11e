"""Functions' own output in the program that calls them."""

from __future__ import annotations

import pytest
from glowplug import function
from glowplug.client.deploying import Told
from glowplug.client.session import close_session

from tests.support.fake_gateway import FakeGateway


@function
def quiet():
    return 1


def test_lines_appear_in_order_and_none_is_lost_at_the_end(gateway: FakeGateway, capfd):
    quiet.remote()
    for number in range(100):
        gateway.log(f"line {number}")
    gateway.log("oops", "stderr")
    close_session()
    out, err = capfd.readouterr()
    assert out.splitlines() == [f"line {number}" for number in range(100)]
    assert err.splitlines() == ["oops"]
    assert len(gateway.marks) == 1


@pytest.mark.parametrize("value", ["1", "yes"])
def test_quiet_switches_it_off(gateway: FakeGateway, capfd, monkeypatch, value):
    monkeypatch.setenv("GLOWPLUG_QUIET", value)
    quiet.remote()
    gateway.log("nobody reads this")
    close_session()
    assert capfd.readouterr().out == ""


def test_build_output_becomes_whole_lines_under_its_step():
    seen = []
    told = Told(seen.append)
    told.take({"kind": "step", "text": "pip install x", "cached": False})
    for piece in ("Resol", "ved\nInst", "alled x\n", "\n", "done"):
        told.take({"kind": "output", "text": piece})
    told.end()
    assert [event["text"] for event in seen] == [
        "pip install x",
        "Resolved",
        "Installed x",
        "done",
    ]
    assert (told.step, told.output) == ("pip install x", ["Resolved", "Installed x", "done"])
