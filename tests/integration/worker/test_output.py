"""Output under pressure: a neighbour that floods, and a broker that goes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glowplug_worker import frames
from glowplug_worker.logbook import BURST_BYTES
from glowplug_worker.ports import Exit

from tests.support.builders_worker import (
    Peer,
    ScriptedBackend,
    a_binding,
    a_request,
    open_worker,
)
from tests.support.eventually import eventually

LINE = b"x" * 1023 + b"\n"


async def prints(peer: Peer) -> Exit | None:
    """Answers each input after printing: "flood" far too much, everything else a line of its name."""
    await peer.greet()
    while True:
        header, body = await peer.receive()
        if header["type"] == "stop":
            return Exit(code=0)
        if header["type"] == "run":
            if header["id"] == "inv_flood":
                for _ in range(2 * BURST_BYTES // len(LINE) // 32):
                    peer.send(frames.Log(stream="stdout", id=header["id"]), LINE * 32)
            else:
                text = f"line of {header['id']}\n".encode()
                peer.send(frames.Log(stream="stdout", id=header["id"]), text)
            peer.answer(header, body)


def has_ended(rest: Any) -> set[str]:
    return {each for message in rest.ended for each in message.invocation_ids}


def texts(rest: Any, container_id: str) -> list[str]:
    return [
        line.text
        for segment in rest.logs
        if segment.container_id == container_id
        for line in segment.lines
    ]


async def test_who_floods_loses_lines_which_is_said_and_takes_none_from_its_neighbour(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(prints)):
        await rest.bound(container_id="ctr_1")
        await rest.bind(a_binding("ctr_2"))
        await rest.change("ready", "ctr_2")
        await rest.run(a_request("inv_flood"), container_id="ctr_1")
        for number in range(5):
            await rest.run(a_request(f"inv_{number}"), container_id="ctr_2")
            await eventually(lambda ended=f"inv_{number}": ended in has_ended(rest))
        await eventually(lambda: len(rest.outcomes) == 6)
        await eventually(lambda: len(texts(rest, "ctr_2")) == 5)
    assert sorted(texts(rest, "ctr_2")) == [f"line of inv_{number}\n" for number in range(5)]
    flooded = [segment for segment in rest.logs if segment.container_id == "ctr_1"]
    kept = [line for line in texts(rest, "ctr_1") if line == LINE.decode()]
    said = [line for line in texts(rest, "ctr_1") if "lines dropped here" in line]
    dropped = sum(segment.dropped for segment in flooded)
    assert dropped > 0
    assert said
    assert len(kept) + dropped == 2 * BURST_BYTES // len(LINE) // 32 * 32
    assert [segment.number for segment in flooded] == list(range(len(flooded)))


async def test_what_is_printed_while_the_broker_is_away_comes_when_it_is_back(
    bus: Any, rest: Any, tmp_path: Path, nats_server: Any
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(prints)) as worker:
        await rest.bound()
        supervisor = worker.supervisors["ctr_1"]
        nats_server.kill()
        await eventually(lambda: not bus.connected)
        for number in range(100):
            text = f"line {number}\n".encode()
            supervisor._on_log(frames.Log(stream="stdout", id=""), text)
        await worker.tick()
        assert supervisor.logbook.pending
        nats_server.start()
        await eventually(lambda: len(texts(rest, "ctr_1")) == 100, what="the lines")
        assert texts(rest, "ctr_1") == [f"line {number}\n" for number in range(100)]
