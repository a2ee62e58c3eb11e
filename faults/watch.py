"""The watcher: follows every stored write of the records, beats of workers, and waits for moments.

Its consumer sees each write as the broker stores it; a write that another one replaced before it was
sent to us leaves a hole in the sequence, which is counted, never guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from faults.nats import Broker
from faults.plan import FIRST_RUNNING, MOMENTS

TERMINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "expired", "dead"})
QUIET_S = 5.0
NS = 1_000_000_000
READ_S = 30.0
Note = Callable[..., None]


class Watcher:
    """See the module."""

    def __init__(self, broker: Broker, directory: Path, shards: int = 1) -> None:
        self._broker = broker
        self._file = (directory / "history.jsonl").open("a")
        self._shards = shards
        self._last: dict[int, int] = {}
        self._delivered: dict[int, int] = {}
        self._subs: dict[int, int] = {}
        self._heard_at: dict[int, float] = {}
        self._inboxes: dict[int, str] = {}
        self._doubted: set[int] = set()
        self.writes = 0
        self.ended: set[str] = set()
        self.ended_at = 0.0
        self.seen: set[str] = set()
        self.moments_hit: dict[str, int] = {}
        self.beats: list[dict[str, Any]] = []
        self._beat_file = (directory / "beats.jsonl").open("a")

    async def keep(self) -> None:
        """Follow until cancelled."""
        self._broker.subscribe("v1.beat.worker.>", self._on_beat)
        self._broker.on_connected.append(lambda: self._doubted.update(range(self._shards)))
        try:
            while True:
                for shard in range(self._shards):
                    quiet_s = time.monotonic() - self._heard_at.get(shard, 0.0)
                    if shard in self._doubted or quiet_s > QUIET_S:
                        self._doubted.discard(shard)
                        await self._follow(shard)
                await asyncio.sleep(0.2)
        finally:
            self.close()

    async def _follow(self, shard: int) -> None:
        if shard in self._subs:
            self._broker.unsubscribe(self._subs[shard])
        inbox = self._inboxes[shard] = f"_INBOX_campaign.follow.{time.monotonic_ns()}"
        self._subs[shard] = self._broker.subscribe(
            inbox, lambda *m: self._on_record(shard, inbox, *m)
        )
        config: dict[str, object] = {
            "deliver_subject": inbox,
            "ack_policy": "none",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": 2 * NS,
            "inactive_threshold": 10 * NS,
            "max_deliver": 1,
        }
        last = self._last.get(shard, 0)
        config |= (
            {"deliver_policy": "by_start_sequence", "opt_start_seq": last + 1}
            if last
            else {"deliver_policy": "all"}
        )
        self._heard_at[shard] = time.monotonic()
        self._delivered[shard] = 0
        body = {"stream_name": f"RECORDS_{shard}", "config": config}
        await self._broker.api(f"CONSUMER.CREATE.RECORDS_{shard}", body)

    def _on_record(
        self,
        shard: int,
        inbox: str,
        subject: str,
        reply: str,
        headers: dict[str, str],
        _data: bytes,
    ) -> None:
        self._heard_at[shard] = time.monotonic()
        if headers.get("Status"):
            return
        tokens = reply.split(".")
        first = 5 if len(tokens) == 9 else 7
        sequence, delivered = int(tokens[first]), int(tokens[first + 1])
        if sequence <= self._last.get(shard, 0) or inbox != self._inboxes[shard]:
            return
        if delivered != self._delivered[shard] + 1:
            # Some were lost with a connection: what follows them must not hide them.
            self._doubted.add(shard)
            return
        self._delivered[shard] = delivered
        self._last[shard] = sequence
        name = subject.rpartition(".")[2]
        state = headers.get("Glowplug-State", "")
        self.writes += 1
        self.seen.add(name)
        if state in TERMINAL:
            self.ended.add(name)
            self.ended_at = time.monotonic()
        expected = int(headers.get("Nats-Expected-Last-Subject-Sequence") or -1)
        attempt, lost = headers.get("Glowplug-Attempt", ""), headers.get("Glowplug-Lost", "")
        self._file.write(
            json.dumps([shard, sequence, name, state, attempt, lost, expected, time.time()]) + "\n"
        )

    def _on_beat(self, _subject: str, _reply: str, _headers: dict[str, str], data: bytes) -> None:
        try:
            beat = msgspec.json.decode(data)
            json.dumps(beat["worker_id"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return  # a poison message of ours
        self._beat_file.write(json.dumps(beat | {"heard_at": time.time()}) + "\n")

    async def moment(self, name: str, within_s: float) -> bool:
        """Wait until a step of the journey is taken; False if it was not within the time."""
        if not name:
            return True
        subject, state = MOMENTS[name]
        seen = asyncio.Event()

        def heard(_s: str, _r: str, headers: dict[str, str], data: bytes) -> None:
            said = headers.get("Glowplug-State")
            if state == FIRST_RUNNING:
                first = headers.get("Nats-Expected-Last-Subject-Sequence") == "0"
                if said == "running" and first:
                    seen.set()
            elif not state or said == state or (said is None and _state_in(data) == state):
                seen.set()

        number = self._broker.subscribe(subject, heard)
        try:
            async with asyncio.timeout(within_s):
                await seen.wait()
        except TimeoutError:
            return False
        finally:
            self._broker.unsubscribe(number)
        self.moments_hit[name] = self.moments_hit.get(name, 0) + 1
        return True

    def flush(self) -> None:
        """Put on disk what was heard."""
        self._file.flush()
        self._beat_file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()
        self._beat_file.close()


def _state_in(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data).get("state", ""))
    except (msgspec.MsgspecError, AttributeError):
        return ""


async def read_records(
    broker: Broker, shards: int = 1, note: Note = lambda _event, **_: None
) -> dict[str, dict[str, Any]]:
    """Return the last record of every invocation, read from the stream as it lies there.

    It is read as the dispatcher reads it (last per subject) and, where that is not all the stream says it
    has, from the first message on; a difference between the two is noted, it would be the broker's.
    """
    found: dict[str, dict[str, Any]] = {}
    for shard in range(shards):
        info = await broker.api(f"STREAM.INFO.RECORDS_{shard}")
        there = int(info["state"]["messages"])
        for policy in ("last_per_subject", "all"):
            read = await _read(broker, shard, policy) if there else {}
            if len(read) >= there:
                break
            note("reader", connections=broker.connections, mistakes=broker.mistakes[:5])
            note("short read", policy=policy, read=len(read), there=there, state=info["state"])
        found |= read
    return found


async def _read(broker: Broker, shard: int, policy: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    done = asyncio.Event()

    def heard(subject: str, reply: str, headers: dict[str, str], data: bytes) -> None:
        if headers.get("Status"):
            return
        tokens = reply.split(".")
        first = 5 if len(tokens) == 9 else 7
        if int(tokens[first + 3]) == 0:
            done.set()
        record: dict[str, Any] = {}
        with contextlib.suppress(msgspec.MsgspecError):  # a poison message of ours is no record
            decoded = msgspec.msgpack.decode(data) if data else {}
            record |= decoded if isinstance(decoded, dict) else {}
        record["sequence"] = int(tokens[first])
        record["shard"] = shard
        record["expected"] = int(headers.get("Nats-Expected-Last-Subject-Sequence") or -1)
        found[subject.rpartition(".")[2]] = record

    inbox = f"_INBOX_campaign.read.{time.monotonic_ns()}"
    number = broker.subscribe(inbox, heard)
    config = {
        "deliver_subject": inbox,
        "ack_policy": "none",
        "deliver_policy": policy,
        "filter_subject": f"v1.record.{shard}.>",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 60 * NS,
    }
    stream = f"RECORDS_{shard}"
    await broker.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READ_S):
            await done.wait()
    broker.unsubscribe(number)
    return found
