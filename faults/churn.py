"""Starts and stops containers in a row, and kills their worker in the middle: `just churn`.

    python -m faults.churn --starts 500 --kills 50 [--backend bwrap] [--network own]

One real worker on a real broker; this process plays placement. After every kill -9 and restart nothing
may be there of the containers from before; at the end nothing of the worker either.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, DeploymentId, WorkspaceId
from glowplug_contracts.messages.container import (
    BindContainer,
    BindReply,
    ContainerChanged,
    ContainerKind,
    ContainerSpec,
    ContainerState,
    StopContainer,
)
from glowplug_contracts.messages.deployment import Resources, SourceRef
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.subjects import BIND, CONTAINER, STOP, WORKER_BEAT
from glowplug_local.broker import FILE_STORE_BYTES
from glowplug_runtime.bus import Bus, Delivery
from glowplug_runtime.bus_nats import open_bus
from glowplug_runtime.topology import ensure_topology

from faults.fleet import die_with_us, find_nats_server, free_port
from faults.remains import Remains

AT_ONCE = 6
FUNCTIONS = 0.5  # the others are sandboxes
WITHIN_S = 60.0
POLL_S = 0.02
ENDS = {ContainerState.STOPPED, ContainerState.FAILED}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it."""

    starts: int
    kills: int
    backend: str = "auto"
    network: str = "auto"
    seed: int = 0


