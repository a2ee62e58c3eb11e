"""The other callers: compositions, events, schedules, maps, and tasks put over gRPC.

As with the tasks of `load.py`, what was acknowledged is written down the moment it is, and what has no answer is
asked for again with the same name. `checks.py` says what must have become of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
from pathlib import Path
from typing import Any

import msgspec

from faults.checks import HANDLED_BY
from faults.load import Load, RefusedError

TICK_EVERY = "every 2s"
MEMBERS = (1, 3)
PAUSE_S = (0.05, 0.3)
COUNTERS = 4
REST_S = 60.0
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "evented": {
        "kind": "on_event",
        "trigger": {"patterns": ["campaign.*"]},
        "concurrent_requests": 4,
    },
    "batched": {
        "kind": "on_event",
        "trigger": {"patterns": ["campaign.*"], "batch": 8, "window_s": 0.2},
        "concurrent_requests": 2,
    },
    "tick": {"kind": "schedule", "schedule": {"when": TICK_EVERY, "catch_up": "all"}},
}


class Others:
    """Callers that go on until the load stops."""

    def __init__(self, load: Load, directory: Path, seed: int, doors: list[str]) -> None:
        self._load = load
        self._chance = random.Random(f"others {seed}")
        self._doors = doors
        self._number = 0
        self._sent: list[str] = []
        self._said = (directory / "others.jsonl").open("a", buffering=1)

    async def deploy(self) -> None:
        """Make the deployments that events and time call."""
        for name, special in DEPLOYMENTS.items():
            await self._load.deploy_as(name, name, special)

    async def run(self) -> None:
        """Do all of it, side by side, until the load stops."""
        async with asyncio.TaskGroup() as group:
            for caller in (self._compose, self._send_events, self._add, self._race, self._put):
                group.create_task(caller())

    async def settle(self, effects: Path) -> None:
        """Wait until every event was handled, and write down what the maps hold at the end."""
        deadline = asyncio.get_running_loop().time() + REST_S
        while asyncio.get_running_loop().time() < deadline:
            text = effects.read_text()
            if all(text.count(f'"event": "{name}"') >= len(HANDLED_BY) for name in self._sent):
                break
            await asyncio.sleep(0.5)
        for key in range(COUNTERS):
            _, held = await self._load.ask("GET", f"/api/v1/maps/counts/item?key=c{key}")
            self._say("count", key=f"c{key}", held=json.loads(held))
        for key in range(1, self._number + 1):
            _, held = await self._load.ask("GET", f"/api/v1/maps/races/item?key=r{key}")
            self._say("holds", key=f"r{key}", holds=held.decode())
        self._said.close()

    async def _compose(self) -> None:
        """Chains and chords: some tasks, one that waits for all of them, one that waits for that one."""
        load = self._load
        while not load.stopping:
            members = [load.new_id() for _ in range(self._chance.randint(*MEMBERS))]
            joined, last = load.new_id(), load.new_id()
            after: dict[str, list[str]] = {name: [] for name in members}
            after |= {joined: members, last: [joined]}
            tasks = [
                {
                    "task_id": name,
                    "deployment_id": load.deployment("short"),
                    "format": "json",
                    "args": base64.b64encode(_arguments(f"composed-{name}")).decode(),
                    "after": waits_for,
                }
                for name, waits_for in after.items()
            ]
            body = json.dumps({"tasks": tasks}).encode()
            await load.ask("POST", "/api/v1/compositions", body)
            for name, waits_for in after.items():
                load.was_accepted(name, f"composed-{name}", "short")
                self._say("composed", id=name, after=waits_for)
            await self._pause()

    async def _send_events(self) -> None:
        """Events, each perhaps sent again although it was accepted: it is one event all the same."""
        while not self._load.stopping:
            name = f"event-{self._chance.getrandbits(60):x}"
            event = {
                "specversion": "1.0",
                "id": name,
                "source": "/campaign",
                "type": f"campaign.{self._chance.choice('ab')}",
                "data": {"n": 1},
            }
            for _ in range(2 if self._chance.random() < 0.2 else 1):
                await self._load.ask("POST", "/events", json.dumps(event).encode(), kind=EVENT_TYPE)
            self._say("event", event=name)
            self._sent.append(name)
            await self._pause()

    async def _add(self) -> None:
        """Add to numbers: one writer each, so that the sum is known to the last one."""
        while not self._load.stopping:
            key, by = f"c{self._chance.randrange(COUNTERS)}", self._chance.randint(1, 9)
            path = f"/api/v1/maps/counts/add?key={key}"
            await self._load.ask("POST", path, json.dumps({"by": by}).encode(), write=True)
            self._say("added", key=key, by=by)
            await self._pause()

    async def _race(self) -> None:
        """Two write the same key where there must be none: one of them only is told that it did."""
        while not self._load.stopping:
            self._number += 1
            key = f"r{self._number}"
            path = f"/api/v1/maps/races/item?key={key}&absent=1"

            async def write(value: str, key: str = key, path: str = path) -> None:
                _, said = await self._load.ask("PUT", path, value.encode(), write=True)
                self._say("race", key=key, value=value, stored=json.loads(said)["stored"])

            await asyncio.gather(write("one"), write("other"))
            await self._pause()

    async def _put(self) -> None:
        """Tasks over gRPC, by a client that is made from what the server tells of itself (`rpc.py`)."""
        load = self._load
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "faults.rpc", load.token, *self._doors),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            while not load.stopping:
                name = load.new_id()
                task = {
                    "deployment": load.deployment("short"),
                    "arguments_json": json.dumps({"key": f"rpc-{name}"}),
                    "invocation_id": name,
                }
                client.stdin.write(json.dumps(task).encode() + b"\n")
                if not await client.stdout.readline():
                    raise RefusedError(f"a task over gRPC: {client.returncode}")
                load.was_accepted(name, f"rpc-{name}", "short")
                await self._pause()
        finally:
            client.stdin.close()
            await client.wait()

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*PAUSE_S))

    def _say(self, what: str, **fields: object) -> None:
        self._said.write(json.dumps({"what": what} | fields) + "\n")


EVENT_TYPE = "application/cloudevents+json"


def _arguments(key: str) -> bytes:
    return msgspec.json.encode({"args": [key], "kwargs": {}})
