"""The callers: durable tasks of several kinds, cancels, and interactive calls, over plain HTTP.

What the platform has acknowledged is written down the moment it is: that is what must not be lost. An answer
that did not come is asked for again with the same id, at the other gateway, as a careful client does.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import blake3
import msgspec

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
TRY_S = 15.0
AGAIN_S = 0.05
CANCEL_AGAIN_S = 1.0
MIB = 1024 * 1024
# kind -> (share, what its deployment is, arguments)
WEIGHTS = {
    "short": 0.955,
    "flaky": 0.015,
    "failing": 0.006,
    "slow": 0.012,
    "crash": 0.002,
    "poison": 0.0005,
    "late": 0.0015,
    "greedy": 0.008,
}
RETRIES = 2
LATE_S = 1.0
BATCHED = 0.03  # share of submissions that are a batch of short tasks
BATCH = 12
CANCELLED = 0.3  # share of slow tasks that somebody cancels
HANDLERS = {"call": "short"}
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "short": {
        "concurrent_requests": 8,
        "autoscaler": {"max_containers": 4, "tasks_per_container": 8},
    },
    "call": {"concurrent_requests": 4},
    "flaky": {"retry": {"max_retries": RETRIES, "delay_s": 0.05, "backoff": 2.0}},
    "slow": {
        "concurrent_requests": 4,
        "autoscaler": {"max_containers": 3, "tasks_per_container": 4},
    },
    "crash": {"autoscaler": {"max_containers": 2}},
    "late": {"timeout_s": LATE_S, "autoscaler": {"max_containers": 2}},
    "greedy": {
        "autoscaler": {"max_containers": 6},
        "resources": {
            "cpu_millis": 10,
            "memory_bytes": 64 * MIB,
            "gpus": ["A10G"],
            "gpu_count": 1,
        },
    },
}


class Load:
    """Callers that go on until they are told to stop, or have had `total` tasks accepted."""

    def __init__(
        self, gateways: list[str], token: str, directory: Path, seed: int, recorder: str
    ) -> None:
        self._gateways = gateways
        self.token = token
        self._headers = {"Authorization": f"Bearer {token}", "Glowplug-Format": "json"}
        self._chance = random.Random(f"load {seed}")
        self._recorder = recorder
        self._deployments: dict[str, str] = {}
        self._stored: set[str] = set()
        self._http: aiohttp.ClientSession
        self._accepted: TextIO = (directory / "accepted.jsonl").open("a", buffering=1)
        self._answers: TextIO = (directory / "answers.jsonl").open("a", buffering=1)
        self._turn = 0
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.names: set[str] = set()
        self.answered = 0
        self.asked = 0
        self.again: Counter[str] = Counter()
        self.stopping = False
        # How often the broker has lost what it keeps in memory only: interactive outcomes among it.
        self.epoch: Callable[[], int] = lambda: 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Load]:
        """Hold one session of connections."""
        timeout = aiohttp.ClientTimeout(total=TRY_S)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as self._http:
            try:
                yield self
            finally:
                await cancel_all(self._tasks)
                self._accepted.close()
                self._answers.close()

    async def deploy(self) -> None:
        """Make the deployments; asked again until they are."""
        for name, special in DEPLOYMENTS.items():
            await self.deploy_as(name, HANDLERS.get(name, name), special)

    async def deploy_as(self, name: str, handler: str, special: dict[str, Any]) -> None:
        """Make one deployment of a function of `work.py`."""
        source = _zipped(Path(__file__).with_name("work.py"))
        digest = blake3.blake3(source).hexdigest()
        if digest not in self._stored:
            await self.ask("PUT", f"/api/v1/blobs/{digest}", source)
            self._stored.add(digest)
        spec = {
            "name": f"campaign-{name}",
            "kind": "task_queue",
            "source": {"blob": digest, "handler": f"work:{handler}"},
            "resources": {"cpu_millis": 10, "memory_bytes": 64 * MIB},
            "timeout_s": 60.0,
            "env": {"CAMPAIGN_RECORDER": self._recorder},
            **special,
        }
        spec["autoscaler"] = {
            "max_containers": 2,
            "tasks_per_container": 1,
            "keep_warm_s": 20.0,
            **spec.get("autoscaler", {}),
        }
        while True:
            _, body = await self.ask("POST", "/api/v1/deployments", json.dumps(spec).encode())
            last = json.loads(body.decode().strip().splitlines()[-1])
            if last["event"] == "deployed":
                self._deployments[name] = last["deployment"]["deployment_id"]
                return
            await asyncio.sleep(AGAIN_S)

    async def submit(self, room: Callable[[], bool], total: int) -> None:
        """Submit until `total` are accepted or the load stops, while there is room for more."""
        while not self.stopping and self.asked < total:
            if not room():
                await asyncio.sleep(AGAIN_S)
                continue
            if self._chance.random() < BATCHED and self.asked + BATCH <= total:
                self.asked += BATCH
                await self._submit_batch()
            else:
                self.asked += 1
                await self._submit_one()

    async def call(self) -> None:
        """Make interactive calls one after the other until the load stops."""
        while not self.stopping:
            self._number += 1
            key, name = f"call-{self._number}", self.new_id()
            path = f"/api/v1/deployments/{self._deployments['call']}/call"
            body = json.dumps({"args": [key], "kwargs": {}}).encode()
            # Asked twice: the second answer must be the first.
            for _ in range(2 if self._chance.random() < 0.2 else 1):
                before = self.epoch()
                state, answer = await self.ask("POST", path, body, invocation=name)
                self._say(
                    self._answers,
                    id=name,
                    key=key,
                    epochs=[before, self.epoch()],
                    state=state,
                    answer=_shown(answer),
                )
            self.answered += 1
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    def deployment(self, name: str) -> str:
        """Return a deployment's id."""
        return self._deployments[name]

    def was_accepted(self, name: str, key: str, kind: str) -> None:
        """Write down a task that another caller has put."""
        self._note(name, key, kind)

    def _note(self, name: str, key: str, kind: str, *, cancelled: bool = False) -> None:
        self.accepted += 1
        self.names.add(name)
        self._say(self._accepted, id=name, key=key, kind=kind, cancelled=cancelled)

    async def submit_as(self, deployment: str, arguments: list[object]) -> str:
        """Submit one task; return its id when it is accepted."""
        name = self.new_id()
        path = f"/api/v1/deployments/{self._deployments[deployment]}/spawn"
        body = json.dumps({"args": arguments, "kwargs": {}}).encode()
        await self.ask("POST", path, body, invocation=name)
        return name

    async def _submit_one(self) -> None:
        kind = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self._number += 1
        key, name = f"{kind}-{self._number}", self.new_id()
        deployment, arguments = self._what(kind, key)
        path = f"/api/v1/deployments/{self._deployments[deployment]}/spawn"
        body = json.dumps({"args": arguments, "kwargs": {}}).encode()
        await self.ask("POST", path, body, invocation=name)
        cancelled = kind == "slow" and self._chance.random() < CANCELLED
        self._note(name, key, kind, cancelled=cancelled)
        if cancelled:
            task = asyncio.create_task(self._cancel(name, self._chance.uniform(0, 1.5)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _submit_batch(self) -> None:
        """Submit short tasks together; what was refused of them is asked for again, under its id."""
        left = {}
        for _ in range(BATCH):
            self._number += 1
            left[self.new_id()] = f"short-{self._number}"
        path = f"/api/v1/deployments/{self._deployments['short']}/spawn-many"
        while left:
            puts = [
                {
                    "invocation_id": name,
                    "args": {
                        "format": "json",
                        "data": json.dumps({"args": [key], "kwargs": {}}).encode(),
                    },
                }
                for name, key in left.items()
            ]
            _, body = await self.ask("POST", path, msgspec.msgpack.encode({"puts": puts}))
            for put, told in zip(puts, json.loads(body)["tasks"], strict=True):
                if "task_id" in told:
                    name = str(put["invocation_id"])
                    self._note(name, left.pop(name), "short")
            if left:
                await asyncio.sleep(AGAIN_S)

    async def _cancel(self, name: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.ask("DELETE", f"/tasks/{name}")

    def _what(self, kind: str, key: str) -> tuple[str, list[object]]:
        chance = self._chance
        match kind:
            case "flaky":
                return "flaky", [key, chance.randint(1, RETRIES)]
            case "failing":
                return "flaky", [key, 99]
            case "slow":
                return "slow", [key, round(chance.uniform(0.1, 2.0), 2)]
            case "crash":
                return "crash", [key, 1]
            case "poison":
                return "crash", [key, 99]
            case "greedy":
                return "greedy", [key, 0.05]
        return kind, [key]

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        invocation: str = "",
        *,
        kind: str = "",
        write: bool = False,
    ) -> tuple[str, bytes]:
        """Ask until there is an answer that is one; return the call's state and the body.

        `kind` is the body's content type; `write` names the write, so that a repeat is the same one.
        """
        headers = dict(self._headers)
        if invocation:
            headers["Glowplug-Invocation-Id"] = invocation
        if kind:
            headers["Content-Type"] = kind
        if write:
            headers["Glowplug-Write-Id"] = self.new_id()
        while True:
            url = self._gateways[self._turn % len(self._gateways)]
            self._turn += 1
            try:
                async with self._http.request(
                    method, url + path, data=body, headers=headers
                ) as answer:
                    said = await answer.read()
                    if answer.status < 300:
                        return answer.headers.get("Glowplug-State", ""), said
                    if answer.status not in (429, 499, 500, 502, 503, 504):
                        raise RefusedError(f"{method} {path}: {answer.status} {said[:300]!r}")
                    self.again[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.again[type(error).__name__] += 1
            await asyncio.sleep(AGAIN_S)

    def new_id(self) -> str:
        """Return a fresh invocation's id."""
        number = (int(time.time() * 1000) << 80) | self._chance.getrandbits(80)
        return "inv_" + "".join(CROCKFORD[(number >> at) & 31] for at in range(125, -1, -5))

    @staticmethod
    def _say(file: TextIO, **fields: object) -> None:
        file.write(json.dumps(fields | {"at": time.time()}) + "\n")


class RefusedError(Exception):
    """The platform refused for good what it must take."""


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are gone: a cancel that meets the break of a connection may be taken for it."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


def _zipped(file: Path) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo(file.name, (1980, 1, 1, 0, 0, 0)), file.read_text())
    return target.getvalue()


def _shown(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
