"""History for people: spans, logs and calls, in a SQLite file that can be thrown away.

It is fed by following the streams from the sequence that was stored last, on one thread of its own. What
comes is kept as it came, a segment of many spans, lines or facts a row, and looked through when somebody
asks: people ask seldom, and calls must not be slowed by their own history. Only durable records have a row
each (`calllist`). Losing the file loses nothing: the streams hold what there is. Nothing that decides may
read it. Every table is bounded; the oldest rows go first, those of records with their records.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from glowplug_contracts.messages.container import ContainerChanged, LogSegment
from glowplug_contracts.messages.dispatch import InvocationFacts
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.messages.trace import Span, SpanSegment
from glowplug_contracts.streams import CONTAINER_EVENTS, INVOCATION_EVENTS, LOGS, SPANS, Stream
from glowplug_contracts.subjects import CONTAINER, FACTS, LOG, SPAN
from glowplug_runtime.bus import Delivery, Subscription
from glowplug_runtime.bus_nats import MARKER_KEPT_S
from glowplug_runtime.failures import StartError

from glowplug_gateway.calllist import SCHEMA as CALLS_SCHEMA
from glowplug_gateway.calllist import (
    CallFilter,
    CallRow,
    Row,
    digest_facts,
    find_calls,
    record_rows,
    trim_calls,
)
from glowplug_gateway.containerlist import (
    CONTAINERS_KEPT,
    INSERT_CONTAINER,
    TRIM_CONTAINERS,
    ContainerRow,
    ContainersWanted,
    container_row,
    find_containers,
)
from glowplug_gateway.containerlist import SCHEMA as CONTAINERS_SCHEMA
from glowplug_gateway.ports import Platform

log = structlog.get_logger()

T = TypeVar("T")

SCHEMA_VERSION = 4
FLUSH_S = 0.25
# Rows waiting for the disk; followers wait when there are as many.
BUFFERED_MAX = 5_000
TRIM_EVERY = 50

SCHEMA = """
CREATE TABLE IF NOT EXISTS follows (
    stream TEXT PRIMARY KEY, sequence INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS spans (
    row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, items INTEGER NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (
    row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, items INTEGER NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
    row INTEGER PRIMARY KEY, workspace TEXT NOT NULL, deployment TEXT NOT NULL, name TEXT NOT NULL,
    container TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, body BLOB NOT NULL,
    UNIQUE (container, number));
CREATE INDEX IF NOT EXISTS segments_deployment ON segments (workspace, deployment, row);
CREATE INDEX IF NOT EXISTS segments_name ON segments (workspace, name, row);
"""
INSERT_SPANS = "INSERT OR REPLACE INTO spans (sequence, items, body) VALUES (?, ?, ?)"
INSERT_FACTS = "INSERT OR REPLACE INTO facts (sequence, items, body) VALUES (?, ?, ?)"
INSERT_SEGMENT = """
INSERT OR IGNORE INTO segments (workspace, deployment, name, container, number, at, body)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
# Rows go once the newer ones hold enough items.
TRIM_ITEMS = """
DELETE FROM {table} WHERE row <= coalesce((
    SELECT max(row) FROM (
        SELECT row, sum(items) OVER (ORDER BY row DESC) - items AS newer FROM {table})
    WHERE newer >= ?), 0)
"""
TRIM_ROWS = "DELETE FROM segments WHERE row <= (SELECT max(row) FROM segments) - ?"
TRIM_AGED = "DELETE FROM segments WHERE at < ?"
TRACES_OF_INVOCATION_MAX = 100

CANT_WRITE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
PRIMARY_CODE = 0xFF  # the rest of a code says more closely where

_SPANS = msgspec.msgpack.Decoder(tuple[Span, ...])
_SEGMENT = msgspec.msgpack.Decoder(LogSegment)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept: spans, log segments (and for how long), and facts about calls."""

    spans: int
    segments: int
    segments_s: float
    calls: int


class LogsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which log segments are wanted; what is empty wants all.

    Attributes:
        deployments: ids or names.
        since: Unix time of the last line that a segment must have.
    """

    deployments: tuple[str, ...] = ()
    container: str = ""
    invocation: str = ""
    since: float = 0.0
    segments_max: int


class ReadModel:
    """See the module."""

    def __init__(self, platform: Platform, path: Path | None, bounds: Bounds) -> None:
        self._platform = platform
        self._bounds = bounds
        self._thread = ThreadPoolExecutor(1, "readmodel")
        self._database = _open_database(path)
        self._rows: dict[str, list[Row]] = {}
        self._waiting = 0
        self._sequences: dict[str, int] = {}
        self._room = asyncio.Event()
        self._flushes = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follow the streams while the context is open."""
        bus = self._platform.bus
        subscriptions: list[Subscription] = [
            await bus.follow(SPAN.pattern(), self.on_spans, start=await self._start_of(SPANS)),
            await bus.follow(LOG.pattern(), self.on_log, start=await self._start_of(LOGS)),
            await bus.follow(
                CONTAINER.pattern(), self.on_container, start=await self._start_of(CONTAINER_EVENTS)
            ),
            await bus.follow(
                FACTS.pattern(), self.on_facts, start=await self._start_of(INVOCATION_EVENTS)
            ),
        ]
        self._platform.every(FLUSH_S, self.flush, "readmodel")
        try:
            yield
        finally:
            for subscription in subscriptions:
                await subscription.close()
            await self.flush()
            await self._run(self._database.close)
            self._thread.shutdown()

    async def _start_of(self, stream: Stream) -> int:
        """Return the sequence to go on from; a stream that was made anew is read from its start."""
        stored = await self._run(lambda: _stored_sequence(self._database, stream.name))
        last = (await self._platform.bus.stream_info(stream))["last_sequence"]
        return stored + 1 if stored <= last else 1

    # -- taking in ------------------------------------------------------------------------------

    async def on_spans(self, delivery: Delivery[SpanSegment]) -> None:
        """Some process finished spans."""
        spans = delivery.message.spans if delivery.message else ()
        row = (delivery.sequence, len(spans), msgspec.msgpack.encode(spans))
        await self._take(SPANS, delivery.sequence, INSERT_SPANS, row)

    async def on_log(self, delivery: Delivery[LogSegment]) -> None:
        """A container wrote something."""
        if delivery.message is not None:
            row = _segment_row(delivery.message, self._platform.clock.unix())
            await self._take(LOGS, delivery.sequence, INSERT_SEGMENT, row)

    async def on_container(self, delivery: Delivery[ContainerChanged]) -> None:
        """A container reached a state."""
        if delivery.message is not None:
            row = container_row(delivery.message, delivery.sequence)
            await self._take(CONTAINER_EVENTS, delivery.sequence, INSERT_CONTAINER, row)

    async def on_facts(self, delivery: Delivery[InvocationFacts]) -> None:
        """A worker tells what became of invocations."""
        facts = delivery.message.facts if delivery.message else ()
        row = (delivery.sequence, len(facts), msgspec.msgpack.encode(facts))
        await self._take(INVOCATION_EVENTS, delivery.sequence, INSERT_FACTS, row)

    async def starts_of_records(self, streams: Sequence[Stream]) -> list[int]:
        """Return the sequences of the shards' records to go on from.

        Removals leave a mark for MARKER_KEPT_S only: a file that slept longer knows too much, and begins
        anew.
        """
        starts = [await self._start_of(stream) for stream in streams]
        fresh_since = self._platform.clock.unix() - MARKER_KEPT_S / 2
        names = [stream.name for stream in streams]
        if min(starts) > 1 and await self._run(
            lambda: _all_since(self._database, names, fresh_since)
        ):
            return starts
        await self._run(lambda: _forget_records(self._database))
        return [1] * len(streams)

    async def take_record(self, stream: Stream, delivery: Delivery[InvocationRecord]) -> None:
        """A durable record was written or removed."""
        for statement, row in record_rows(delivery.fields, delivery.headers, delivery.sequence):
            await self._take(stream, delivery.sequence, statement, row)

    async def _take(self, stream: Stream, sequence: int, statement: str, row: Row) -> None:
        while self._waiting >= BUFFERED_MAX:
            self._room.clear()
            await self._room.wait()
        self._rows.setdefault(statement, []).append(row)
        self._waiting += 1
        self._sequences[stream.name] = sequence

    async def flush(self) -> None:
        """Write what was taken in so far."""
        rows, self._rows, self._waiting = self._rows, {}, 0
        sequences, self._sequences = self._sequences, {}
        self._room.set()
        if not sequences:
            return
        self._flushes += 1
        trim = self._flushes % TRIM_EVERY == 0
        try:
            await self._run(lambda: self._write(rows, sequences, trim=trim))
        except sqlite3.OperationalError as error:  # its disk is full, most of all
            log.warning("readmodel.not_written", error=str(error), rows=self._waiting)
            self._take_back(rows, sequences)

    def _take_back(self, rows: dict[str, list[Row]], sequences: dict[str, int]) -> None:
        """Keep what could not be written for the next time, before what came meanwhile."""
        newer, self._rows = self._rows, rows
        for statement, values in newer.items():
            self._rows.setdefault(statement, []).extend(values)
        self._sequences = sequences | self._sequences
        self._waiting = sum(len(values) for values in self._rows.values())

    def _write(
        self, rows: Mapping[str, Sequence[Row]], sequences: Mapping[str, int], *, trim: bool
    ) -> None:
        with self._database as database:
            for statement, values in rows.items():
                database.executemany(statement, values)
            now_unix = self._platform.clock.unix()
            database.executemany(
                "INSERT OR REPLACE INTO follows VALUES (?, ?, ?)",
                [(stream, sequence, now_unix) for stream, sequence in sequences.items()],
            )
            if trim:
                self._trim(database, now_unix)

    def _trim(self, database: sqlite3.Connection, now_unix: float) -> None:
        trim_calls(database, self._bounds.calls, now_unix)
        database.execute(TRIM_ITEMS.format(table="spans"), (self._bounds.spans,))
        database.execute(TRIM_ITEMS.format(table="facts"), (self._bounds.calls,))
        database.execute(TRIM_ROWS, (self._bounds.segments,))
        database.execute(TRIM_AGED, (now_unix - self._bounds.segments_s,))
        database.execute(TRIM_CONTAINERS, (CONTAINERS_KEPT,))

    # -- showing --------------------------------------------------------------------------------

    async def trace(self, reference: str) -> tuple[str, list[Span]]:
        """Return a trace's id and spans, by trace id or invocation id; ("", []) if unknown."""
        await self.flush()
        return await self._run(lambda: _read_trace(self._database, reference))

    async def logs(self, workspace: str, wanted: LogsWanted) -> list[LogSegment]:
        """Return the last segments that are wanted, oldest first."""
        await self.flush()
        return await self._run(lambda: _read_logs(self._database, workspace, wanted))

    async def containers(self, workspace: str, wanted: ContainersWanted) -> list[ContainerRow]:
        """Return the containers that are wanted, the newest word first."""
        await self.flush()
        return await self._run(lambda: find_containers(self._database, workspace, wanted))

    async def calls(self, workspace: str, wanted: CallFilter, limit: int) -> Sequence[CallRow]:
        """Return the newest calls that fit."""
        await self.flush()
        now_unix = self._platform.clock.unix()

        def find() -> Sequence[CallRow]:
            # Where it can't be written what was digested before is shown.
            with contextlib.suppress(sqlite3.OperationalError), self._database as database:
                digest_facts(database)
            return find_calls(self._database, workspace, wanted, limit, now_unix)

        return await self._run(find)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _open_database(path: Path | None) -> sqlite3.Connection:
    """Open the file; one of another version, or a broken one, is made anew."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(str(path))
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE in CANT_WRITE:
                words = f"{path} can't be written: make room on its disk, or mend it ({error})"
                raise StartError(words) from error
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        return _connect(str(path))
    return _connect(":memory:")


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema {version}")  # noqa: TRY301 — the same way out
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(SCHEMA + CALLS_SCHEMA + CONTAINERS_SCHEMA)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _stored_sequence(database: sqlite3.Connection, stream: str) -> int:
    found = database.execute("SELECT sequence FROM follows WHERE stream = ?", (stream,)).fetchone()
    return int(found[0]) if found else 0


def _all_since(database: sqlite3.Connection, streams: Sequence[str], since: float) -> bool:
    found = dict(database.execute("SELECT stream, at FROM follows").fetchall())
    return all(found.get(stream, 0.0) > since for stream in streams)


def _forget_records(database: sqlite3.Connection) -> None:
    with database:
        database.execute("DELETE FROM calls WHERE durable = 1")
        database.execute("DELETE FROM tags")
        database.execute("DELETE FROM follows WHERE stream LIKE 'RECORDS%'")


def _segment_row(segment: LogSegment, now_unix: float) -> Row:
    return (
        segment.workspace,
        segment.deployment_id,
        segment.name,
        segment.container_id,
        segment.number,
        max((line.at for line in segment.lines), default=now_unix),
        msgspec.msgpack.encode(segment),
    )


def _read_trace(database: sqlite3.Connection, reference: str) -> tuple[str, list[Span]]:
    trace_id = reference
    if reference.startswith("inv_"):
        mentions = _spans_with(database, reference, TRACES_OF_INVOCATION_MAX)
        traces = [
            span.trace_id for span in mentions if span.attributes.get("invocation_id") == reference
        ]
        if not traces:
            return "", []
        trace_id = traces[0]
    spans = [span for span in _spans_with(database, trace_id, -1) if span.trace_id == trace_id]
    unique = {span.span_id: span for span in spans}
    ordered = sorted(unique.values(), key=lambda span: (span.start_at, span.end_at))
    return (trace_id, ordered) if ordered else ("", [])


def _spans_with(database: sqlite3.Connection, text: str, rows_max: int) -> Iterator[Span]:
    """Return the spans of all segments in which `text` stands (SQLite looks, not Python)."""
    rows = database.execute(
        "SELECT body FROM spans WHERE instr(body, ?) ORDER BY row LIMIT ?",
        (text.encode(), rows_max),
    )
    for (body,) in rows:
        yield from _SPANS.decode(body)


def _read_logs(
    database: sqlite3.Connection, workspace: str, wanted: LogsWanted
) -> list[LogSegment]:
    clauses: list[str] = ["workspace = ?", "at >= ?"]
    values: list[object] = [workspace, wanted.since]
    if wanted.deployments:
        marks = ", ".join("?" * len(wanted.deployments))
        clauses.append(f"(deployment IN ({marks}) OR name IN ({marks}))")
        values += [*wanted.deployments, *wanted.deployments]
    if wanted.container:
        clauses.append("container = ?")
        values.append(wanted.container)
    if wanted.invocation:
        clauses.append("instr(body, ?)")
        values.append(wanted.invocation.encode())
    rows = database.execute(
        f"SELECT body FROM segments WHERE {' AND '.join(clauses)} ORDER BY row DESC LIMIT ?",  # noqa: S608 — only marks
        (*values, wanted.segments_max),
    ).fetchall()
    return [_SEGMENT.decode(body) for (body,) in reversed(rows)]