class Churn:
    """One run."""

    def __init__(self, asked: Asked, directory: Path) -> None:
        self.asked = asked
        self.directory = directory
        self.data = directory / "data" / "worker-churn"
        self.rng = random.Random(asked.seed)
        self.prefix = f"ctr_churn{os.urandom(4).hex()}"
        self.worker_id = f"churn-{os.urandom(3).hex()}"
        self.remains = Remains(self.data, self.worker_id, self.prefix)
        self.states: dict[str, ContainerState] = {}
        self.failures: list[str] = []
        self.problems: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.beats: list[WorkerBeat] = []
        self.ready = 0
        self.started_at = 0.0

    async def run(self) -> dict[str, Any]:
        """Do it; return what was found."""
        async with self._broker() as url, open_bus(url, instance="churn") as bus:
            await ensure_topology(bus, shards=1)
            await bus.listen(CONTAINER.pattern(), self._on_container)
            await bus.listen(WORKER_BEAT.pattern(), self._on_beat)
            self._start(url)
            try:
                await self._until(lambda: bool(self.beats), "the worker is there")
                await self._rounds(bus, url)
            finally:
                await self._stop()
        left = await self._settled(self.remains.of_all)
        if left:
            self.problems.append(f"left after the end: {left}")
        return {
            "starts": len(self.states),
            "ready": self.ready,
            "kills": self.asked.kills,
            "backend": self.beats[-1].backend if self.beats else "",
            "failed": self.failures,
            "left": self.problems,
        }

    async def _rounds(self, bus: Bus, url: str) -> None:
        every = max(1, self.asked.starts // (self.asked.kills + 1))
        number = 0
        for kill in range(self.asked.kills + 1):
            last = self.asked.starts if kill == self.asked.kills else (kill + 1) * every
            living: set[asyncio.Task[None]] = set()
            while number < last:
                number += 1
                living.add(asyncio.create_task(self._one(bus, f"{self.prefix}{number:06d}")))
                if len(living) >= AT_ONCE:
                    _, living = await asyncio.wait(living, return_when=asyncio.FIRST_COMPLETED)
            if kill == self.asked.kills:
                await asyncio.gather(*living)
                return
            await asyncio.sleep(self.rng.random() * 0.2)  # at any moment of their lives
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)
            await self._kill_and_restart(url)

    async def _one(self, bus: Bus, container_id: str) -> None:
        """Bind one, wait until it is ready, stop it, wait for its end."""
        spec = ContainerSpec(
            kind=ContainerKind.SANDBOX,
            workspace=WorkspaceId("default"),
            name="churn",
            resources=Resources(cpu_millis=10, memory_bytes=1 << 20, memory_limit_bytes=1 << 28),
        )
        if self.rng.random() < FUNCTIONS:
            # Of one deployment, whose code every Python has: after the first they come from a template.
            spec = msgspec.structs.replace(
                spec,
                kind=ContainerKind.FUNCTION,
                deployment_id=DeploymentId("dep_churn"),
                source=SourceRef(handler="json:dumps"),
            )
        self.states[container_id] = ContainerState.BOUND
        bind = BindContainer(container_id=ContainerId(container_id), generation=1, spec=spec)
        try:
            to = BIND.at(worker_id=self.worker_id)
            reply = await bus.request(to, bind, BindReply, timeout_s=WITHIN_S)
        except PlatformError as error:
            self.failures.append(f"{container_id}: {error}")
            return
        if not reply.accepted:
            self.failures.append(f"{container_id}: refused, {reply.reason}")
            return
        await self._until(
            lambda: self.states[container_id] in {ContainerState.READY, *ENDS}, container_id
        )
        self.ready += self.states[container_id] is ContainerState.READY
        stop = StopContainer(
            container_id=ContainerId(container_id),
            generation=1,
            grace_s=self.rng.choice([0.0, 1.0]),
            reason="churn",
        )
        await bus.send(STOP.at(worker_id=self.worker_id), stop)
        await self._until(lambda: self.states[container_id] in ENDS, f"the end of {container_id}")

    async def _kill_and_restart(self, url: str) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.beats.clear()
        self._start(url)
        await self._until(lambda: bool(self.beats), "the worker is there again")
        left = await self._settled(lambda: self.remains.of_containers(self._pid))
        if left:
            self.problems.append(f"left after a kill: {left}")

    @property
    def _pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def _start(self, url: str) -> None:
        env = {
            "GLOWPLUG_NATS_URL": url,
            "GLOWPLUG_INSTANCE": self.worker_id,
            "GLOWPLUG_WORKER_DATA_DIR": str(self.data),
            "GLOWPLUG_WORKER_BACKEND": self.asked.backend,
            "GLOWPLUG_WORKER_NETWORK": self.asked.network,
            "GLOWPLUG_WORKER_CPU": "64",
            "GLOWPLUG_WORKER_MEMORY": "64Gi",
        }
        self.started_at = time.time()
        with (self.directory / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "glowplug_worker"],
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_us(os.getpid()),  # noqa: PLW1509
            )

    async def _stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, WITHIN_S)
            except subprocess.TimeoutExpired:
                self.problems.append("the worker did not end when it was told to")
                self.process.kill()
                self.process.wait()

    @contextlib.asynccontextmanager
    async def _broker(self) -> AsyncIterator[str]:
        port, store = free_port(), self.directory / "nats"
        store.mkdir(parents=True)
        config = store / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\n'
            f'jetstream {{ store_dir: "{store}/js", max_file: {FILE_STORE_BYTES} }}\n',
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [find_nats_server(), "-c", str(config), "-l", str(store / "log")],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_us(os.getpid()),  # noqa: PLW1509
        )
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()

    async def _on_container(self, delivery: Delivery[ContainerChanged]) -> None:
        change = delivery.message
        if change is None or change.container_id not in self.states:
            return
        self.states[change.container_id] = change.state
        if change.state is ContainerState.FAILED:
            why = change.error.message if change.error else ""
            self.failures.append(f"{change.container_id}: {change.reason} {why}")

    async def _on_beat(self, delivery: Delivery[WorkerBeat]) -> None:
        # A last word of the one that was killed may come late.
        if delivery.message is not None and delivery.message.started_at >= self.started_at:
            self.beats.append(delivery.message)

    async def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {WITHIN_S:.0f} s")
            if self.process is not None and self.process.poll() is not None:
                log = (self.directory / "worker.log").read_text(encoding="utf-8")[-2000:]
                raise RuntimeError(f"the worker ended by itself: {log}")
            await asyncio.sleep(POLL_S)

    async def _settled(self, look: Callable[[], dict[str, list[str]]]) -> dict[str, list[str]]:
        """Return what is left once the kernel has had time to let go of what was killed."""
        deadline = time.monotonic() + 10.0
        while (left := look()) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        return left


def run(asked: Asked, directory: Path) -> dict[str, Any]:
    """Run it in a directory of its own; return the findings."""
    return asyncio.run(Churn(asked, directory).run())


def main() -> int:
    """Run as a command; 1 if anything was left."""
    parser = argparse.ArgumentParser(
        description="starts, stops and kills; then looks for leftovers"
    )
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--network", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glowplug-churn-") as directory:
        Path(directory).chmod(0o755)
        began = time.monotonic()
        found = run(Asked(**vars(options)), Path(directory))
        found["seconds"] = round(time.monotonic() - began, 1)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if found["left"] or found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
