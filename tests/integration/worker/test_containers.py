"""Containers as placement meets them: fences, hostile runners, stops, crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.container import StopContainer
from glowplug_contracts.messages.deployment import Resources, SourceRef
from glowplug_contracts.messages.invocation import PLATFORM_RETRIES_MAX, RemoteError, State
from glowplug_contracts.messages.worker import WorkerOrder, WorkerOrdered
from glowplug_contracts.subjects import STOP, WORKER_ORDER
from glowplug_worker import frames
from glowplug_worker.capacity import Offer
from glowplug_worker.ports import Exit

from tests.support.builders_worker import (
    GIB,
    WORKER,
    Peer,
    ScriptedBackend,
    a_binding,
    a_request,
    echo,
    open_worker,
)
from tests.support.eventually import eventually


async def waiting(peer: Peer) -> Exit | None:
    await peer.greet()
    await peer.until("never")
    return None


async def stop(bus: Any, container_id: str = "ctr_1", **fields: Any) -> None:
    message = StopContainer(
        container_id=container_id, **{"generation": 1, "reason": "idle", **fields}
    )
    await bus.send(STOP.at(worker_id=WORKER), message)


async def test_a_binding_said_twice_is_one_container(bus: Any, rest: Any, tmp_path: Path) -> None:
    backend = ScriptedBackend(echo)
    async with open_worker(bus, tmp_path, backend):
        assert (await rest.bind()).accepted
        assert (await rest.bind()).accepted
        await rest.change("ready")
    assert len(backend.plans) == 1


async def test_refuses_older_placement_and_what_does_not_fit(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    offer = Offer(host="h", cpu_millis=1000, memory_bytes=GIB, gpus=())
    async with open_worker(bus, tmp_path, ScriptedBackend(echo), offer=offer):
        assert (await rest.bind(a_binding("ctr_1", generation=5))).accepted
        older = await rest.bind(a_binding("ctr_2", generation=4))
        large = await rest.bind(
            a_binding("ctr_3", generation=5, resources=Resources(cpu_millis=900))
        )
        await rest.change("ready")
        await stop(bus, generation=4, grace_s=0.0)
        await stop(bus, generation=5, grace_s=1.0, reason="scaled_in")
        assert (await rest.change("stopped")).reason == "scaled_in"
    assert [older.reason, large.reason] == ["stale", "full"]


async def test_a_stop_lets_running_work_finish_and_refuses_new_work(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def on_credit(peer: Peer) -> Exit | None:
        """Answers its first input when the worker says that it should stop cancelling: never early."""
        await peer.greet()
        header, body = await peer.until("run")
        await peer.until("cancel")
        peer.answer(header, body)
        await peer.until("stop")
        peer.send(frames.Bye())
        return Exit(code=0)

    async with open_worker(bus, tmp_path, ScriptedBackend(on_credit)) as worker:
        await rest.bound()
        await rest.run(a_request("inv_1"))
        await eventually(lambda: worker.supervisors["ctr_1"].flights)
        await stop(bus)
        await rest.change("draining")
        await rest.run(a_request("inv_2"))
        await eventually(lambda: rest.refused)
        worker.supervisors["ctr_1"].send(0, frames.Cancel(id="inv_1"))
        assert (await rest.change("stopped")).reason == "idle"
    assert rest.refused[0].reason == "draining"
    assert [each.state for each in rest.outcomes] == [State.SUCCEEDED]


async def test_a_cordoned_worker_refuses_containers_and_a_drain_ends_those_it_has(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def order(word: str) -> WorkerOrdered:
        message = WorkerOrder(order=word, grace_s=30.0)
        at = WORKER_ORDER.at(worker_id=WORKER)
        return await bus.request(at, message, WorkerOrdered, timeout_s=5)

    async with open_worker(bus, tmp_path, ScriptedBackend(echo)) as worker:
        await rest.bound()
        assert await order("cordon") == WorkerOrdered(cordoned=True, containers=1)
        assert (await rest.bind(a_binding("ctr_2"))).reason == "draining"
        await eventually(lambda: rest.beats and rest.beats[-1].cordoned and rest.beats[-1].draining)
        assert rest.states() == ["pulling", "starting", "ready"]
        await order("drain")
        assert (await rest.change("stopped")).reason == "worker_draining"
        await eventually(lambda: not worker.supervisors)
        assert not (await order("uncordon")).cordoned
        await rest.bound(container_id="ctr_3")


async def test_when_the_grace_is_over_what_runs_is_lost(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(waiting)):
        await rest.bound()
        await rest.run(a_request())
        await stop(bus, grace_s=0.01)
        assert (await rest.change("stopped")).reason == "idle"
        await eventually(lambda: rest.lost)
    assert rest.lost[0].cause == "container"


async def test_a_container_that_is_stopped_while_it_pulls_never_starts(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    backend = ScriptedBackend(echo)
    async with open_worker(bus, tmp_path, backend) as worker:
        images = worker.workshop.images
        images.failures = [UnavailableError("platform.unavailable", "away")] * 10_000
        await rest.bind(a_binding(source=SourceRef(blob="5" * 64, handler="app:f")))
        await eventually(lambda: images.asked)
        await stop(bus)
        assert (await rest.change("stopped")).reason == "idle"
    assert backend.plans == []


async def test_waits_for_an_imagecache_that_is_away(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)) as worker:
        images = worker.workshop.images
        images.failures = [UnavailableError("platform.unavailable", "away")]
        images.sources["5" * 64] = tmp_path
        await rest.bound(source=SourceRef(blob="5" * 64, handler="app:f"))


async def test_what_cannot_be_pulled_fails_the_start(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        failed = await rest.bound("failed", image_digest="a" * 64)
    assert (failed.reason, failed.error.code) == ("start_failed", "image.not_found")
    assert rest.states() == ["pulling", "failed"]


async def test_an_unknown_python_is_refused_with_what_there_is(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)) as worker:
        failed = await rest.bound("failed", base_python="2.7")
        (offered,) = worker.workshop.pythons.versions()
    assert failed.error.code == "image.unsupported"
    assert offered in failed.error.message


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\xff" * 16, "too large"),
        (b"\0\0\0\2\0\0\0\0{}", "not one of a runner's"),
        (b'\0\0\0\x0e\0\0\0\0{"type":"run"}', "not one of a runner's"),
        (frames.encode_frame(frames.Result(id="x", index=0, state="succeeded")), "does not run"),
        (frames.encode_frame(frames.ExecEvent(exec_id="x", kind="ended")), "does not run"),
        (frames.encode_frame(frames.Result(id="inv_1", index=9, state="succeeded")), "input 9"),
        (
            frames.encode_frame(
                frames.Result(id="inv_1", index=0, state="succeeded", format="yaml")
            ),
            "format",
        ),
        (frames.encode_frame(frames.Item(id="inv_1", index=0, number=0)), "no stream"),
    ],
)
async def test_a_runner_that_breaks_the_protocol_ends_its_container(
    bus: Any, rest: Any, tmp_path: Path, said: bytes, why: str
) -> None:
    async def hostile(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("run")
        peer.send_raw(said)
        await peer.until("never")
        return None

    backend = ScriptedBackend(hostile)
    async with open_worker(bus, tmp_path, backend):
        await rest.bound()
        await rest.run(a_request())
        failed = await rest.change("failed")
        await eventually(lambda: rest.lost)
    assert failed.reason == "crashed"
    assert why in failed.error.details["violation"]
    assert backend.started[0].killed


async def test_an_endless_payload_is_cut_off(
    bus: Any, rest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glowplug_worker.runners.PAYLOAD_BYTES_MAX", 3_000_000)

    async def endless(peer: Peer) -> Exit | None:
        await peer.greet()
        header, _ = await peer.until("run")
        piece = frames.Result(id=header["id"], index=0, state="succeeded", more=True)
        for _ in range(5):
            peer.send(piece, b"x" * 1_000_000)
        await peer.until("never")
        return None

    async with open_worker(bus, tmp_path, ScriptedBackend(endless)):
        await rest.bound()
        await rest.run(a_request())
        failed = await rest.change("failed")
    assert "more than 3000000 bytes" in failed.error.message


async def test_a_crash_after_the_last_try_is_the_inputs_outcome_and_spares_the_rest(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    """One poisonous input of a map fails alone: what did not run goes back to the shard."""

    async def poisoned(peer: Peer) -> Exit | None:
        await peer.greet()
        while True:
            header, body = await peer.until("run")
            if header["index"] == 1:
                return Exit(signal=11)
            peer.answer(header, body)

    async with open_worker(bus, tmp_path, ScriptedBackend(poisoned)):
        await rest.bound()
        await rest.run(a_request(inputs=4, attempt=PLATFORM_RETRIES_MAX + 1))
        await eventually(lambda: rest.refused)
    states = {each.index: each.state for each in rest.outcomes}
    assert states == {0: State.SUCCEEDED, 1: State.FAILED}
    crashed = next(each for each in rest.outcomes if each.index == 1)
    assert crashed.error.code == "function.crashed"
    assert [each.index for each in rest.refused[0].request.inputs] == [2, 3]


async def test_a_crash_before_that_is_the_platforms_to_repair(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def dying(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("run")
        peer.send(frames.Log(stream="stderr"), b"Segmentation fault\n")
        return Exit(signal=11)

    async with open_worker(bus, tmp_path, ScriptedBackend(dying)):
        await rest.bound()
        await rest.run(a_request())
        await rest.change("failed")
    (lost,) = rest.lost
    assert (lost.cause, lost.error.code) == ("container", "function.crashed")
    assert lost.error.details == {
        "exit_code": None,
        "signal": 11,
        "last_lines": ["Segmentation fault"],
    }
    assert rest.outcomes == []


async def test_on_start_that_fails_in_one_of_two_processes_fails_the_container(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    seen: list[Peer] = []

    async def second_fails(peer: Peer) -> Exit | None:
        seen.append(peer)
        if len(seen) == 1:
            return await waiting(peer)
        peer.send(frames.Hello(pid=2, python="3.11"))
        error = RemoteError(code="function.start_failed", type="OSError", message="no model")
        peer.send(frames.StartFailed(error=error))
        return Exit(code=1)

    async with open_worker(bus, tmp_path, ScriptedBackend(second_fails)):
        failed = await rest.bound("failed", processes=2)
    assert (failed.reason, failed.error.message) == ("start_failed", "no model")


async def test_a_container_expires(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        stopped = await rest.bound("stopped", expires_s=0.05)
    assert stopped.reason == "expired"


async def test_a_worker_that_ends_stops_its_containers_and_says_so(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(echo)):
        await rest.bound()
    stopped = await rest.change("stopped")
    assert stopped.reason == "worker_stopping"
    await eventually(lambda: rest.beats[-1].draining and not rest.beats[-1].containers)
    assert list((tmp_path / "containers").iterdir()) == []


async def test_beats_tell_what_is_in_flight(bus: Any, rest: Any, tmp_path: Path) -> None:
    async with open_worker(bus, tmp_path, ScriptedBackend(waiting)) as worker:
        await rest.bound()
        await rest.run(a_request())
        await eventually(lambda: worker.supervisors["ctr_1"].flights)
        await worker.send_beat()
        await eventually(lambda: rest.beats[-1].containers[0].in_flight == ("inv_1",))
    counts = [each.beat for each in rest.beats]
    assert counts == sorted(set(counts))


async def test_a_beat_never_tells_an_end_before_the_end_is_announced(
    bus: Any, rest: Any, tmp_path: Path
) -> None:
    async def dying(peer: Peer) -> Exit | None:
        await peer.greet()
        await peer.until("run")
        return Exit(signal=11)

    async with open_worker(bus, tmp_path, ScriptedBackend(dying)) as worker:
        await rest.bound()
        await rest.run(a_request())
        supervisor = worker.supervisors["ctr_1"]
        await eventually(lambda: supervisor.life.ended)
        assert supervisor.view().state == "draining"
        await rest.change("failed")
