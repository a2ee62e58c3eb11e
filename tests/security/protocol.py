"""A worker with hostile runners, one after another, beside an honest neighbour and a victim.

The neighbour must answer after each; the victim's invocation, in flight all the time, must have exactly
its own outcome in the end. `play()` makes all cases in one worker and says what came of each.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology
from glowplug_worker import frames
from glowplug_worker.frames import encode_frame

from tests.integration.worker.conftest import Rest
from tests.security.fuzz.engine import changed
from tests.support.builders_worker import (
    Peer,
    ScriptedBackend,
    a_request,
    echo,
    open_worker,
)
from tests.support.eventually import eventually
from tests.support.nats import open_nats_server

VICTIM = "inv_victim"
Bytes = Callable[[dict[str, Any]], Iterator[bytes]]


class Case(msgspec.Struct, frozen=True):
    """What a runner sends once it has work; `ends`: it must be ended for that."""

    name: str
    sends: Bytes
    ends: bool = True
    answers: bool = False  # what it sends is its invocation's outcome
    somehow: bool = False  # it may end for another reason than what it may not say


class Found(msgspec.Struct):
    """What came of a case."""

    failed: bool
    violation: str = ""
    outcomes: int = 0  # of its own invocation
    neighbour: bool = False


def raw(head: bytes, body: bytes = b"", *, head_size: int = -1, body_size: int = -1) -> bytes:
    sizes = (len(head) if head_size < 0 else head_size, len(body) if body_size < 0 else body_size)
    return sizes[0].to_bytes(4) + sizes[1].to_bytes(4) + head + body


def says(**fields: Any) -> bytes:
    return raw(json.dumps(fields).encode())


def _result(run: dict[str, Any], **changes: Any) -> frames.Result:
    told = frames.Result(
        id=run["id"], index=run["index"], state="succeeded", format="json", run_ms=1.0
    )
    return msgspec.structs.replace(told, **changes)


def _once(data: bytes) -> Bytes:
    return lambda _run: iter((data,))


def _error(**changes: Any) -> RemoteError:
    return RemoteError(**({"code": "function.failed", "type": "X", "message": "m"} | changes))


def _failed(**changes: Any) -> Bytes:
    return lambda run: iter(
        (encode_frame(_result(run, state="failed", format="", error=_error(**changes))),)
    )


def _own(frame: Callable[[dict[str, Any]], bytes]) -> Bytes:
    return lambda run: iter((frame(run),))


MIB = 1 << 20
CHANGED = 12
DEEP = b"[" * 200_000

CASES = (
    Case("a header of 4 GiB", _once(raw(b"", head_size=2**32 - 1))),
    Case("a header one byte too long", _once(raw(b"", head_size=MIB + 1))),
    Case("a body of 4 GiB", _once(raw(b"", body_size=2**32 - 1))),
    Case("a body one byte too long", _once(raw(b"", body_size=MIB + 1))),
    Case("an empty header", _once(raw(b""))),
    Case("a header that is no JSON", _once(raw(b"\xff" * 100))),
    Case("a header that is a list", _once(raw(b"[]"))),
    Case("a header that is nothing", _once(raw(b"null"))),
    Case("a header without a type", _once(says(id="x"))),
    Case("an unknown type", _once(says(type="exec_as_root"))),
    *(
        Case(f"the worker's own word {word!r}", _once(says(type=word, id="x", grace_s=0)))
        for word in (
            "init",
            "blob",
            "run",
            "cancel",
            "credit",
            "exec",
            "kill_exec",
            "answer",
            "stop",
        )
    ),
    Case("fields of other types", _once(says(type="result", id=7, index="0", state="succeeded"))),
    Case("a field that is not there", _once(says(type="result", id="x"))),
    Case("a state that there is not", _once(says(type="result", id="x", index=0, state="paid"))),
    Case("JSON of 200,000 levels", _once(raw(b'{"type":"hello","pid":1,"python":' + DEEP))),
    Case("unknown fields of 200,000 levels", _once(raw(b'{"type":"hello","x":' + DEEP))),
    Case("a number of 5,000 digits", _once(raw(b'{"type":"hello","pid":' + b"9" * 5_000 + b"}"))),
    Case("a number that is none", _once(raw(b'{"type":"log","stream":"x","at":NaN}'))),
    Case(
        "an index beyond 64 bits",
        _own(lambda run: says(type="result", id=run["id"], index=2**70, state="succeeded")),
    ),
    Case("bytes that are no UTF-8", _once(raw(b'{"type":"log","stream":"\xff\xfe"}'))),
    Case("a lone surrogate", _once(raw(b'{"type":"log","stream":"\\ud800"}'))),
    Case(
        "a result for another's invocation",
        _once(
            encode_frame(
                frames.Result(id=VICTIM, index=0, state="succeeded", format="json"), b'"stolen"'
            )
        ),
    ),
    Case(
        "a failure for another's invocation",
        _once(encode_frame(frames.Result(id=VICTIM, index=0, state="failed", error=_error()))),
    ),
    Case(
        "an item for another's invocation",
        _once(encode_frame(frames.Item(id=VICTIM, index=0, number=0))),
    ),
    Case(
        "a piece for another's invocation, and the rest",
        _once(
            encode_frame(frames.Result(id=VICTIM, index=0, state="succeeded", more=True), b"x")
            + encode_frame(frames.Result(id=VICTIM, index=0, state="succeeded"), b"x")
        ),
    ),
    Case(
        "a result for an input that is not there",
        _own(lambda run: encode_frame(_result(run, index=9))),
    ),
    Case("a result for input -1", _own(lambda run: encode_frame(_result(run, index=-1)))),
    Case(
        "a result in a format that there is not",
        _own(lambda run: encode_frame(_result(run, format="yaml"), b"x")),
    ),
    Case(
        "an item where there is no stream",
        _own(lambda run: encode_frame(frames.Item(id=run["id"], index=0, number=0))),
    ),
    Case(
        "what an exec did, where there is none",
        _once(encode_frame(frames.ExecEvent(exec_id="exe_1", kind="ended"))),
    ),
    Case(
        "more unfinished payloads than may be",
        _own(
            lambda run: b"".join(
                encode_frame(_result(run, id=f"inv_{number}", more=True), b"")
                for number in range(1_100)
            )
        ),
    ),
    Case(
        "a request with a line break in a header",
        _once(
            encode_frame(
                frames.Ask(
                    ask_id=1,
                    method="GET",
                    path="/api/v1/tasks/x",
                    headers={"Ce-Id": "a\r\nHost: b"},
                )
            )
        ),
    ),
    Case(
        "a request with 1,000 headers",
        _once(
            encode_frame(
                frames.Ask(
                    ask_id=1,
                    method="GET",
                    path="/api/v1/tasks/x",
                    headers={f"Ce-{n}": "x" for n in range(1_000)},
                )
            )
        ),
    ),
    Case(
        "an end of the start, after the start",
        _once(encode_frame(frames.StartFailed(error=_error()))),
    ),
    Case(
        "half a frame, and then something else",
        _own(lambda run: encode_frame(_result(run), b"x" * 100)[:-50] + b"\xff" * 100),
    ),
    # What an honest runner may say, in amounts that no honest runner does. It lives, and so do others.
    Case(
        "a second result",
        _own(lambda run: encode_frame(_result(run), b"1") + encode_frame(_result(run), b"2")),
    ),
    Case(
        "the start again and again",
        _own(
            lambda _: b"".join(
                encode_frame(frames.Hello(pid=1, python="3" * 1_000)) + encode_frame(frames.Ready())
                for _ in range(200)
            )
        ),
        ends=False,
    ),
    Case(
        "phases of the start without number",
        _own(
            lambda _: encode_frame(frames.Ready(phases={f"{n}_s": -1.0 * n for n in range(5_000)}))
        ),
        ends=False,
    ),
    Case(
        "100,000 lines",
        _own(lambda _: encode_frame(frames.Log(stream="stdout"), b"line\n" * 100_000)),
        ends=False,
    ),
    Case(
        "a flood of lines beyond the rate",
        lambda _: (encode_frame(frames.Log(stream="stdout"), b"x" * MIB) for _ in range(24)),
        ends=False,
    ),
    Case(
        "one line without an end",
        lambda _: (
            encode_frame(frames.Log(stream="stderr", dropped=2**40), b"x" * MIB) for _ in range(8)
        ),
        ends=False,
    ),
    Case(
        "lines in another's name",
        _once(encode_frame(frames.Log(stream="stdout", id=VICTIM), b"forged\n")),
        ends=False,
    ),
    Case(
        "dropped lines without number",
        _once(
            encode_frame(frames.Log(stream="stdout", dropped=2**62), b"")
            + encode_frame(frames.Log(stream="x", dropped=-5), b"y\n")
        ),
        ends=False,
    ),
    Case(
        "progress without end",
        lambda run: (
            encode_frame(frames.Progress(id=run["id"], fraction=1e308, message="m" * 10_000))
            for _ in range(500)
        ),
        ends=False,
    ),
    Case(
        "progress in another's name",
        _once(encode_frame(frames.Progress(id=VICTIM, fraction=0.5))),
        ends=False,
    ),
    Case(
        "credit for what was never asked",
        _once(
            b"".join(
                encode_frame(frames.AskCredit(ask_id=n, until=2**62))
                + encode_frame(frames.AskDrop(ask_id=n))
                for n in range(5_000)
            )
        ),
        ends=False,
    ),
    Case(
        "negative credit",
        _once(encode_frame(frames.AskCredit(ask_id=-1, until=-(2**62)))),
        ends=False,
    ),
    Case("an error of nearly a mebibyte", _failed(message="m" * 900_000), ends=False, answers=True),
    Case(
        "an error with a traceback of nearly a mebibyte",
        _failed(traceback="t" * 900_000),
        ends=False,
        answers=True,
    ),
    Case(
        "an error with a million details",
        _failed(details={"x": list(range(100_000))}),
        ends=False,
        answers=True,
    ),
    Case(
        "an error with escapes and line breaks",
        _failed(type="X\r\n\x1b[2J", message="\x1b]52;c;aGk=\x07\r\nHTTP/1.1"),
        ends=False,
        answers=True,
    ),
    Case(
        "an error that says it is the platform's",
        _failed(code="platform.unavailable"),
        ends=False,
        answers=True,
    ),
    Case(
        "a run time that is no number",
        _own(
            lambda run: raw(
                json.dumps(
                    {
                        "type": "result",
                        "id": run["id"],
                        "index": 0,
                        "state": "succeeded",
                        "format": "json",
                        "run_ms": -1e308,
                        "items": -5,
                    }
                ).encode(),
                b"1",
            )
        ),
        ends=False,
        answers=True,
    ),
    Case(
        "a result that is no JSON although it says so",
        _own(lambda run: encode_frame(_result(run), b"\xff\x00not json")),
        ends=False,
        answers=True,
    ),
)


def _changed(seed: int) -> Bytes:
    """Honest frames with a few changes, and at last one that no reader takes."""

    def sends(run: dict[str, Any]) -> Iterator[bytes]:
        chance = random.Random(seed)
        honest = (
            frames.Log(stream="stdout", id=run["id"], at=1.5),
            frames.Progress(id=run["id"], fraction=0.5, message="half"),
            frames.Ask(ask_id=1, method="GET", path="/api/v1/queues/x", headers={"Ce-Id": "a"}),
            _result(run),
        )
        for _ in range(20):
            yield changed(chance, [encode_frame(one, b'{"a": 1}') for one in honest])
        # More than one frame may still wait for: what follows it is none.
        for _ in range(3):
            yield b"\xff" * MIB

    return sends


CASES += tuple(
    Case(f"honest frames, changed: {seed}", _changed(seed), somehow=True) for seed in range(CHANGED)
)


class HostileBackend(ScriptedBackend):
    """Runs a case in the containers named after its number, an honest echo in the others."""

    def __init__(self) -> None:
        super().__init__(echo)

    async def start(self, plan: Any) -> Any:
        kind, _, number = str(plan.container_id).partition("_")[2].partition("-")
        self.script = {"case": _hostile(int(number or 0)), "victim": _silent}.get(kind, echo)
        return await super().start(plan)


def _hostile(number: int) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.greet()
        run, _ = await peer.until("run")
        for data in CASES[number].sends(run):
            peer.send_raw(data)
        await _drained(peer)
        if not CASES[number].ends and not CASES[number].answers:
            peer.answer(run)
        await peer.until("never")

    return script


async def _drained(peer: Peer) -> None:
    try:
        await peer._writer.drain()
    except ConnectionError:
        return


async def _silent(peer: Peer) -> None:
    await peer.greet()
    run, _ = await peer.until("run")
    await peer.until("cancel")
    peer.answer(run, b'"its own"')
    await peer.until("never")


async def play(directory: Path) -> tuple[list[Found], list[Any]]:
    """Return what came of each case, and what others said in the victim's name."""
    with open_nats_server(directory / "nats") as server:
        async with open_bus(server.url, instance="test") as bus:
            await ensure_topology(bus, shards=1)
            rest = Rest(bus)
            await rest.open()
            async with open_worker(bus, directory / "worker", HostileBackend()):
                await rest.bound(container_id="ctr_echo")
                await rest.bound(container_id="ctr_victim")
                await rest.run(a_request(VICTIM), "ctr_victim")
                found = [await _made(rest, number) for number in range(len(CASES))]
                stolen = [*_outcomes(rest, VICTIM), *_lines(rest, VICTIM)]
                return found, stolen


