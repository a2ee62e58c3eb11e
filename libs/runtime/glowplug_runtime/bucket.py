"""A key-value bucket on its stream, laid out as the NATS tools expect it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from glowplug_contracts.codec import decode, encode
from glowplug_contracts.errors import ConflictError

from glowplug_runtime.bus import Entry, Subscription
from glowplug_runtime.follower import Follower, Place
from glowplug_runtime.wire import Msg

CATCH_UP_S = 30.0
WRITE_S = 10.0


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
        found = await self.bus.direct_get(self._stream, {"last_by_subj": self._subject(key)})
        if found is None or "KV-Operation" in (found.headers or {}):
            return None
        return self._entry(key, found.data, sequence_of(found))

    async def create(self, key: str, value: Any) -> int:
        try:
            return await self._write(key, value, 0)
        except ConflictError:
            found = await self.bus.direct_get(self._stream, {"last_by_subj": self._subject(key)})
            if found is None or "KV-Operation" not in (found.headers or {}):
                raise
            return await self._write(key, value, sequence_of(found))

    async def put(self, key: str, value: Any) -> int:
        return await self._write(key, value, None)

    async def update(self, key: str, value: Any, revision: int) -> int:
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int | None = None) -> None:
        headers = {"KV-Operation": "DEL"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        await self.bus.append_raw(self._subject(key), b"", headers, WRITE_S, self._stream)

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

        async def on_message(message: Msg, place: Place) -> None:
            key = message.subject[start:]
            headers = message.headers or {}
            if "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
                await on_entry(Entry(key=key, value=None, revision=place.stream_sequence))
            else:
                await on_entry(self._entry(key, message.data, place.stream_sequence))

        await follower.start(on_message)
        async with asyncio.timeout(CATCH_UP_S):  # 3.11's wait_for may swallow a cancellation
            await follower.caught_up()
        return follower

    async def _write(self, key: str, value: Any, expect_last: int | None) -> int:
        headers = {}
        if expect_last is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect_last)
        sequence: int = await self.bus.append_raw(
            self._subject(key), encode(value, "json"), headers, WRITE_S, self._stream
        )
        return sequence

    def _entry(self, key: str, data: bytes, revision: int) -> Entry[Any]:
        return Entry(key=key, value=decode(data, self.spec.value, "json"), revision=revision)


def sequence_of(found: Msg) -> int:
    """Return a directly read message's sequence."""
    return int((found.headers or {})["Nats-Sequence"])
