"""Doing a fault to a fleet, at its moment, and making it good again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

import msgspec

from faults.fleet import Fleet
from faults.load import Load
from faults.nats import Broker
from faults.nodes import cut_off, lose_disk, lose_host
from faults.plan import Fault
from faults.processes import descendants, name_of
from faults.storage import dragged, fill_for, start_again
from faults.watch import Watcher

MOMENT_S = 6.0
WORKS_AGAIN_S = 30.0
WORKING = 10  # ends after a fault that say: it works again
# Garbage goes where a broken or hostile holder of a credential could send it.
POISONED = (
    "v1.call.0.default.inv_00000000000000000000000000",
    "v1.record.0.default.inv_{poison}",
    "v1.outcome.0.default.inv_00000000000000000000000000",
    "v1.dispatch.0.ended",
    "v1.dispatch.0.refused",
    "v1.dispatch.0.cancel",
    "v1.dispatch.0.probe",
    "v1.worker.worker-0.run",
    "v1.worker.worker-0.bind",
    "v1.worker.worker-0.stop",
    "v1.worker.worker-0.exec",
    "v1.worker.worker-1.cancel",
    "v1.shard.0.owned",
    "v1.backlog.dep_00000000000000000000000000",
    "v1.fact.worker-0",
    "v1.scale.dep_00000000000000000000000000",
    "v1.container.dep_0.ctr_0",
    "v1.placement.ctr_0",
    "v1.beat.worker.worker-0",
    "v1.beat.service.gateway.gateway-0",
    "v1.reply.gateway-0.inv_00000000000000000000000000",
    "v1.image.ensure",
    "v1.sandbox.create",
    "v1.sandbox.command",
    "v1.log.default.dep_0.ctr_0",
    "v1.span.gateway",
)
GARBAGE = (
    b"",
    b"\x00\xff\x13garbage",
    b"{}",
    b"[" * 2000,
    b'{"state":"running","attempt":-1}',
    b"\x81",
)


class Actor:
    """Does faults, and writes down each with its time."""

    def __init__(
        self,
        fleet: Fleet,
        broker: Broker,
        watcher: Watcher,
        load: Load,
        log: Path,
        seed: int,
        header: Any,
    ) -> None:
        self._fleet = fleet
        self._broker = broker
        self._watcher = watcher
        self._load = load
        self._chance = random.Random(f"act {seed}")
        self._started = time.monotonic()
        self._log = log.open("a", buffering=1)
        self.kills: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.back_s: list[tuple[float, str]] = []
        self.links: list[IO[bytes]] = []
        self.link_s = 0.0
        self.islands: dict[int, list[IO[bytes]]] = {}
        self.disk: Path | None = None
        # Which parts were killed at which moments: "gateway @ accepted".
        self.points: set[str] = set()
        self._say("campaign", **header)

    async def do(self, fault: Fault) -> None:
        """Wait for the fault's moment, strike, and start again what was struck."""
        await asyncio.sleep(fault.gap_s)
        met = await self._watcher.moment(fault.moment, MOMENT_S)
        self._say("fault", fault=msgspec.to_builtins(fault), moment_met=met)
        before = len(self._watcher.ended)
        await self._strike(fault, met=met)
        self.done[fault.kind] += 1
        struck = time.monotonic()
        # It works again: tasks end. (When nothing is left to end, nothing can be seen.)
        while (
            len(self._watcher.ended) < min(before + WORKING, self._load.accepted)
            and time.monotonic() - struck < WORKS_AGAIN_S
        ):
            await asyncio.sleep(0.05)
        back = time.monotonic() - struck
        self.back_s.append((back, "+".join(fault.targets) or fault.kind))
        self._say("back", number=fault.number, seconds=round(back, 3))

    async def _strike(self, fault: Fault, *, met: bool) -> None:
        match fault.kind:
            case "kill":
                killed = await self._kill(fault)
                if met and fault.moment:
                    self.points |= {f"{part} @ {fault.moment}" for part in killed}
            case "pause" | "freeze":
                await self._pause(fault)
            case "poison":
                self._poison()
            case "cut" | "hold" | "swallow" | "delay":
                await self._link(fault)
            case "slow":
                await self._slow(fault)
            case "clock":
                await self._clock(fault)
            case _:
                await self._strike_node(fault)

    async def _strike_node(self, fault: Fault) -> None:
        """Strike a disk, a broker of several, or a host."""
        match fault.kind:
            case "stepdown":
                await self._broker.api("STREAM.LEADER.STEPDOWN.RECORDS_0", {})
            case "full" if self.disk is not None:
                await fill_for(self.disk, fault.down_s)
                start_again(self._fleet)
                self.kills["broker"] += len(self._fleet.of("broker"))
            case "drag" if self.disk is not None:
                with dragged(self.disk):
                    await asyncio.sleep(fault.down_s)
            case "lose":
                self.kills["broker"] += 1
                whole = await lose_disk(self._fleet, self._broker, fault.targets[0], fault.down_s)
                self._say("caught up", broker=fault.targets[0], whole=whole)
            case "host":
                number = int(fault.targets[0].rpartition("-")[2])
                for part in await lose_host(self._fleet, number, fault.down_s):
                    self.kills[part.name.rpartition("-")[0]] += 1
            case "island":
                await cut_off(self.islands[int(fault.targets[0].rpartition("-")[2])], fault.down_s)

    async def _kill(self, fault: Fault) -> set[str]:
        """Kill, and start again what is a process of ours; return what was there to be killed."""
        restart, killed = [], set()
        for target in fault.targets:
            if "@" in target:
                if self._kill_inside(target):
                    self.kills[target.partition("@")[0]] += 1
                    killed.add(target.partition("@")[0])
                continue
            part = self._fleet.parts[target]
            part.kill()
            restart.append(part)
            self.kills[target.rpartition("-")[0]] += 1
            killed.add(target.rpartition("-")[0])
        if restart:
            await asyncio.sleep(fault.down_s)
        for part in restart:
            part.start()
        return killed

    def _kill_inside(self, target: str) -> bool:
        """Kill a runner (Python in a container) or a container (its first process)."""
        what, _, worker = target.partition("@")
        below = descendants(self._fleet.parts[worker].pid)
        names = {pid: name_of(pid) for pid in below}
        container = [pid for pid, name in names.items() if "bwrap" in name.split(" ")[0]]
        runner = [pid for pid, name in names.items() if "boot.py" in name and "bwrap" not in name]
        found = container if what == "container" and container else runner
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(sorted(found)), signal.SIGKILL)
        return True

    async def _pause(self, fault: Fault) -> None:
        parts = [self._fleet.parts[name] for name in fault.targets if "@" not in name]
        for part in parts:
            part.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.down_s)
        for part in parts:
            part.signal(signal.SIGCONT)

    async def _link(self, fault: Fault) -> None:
        seconds = fault.value if fault.kind in ("delay", "swallow") else fault.down_s
        self._order(f"{fault.kind} {seconds}")
        await asyncio.sleep(fault.down_s)
        if fault.kind == "delay":
            self._order(f"delay {self.link_s}")

    def _order(self, order: str) -> None:
        for link in self.links:
            link.write(order.encode() + b"\n")
            link.flush()

    async def _slow(self, fault: Fault) -> None:
        """Let the brokers run a fifth of the time, as on a disk that hardly moves."""
        until = time.monotonic() + fault.down_s
        parts = self._fleet.of("broker")
        while time.monotonic() < until:
            for part in parts:
                part.signal(signal.SIGSTOP)
            await asyncio.sleep(0.2)
            for part in parts:
                part.signal(signal.SIGCONT)
            await asyncio.sleep(0.05)

    async def _clock(self, fault: Fault) -> None:
        for name in fault.targets:
            self._fleet.set_clock(name, fault.value)
        await asyncio.sleep(fault.down_s)
        for name in fault.targets:
            self._fleet.set_clock(name, 0)

    def _poison(self) -> None:
        letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
        poison = "".join(self._chance.choices(letters, k=26))
        for subject in POISONED:
            self._broker.publish(
                subject.format(poison=poison), self._chance.choice(GARBAGE), reply=""
            )

    def note(self, event: str, **fields: Any) -> None:
        """Write down something else."""
        self._say(event, **fields)

    def close(self) -> None:
        """End the log."""
        self._log.close()

    def _say(self, event: str, **fields: Any) -> None:
        offset = round(time.monotonic() - self._started, 3)
        self._log.write(json.dumps({"event": event, "offset_s": offset, **fields}) + "\n")