async def _made(rest: Rest, number: int) -> Found:
    case, container, invocation = CASES[number], f"ctr_case-{number}", f"inv_case{number}"
    await rest.bound(container_id=container)
    await rest.run(a_request(invocation), container)
    await eventually(
        lambda: "failed" in rest.states(container) or _outcomes(rest, invocation),
        what=f"{case.name}: an end of the container, or an outcome",
    )
    if case.ends:
        await eventually(lambda: "failed" in rest.states(container), what=f"{case.name}: its end")
    await rest.run(a_request(f"inv_echo{number}"), "ctr_echo")
    await eventually(lambda: _outcomes(rest, f"inv_echo{number}"), what="the neighbour's answer")
    failed = "failed" in rest.states(container)
    violation = ""
    if failed:
        error = (await rest.change("failed", container)).error
        violation = str((error.details or {}).get("violation", "") if error else "")
    return Found(failed, violation, len(_outcomes(rest, invocation)), neighbour=True)


def _outcomes(rest: Rest, invocation: str) -> list[Any]:
    return [one for link in rest.links if link.invocation_id == invocation for one in link.outcomes]


def _lines(rest: Rest, invocation: str) -> list[Any]:
    return [
        line
        for segment in rest.logs
        if segment.container_id != "ctr_victim"
        for line in segment.lines
        if line.invocation_id == invocation
    ]


def run(directory: Path) -> tuple[list[Found], list[Any]]:
    """Play in a loop of its own."""
    directory.mkdir()
    return asyncio.run(play(directory))
