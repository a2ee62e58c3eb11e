"""The campaign's watcher: what was lost with a connection is read again, and never hidden by what came after."""

from __future__ import annotations

import json

from faults.watch import Watcher


class Broker:
    """Stands for the campaign's client: keeps who listens, and what is asked for."""

    def __init__(self) -> None:
        self.heard = {}
        self.asked = []

    def subscribe(self, pattern, heard):
        self.heard[pattern] = heard
        return pattern

    def unsubscribe(self, pattern):
        del self.heard[pattern]

    async def api(self, what, body):
        self.asked.append(body["config"])
        return {}


def say(broker, sequence, delivered, name):
    (heard,) = broker.heard.values()
    reply = f"$JS.ACK.RECORDS_0.c.1.{sequence}.{delivered}.0.0"
    heard(f"v1.record.0.default.{name}", reply, {"Glowplug-State": "succeeded"}, b"")


async def test_a_hole_in_what_is_delivered_is_read_again_from_before_it(tmp_path):
    broker = Broker()
    watcher = Watcher(broker, tmp_path)
    await watcher._follow(0)
    say(broker, 5, 1, "inv_1")
    say(broker, 7, 2, "inv_2")
    say(broker, 12, 4, "inv_4")  # the third was lost
    assert watcher.ended == {"inv_1", "inv_2"}
    assert watcher._doubted == {0}
    await watcher._follow(0)
    assert broker.asked[-1]["opt_start_seq"] == 8
    say(broker, 9, 1, "inv_3")
    say(broker, 12, 2, "inv_4")
    assert watcher.ended == {"inv_1", "inv_2", "inv_3", "inv_4"}
    watcher.close()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == [5, 7, 9, 12]
