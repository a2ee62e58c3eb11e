"""Reading a stream in order, whatever happens to connection, broker and consumer in between."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
import structlog
from glowplug_contracts.errors import ContractError, UnavailableError

from glowplug_runtime.wire import Msg, WireError

log = structlog.get_logger()

NS = 1_000_000_000
# Two and a half of these without a word and the consumer is made anew: sooner than a cluster elects a leader.
HEARTBEAT_S = 1.0
CONSUMER_KEPT_S = 10.0
ACK_WAIT_S = 24 * 3600  # queued work is not late work: redelivery comes with a new generation only
LOOK_S = 0.25
# A cluster that elects its leader drops what it is asked: asking again soon finds the new one soon. A broker that
# is only slow is given more time with each try. What was made all the same and not heard of goes away by itself
# (CONSUMER_KEPT_S).
ASK_FIRST_S = 1.0
ASK_MORE = 1.5
ASK_MAX_S = 5.0
# Whoever starts to follow hears of a failure after this long.
START_S = 5.0


class Place(msgspec.Struct, frozen=True):
    """What a delivered message's reply subject tells. `time_ns`: Unix nanoseconds of its storing."""

    stream_sequence: int
    consumer_sequence: int
    time_ns: int
    pending: int


def parse_ack_subject(reply: str) -> Place:
    """Return the sequences in an ack subject, of either version.

    v1: $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending (9 tokens);
    v2: $JS.ACK.domain.account.stream.consumer.delivered.sseq.cseq.time.pending[.token].
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7  # noqa: PLR2004
    numbers = [int(token) for token in tokens[first : first + 4]]
    return Place(*numbers)


def parse_stored_time(text: str) -> int:
    """Return a stored message's time ("2026-01-02T03:04:05.123456789Z") in Unix nanoseconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = dt.datetime.fromisoformat(whole).replace(tzinfo=dt.UTC).timestamp()
    return int(seconds) * NS + int(fraction.ljust(9, "0") or 0)


def format_stored_time(time_ns: int) -> str:
    """Return what `parse_stored_time` reads."""
    whole = dt.datetime.fromtimestamp(time_ns // NS, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % NS:09d}Z"


class Follower:
    """Reads a stream through a push consumer that it makes again whenever it is lost.

    A gap in the consumer's own numbers, a missing heartbeat or a reconnect all end the same way: a new
    consumer from the message after the last one handled. With `work_name` the consumer is a work
    queue's (acknowledged by the caller), else nothing is acknowledged.
    """

    def __init__(
        self,
        bus: Any,
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
        self._last_time_ns = 0
        self._expected = 1
        self._heard_at = 0.0
        self._caught_up = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._closed = False
        self._patience_s = ASK_FIRST_S
        self._on_message: Callable[[Msg, Place], Awaitable[None]]

    async def start(self, on_message: Callable[[Msg, Place], Awaitable[None]]) -> None:
        """Make the consumer. Raises: UnavailableError."""
        self._on_message = on_message
        self._bus.remember(self)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + START_S
        while True:
            try:
                await self._renew()
                break
            except UnavailableError as error:
                unanswered = isinstance(error.__cause__, TimeoutError)
                if not unanswered or loop.time() >= give_up_at:
                    raise
        self._watchdog = asyncio.create_task(self._keep_consumer_alive())

    async def caught_up(self) -> None:
        await self._caught_up.wait()

    async def close(self) -> None:
        self._closed = True
        self._bus.forget(self)
        if self._watchdog:
            self._watchdog.cancel()
        if self._sub:
            with contextlib.suppress(WireError):
                await self._sub.unsubscribe()

    def doubt(self) -> None:
        """Have the watchdog make the consumer anew at its next look."""
        self._heard_at = float("-inf")

    async def _renew(self) -> None:
        try:
            await self._make()
        except UnavailableError:
            self._patience_s = min(self._patience_s * ASK_MORE, ASK_MAX_S)
            raise
        self._patience_s = ASK_FIRST_S

    async def _make(self) -> None:
        async with self._renewing:
            if self._closed:
                return
            if self._sub:
                with contextlib.suppress(WireError):
                    await self._sub.unsubscribe()
                if self._work_name:
                    # Only a new consumer delivers again what was on its way to us.
                    await self._bus.api(
                        f"CONSUMER.DELETE.{self._stream}.{self._work_name}",
                        {},
                        missing_ok=True,
                        timeout_s=self._patience_s,
                    )
            going_on = await self._going_on()
            inbox = self._bus.client.new_inbox()
            self._expected = 1
            self._heard_at = asyncio.get_running_loop().time()
            self._sub = await self._bus.client.subscribe(
                inbox,
                cb=self._on_raw,
            )
            made = await self._bus.api(
                f"CONSUMER.CREATE.{self._stream}"
                + (f".{self._work_name}" if self._work_name else ""),
                {"stream_name": self._stream, "config": self._config(inbox) | going_on},
                timeout_s=self._patience_s,
            )
            # What was delivered already is on its way: its last message will say so.
            if made["num_pending"] == 0 and made["delivered"]["consumer_seq"] == 0:
                self._caught_up.set()

    async def _going_on(self) -> dict[str, object]:
        """Return where to go on after what was handled; nothing at the beginning.

        A broker that was killed loses the end of a stream that is not synced, and gives the same numbers again.
        So the last number is trusted only if it still is what was handled; by their times, new messages are
        told from those.
        """
        if not self._last_sequence or self._work_name:
            return {}
        found = await self._bus.api(
            f"STREAM.MSG.GET.{self._stream}",
            {"seq": self._last_sequence},
            missing_ok=True,
            timeout_s=self._patience_s,
        )
        info = await self._bus.api(f"STREAM.INFO.{self._stream}", {}, timeout_s=self._patience_s)
        message = found.get("message")
        known = message is None or parse_stored_time(message["time"]) == self._last_time_ns
        if known and info["state"]["last_seq"] >= self._last_sequence:
            return {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._last_sequence + 1,
            }
        log.warning("follow.end_was_lost", stream=self._stream, after=self._last_sequence)
        return {
            "deliver_policy": "by_start_time",
            "opt_start_time": format_stored_time(self._last_time_ns + 1),
        }

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
        if isinstance(self._start, int):
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, self._start)}
        else:
            config["deliver_policy"] = self._start
        return config

    async def _on_raw(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        # A stored message has an ack subject, whatever strangers wrote into its headers.
        stored = message.reply.startswith("$JS.ACK.")
        if not stored and message.headers and message.headers.get("Status") == "100":
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
        self._last_sequence, self._last_time_ns = place.stream_sequence, place.time_ns
        if place.pending == 0:
            self._caught_up.set()

    async def _keep_consumer_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(LOOK_S)
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
                self.doubt()  # again at the next look, not after five silent seconds
                log.warning("follow.unavailable", stream=self._stream, error=str(error))
