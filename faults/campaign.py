"""One slice of the campaign: a fresh platform, load and faults side by side, rest, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import aiohttp
import msgspec

from faults.act import Actor
from faults.checker import Evidence, Verdict, check
from faults.disk import a_disk
from faults.fleet import TOKEN, Fleet
from faults.leftovers import Census
from faults.links import Links, a_link, open_recorder, spread_out
from faults.load import Load
from faults.nats import Broker
from faults.nodes import behind, caught_up
from faults.others import Others
from faults.plan import CUTS, DISK, Fault
from faults.storage import SIZE_MIB
from faults.watch import Watcher, read_records

READY_S = 90.0
REST_S = 150.0
CENSUS_S = 0.5
CALLERS = 3
SUBMITTERS = 24
OUTSTANDING_MAX = 1500
# Of two shards the workspace "default" is in one, and this one is in the other.
OTHER_WORKSPACE = "other"
OTHER_TOKEN = "gp_campaign_other"


class Slice(msgspec.Struct, kw_only=True):
    """What one slice is asked for."""

    seed: int
    tasks: int
    plan: list[Fault]
    brokers: int = 1
    limit_s: float = 420.0
    link_ms: float = 0.0
    spread: bool = False
    shards: int = 1
    others: bool = True


async def run_slice(asked: Slice, directory: Path) -> dict[str, Any]:
    """Run one slice in `directory`; return its result line."""
    directory.mkdir(parents=True, exist_ok=True)
    census = Census(directory)
    started = time.monotonic()
    kinds = {fault.kind for fault in asked.plan}
    async with contextlib.AsyncExitStack() as stack:
        store = None
        if kinds & set(DISK):
            store = stack.enter_context(a_disk(directory, SIZE_MIB)).mount
        links: Links = []
        spread, address = None, "127.0.0.1"
        islands: dict[int, list[IO[bytes]]] = {}
        if asked.spread:
            spread, address, links, islands = spread_out(stack)
        recorder = await stack.enter_async_context(
            open_recorder(directory / "effects.jsonl", address)
        )
        fleet = Fleet(
            directory,
            brokers=asked.brokers,
            store=store,
            data=store / "data" if store else None,
            clocks="clock" in kinds,
            spread=spread,
            shards=asked.shards,
        )
        if spread is None and (asked.link_ms or kinds & set(CUTS)):
            links = [stack.enter_context(a_link(url)) for url in fleet.direct.split(",")]
            fleet.tell_broker(",".join(f"nats://127.0.0.1:{port}" for port, _ in links))
        stack.callback(fleet.kill)
        fleet.start()
        broker = await stack.enter_async_context(Broker(fleet.direct, *fleet.tap).open())
        watcher = Watcher(broker, directory, asked.shards)
        await await_healthy(fleet)
        counting = asyncio.create_task(_keep_counting(census, fleet))
        watching = asyncio.create_task(watcher.keep())
        load = Load(fleet.gateways, TOKEN, directory, asked.seed, recorder)
        header = {"seed": asked.seed, "tasks": asked.tasks, "brokers": asked.brokers}
        actor = Actor(fleet, broker, watcher, load, directory / "log.jsonl", asked.seed, header)
        actor.links = [orders for _, orders in links]
        actor.link_s = asked.link_ms / 2000  # each way
        actor.disk, actor.islands = store, islands
        for _, orders in links:
            orders.write(f"delay {actor.link_s}\n".encode())
            orders.flush()
        load.epoch = lambda: actor.kills["broker"]
        loads = [load]
        if asked.shards > 1:
            _another_workspace(broker, OTHER_TOKEN)
            loads.append(Load(fleet.gateways, OTHER_TOKEN, directory, -asked.seed - 1, recorder))
            loads[1].epoch = load.epoch
        async with contextlib.AsyncExitStack() as opened:
            for one in loads:
                await opened.enter_async_context(one.open())
                await one.deploy()
            others = Others(load, directory, asked.seed, fleet.doors) if asked.others else None
            if others:
                await others.deploy()
            callers = Callers(loads, others, watcher)
            faults = await _load_and_faults(asked, callers, actor)
            resting = time.monotonic()
            rested = await _rest(callers)
            rest_s = time.monotonic() - resting
            if others:
                await others.settle(directory / "effects.jsonl")
        # Who was killed last sweeps up after itself as it starts.
        await await_healthy(fleet)
        async with asyncio.timeout(READY_S):
            while not all(worker.ready for worker in fleet.of("worker")):
                await asyncio.sleep(0.1)
        for task in (counting, watching):
            watcher.flush()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        lacking = [] if await caught_up(broker) else await behind(broker)
        records = await read_records(broker, asked.shards, note=actor.note)
        census.mark = fleet.mark
        census.count([part.pid for part in fleet.parts.values() if part.pid])
        await asyncio.to_thread(fleet.stop)
        actor.close()
    seconds = time.monotonic() - started
    verdict = check(evidence_of(directory, records, census.left(), lacking))
    return _result(asked, verdict, actor, load, watcher, faults, seconds, rest_s, rested)


class Callers:
    """All who want something of the platform: one load for each shard, with a workspace in each."""

    def __init__(self, loads: list[Load], others: Others | None, watcher: Watcher) -> None:
        self.loads = loads
        self._others = others
        self._watcher = watcher
        self._open = 0
        self._counted = 0.0

    @property
    def accepted(self) -> int:
        """Return how many tasks the platform has accepted."""
        return sum(load.accepted for load in self.loads)

    def open(self, every_s: float = 0.2) -> int:
        """Return how many accepted tasks have not been seen to end, as counted lately."""
        now = time.monotonic()
        if now - self._counted >= every_s:
            self._counted = now
            self._open = sum(len(load.names - self._watcher.ended) for load in self.loads)
        return self._open

    def stop(self) -> None:
        """Let everybody come to an end."""
        for load in self.loads:
            load.stopping = True

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start those who go on until they are stopped."""
        started = [group.create_task(load.call()) for load in self.loads for _ in range(CALLERS)]
        return started + ([group.create_task(self._others.run())] if self._others else [])


async def _load_and_faults(asked: Slice, callers: Callers, actor: Actor) -> int:
    """Run both until all tasks are accepted and all faults done, or the time is over."""
    deadline = time.monotonic() + asked.limit_s
    each = asked.tasks // len(callers.loads)
    done = 0

    async def faults() -> None:
        nonlocal done
        for fault in asked.plan:
            if time.monotonic() > deadline:
                return
            await actor.do(fault)
            done += 1

    def room() -> bool:
        # The tasks are to last as long as the faults, and never to pile up.
        share = 1.0 if faulting.done() else (done + 1) / (len(asked.plan) + 1)
        asked_for = sum(load.asked for load in callers.loads)
        return asked_for <= asked.tasks * share and callers.open() < OUTSTANDING_MAX

    async with asyncio.TaskGroup() as group:
        faulting = group.create_task(faults())
        calling = callers.start(group)
        submitting = [
            group.create_task(load.submit(room, each))
            for load in callers.loads
            for _ in range(SUBMITTERS // len(callers.loads))
        ]
        await faulting
        await asyncio.gather(*submitting)
        callers.stop()
        await asyncio.gather(*calling)
    return done


async def _rest(callers: Callers) -> bool:
    """Wait until every accepted task has ended; False if some have not in time."""
    deadline = time.monotonic() + REST_S
    while time.monotonic() < deadline:
        if not callers.open():
            return True
        await asyncio.sleep(0.2)
    return False


def _another_workspace(broker: Broker, token: str) -> None:
    """Make a token of a second workspace known, as an operator does: its hash is the key."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    value = {"workspace": OTHER_WORKSPACE, "name": "other"}
    broker.publish(f"$KV.tokens.{digest}", json.dumps(value).encode())


def evidence_of(
    directory: Path, records: dict[str, dict[str, Any]], left: list[str], behind: list[str]
) -> Evidence:
    """Return what a slice wrote down, with what was read of its records and what it left."""

    def lines(name: str) -> list[Any]:
        file = directory / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return Evidence(
        accepted=lines("accepted.jsonl"),
        answers=lines("answers.jsonl"),
        effects=lines("effects.jsonl"),
        history=lines("history.jsonl"),
        records=records,
        beats=lines("beats.jsonl"),
        others=lines("others.jsonl"),
        left=left,
        behind=behind,
    )


def _result(
    asked: Slice,
    verdict: Verdict,
    actor: Actor,
    load: Load,
    watcher: Watcher,
    faults: int,
    seconds: float,
    rest_s: float,
    rested: bool,  # noqa: FBT001
) -> dict[str, Any]:
    back = sorted(actor.back_s)
    return {
        "seed": asked.seed,
        "brokers": asked.brokers,
        "shards": asked.shards,
        "seconds": round(seconds, 1),
        "faults": faults,
        "kills": dict(actor.kills),
        "kills_total": sum(actor.kills.values()),
        "kinds": dict(actor.done),
        "moments": watcher.moments_hit,
        "points": sorted(actor.points),
        "asked_again": dict(load.again),
        "rest_s": round(rest_s, 1),
        "rested": rested,
        "works_again_p50_s": round(back[len(back) // 2][0], 2) if back else None,
        "works_again_max_s": round(back[-1][0], 2) if back else None,
        "works_again_slowest": [[round(s, 1), what] for s, what in back[-3:]],
        **verdict.figures,
        "violations": verdict.violations[:50],
        "violations_total": len(verdict.violations),
    }


async def await_healthy(fleet: Fleet) -> None:
    """Wait until every gateway says that every part is well."""
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as http:
        for url in fleet.gateways:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
                    async with http.get(f"{url}/health") as answer:
                        if (await answer.json())["status"] == "ok":
                            break
                await asyncio.sleep(0.05)


async def _keep_counting(census: Census, fleet: Fleet) -> None:
    while True:
        pids: Sequence[int] = [part.pid for part in fleet.parts.values() if part.pid]
        await asyncio.to_thread(census.count, list(pids))
        await asyncio.sleep(CENSUS_S)
