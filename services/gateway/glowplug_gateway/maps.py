"""Maps that user code shares: what a key holds is the last message on its subject.

A plain write replaces whatever was there; everything that depends on what was there is a compare-and-set
from the sequence that was read. A removed key is a mark that goes after a while, so that a writer which read
before the removal is told that it came second. Values are bytes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import msgspec
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from glowplug_contracts.ids import WorkspaceId
from glowplug_contracts.messages.invocation import Format
from glowplug_contracts.messages.state import KEY_BYTES_MAX, MapItem
from glowplug_contracts.subjects import MAP_ITEM, Address
from glowplug_runtime.bus import Delivery

from glowplug_gateway.ports import Platform

CHANGES_MAX: Final = 100
# A removed key's mark is kept so long, and an expired value beyond its own time.
MARK_KEPT_S: Final = 60.0
HEADER_KEY: Final = "Glowplug-Key"
HEADER_EXPIRES: Final = "Glowplug-Expires"
HEADER_GONE: Final = "Glowplug-Gone"
KEYS_MAX: Final = 1_000_000


class Held(NamedTuple):
    """What is stored on a key's subject: its value (None: nothing that counts) and the sequence."""

    item: MapItem | None
    sequence: int


class Maps:
    """See the module."""

    def __init__(self, platform: Platform) -> None:
        self._bus = platform.bus
        self._clock = platform.clock

    async def get(self, workspace: WorkspaceId, name: str, key: str) -> MapItem | None:
        """Return what a key holds; None if there is no such key."""
        return (await self._read(_at(workspace, name, key))).item

    async def put(
        self, workspace: WorkspaceId, name: str, item: MapItem, *, ttl_s: float, if_absent: bool
    ) -> bool:
        """Write a key; return whether it was written (with `if_absent`: only where there was none)."""
        at = _at(workspace, name, item.key)
        item = self._expiring(item, ttl_s)
        if not if_absent:
            await self._write(at, item, ttl_s, expect_last=None)
            return True
        for _ in range(CHANGES_MAX):
            held = await self._read(at)
            if held.item is not None:
                return held.item.written == item.written  # our own, asked for a second time
            try:
                await self._write(at, item, ttl_s, expect_last=held.sequence)
            except ConflictError:
                continue
            return True
        raise _busy(name, item.key)

    async def remove(
        self, workspace: WorkspaceId, name: str, key: str, written: str
    ) -> MapItem | None:
        """Remove a key; return what it held. Of several that try, one gets it.

        Raises: DeadlineExceededError (state.unsure) where nobody knows whether it was done.
        """

        def change(held: MapItem | None) -> MapItem | None:
            if held is None:
                return None
            return MapItem(key=key, format=held.format, data=b"", written=written, gone=True)

        return await self._change(_at(workspace, name, key), name, key, change, MARK_KEPT_S)

    async def add(self, workspace: WorkspaceId, name: str, key: str, by: int, written: str) -> int:
        """Add to a whole number (0 where there is no such key); return the sum. Exact.

        Raises: InvalidRequestError (it holds something else); DeadlineExceededError (state.unsure).
        """
        total = 0

        def change(held: MapItem | None) -> MapItem:
            nonlocal total
            total = (_whole(held) if held is not None else 0) + by
            return MapItem(
                key=key,
                format=Format.JSON,
                data=str(total).encode(),
                written=written,
                expires_at=held.expires_at if held is not None else 0.0,
            )

        await self._change(_at(workspace, name, key), name, key, change, 0.0)
        return total

    async def keys(self, workspace: WorkspaceId, name: str) -> list[str]:
        """Return a map's keys, in order of their text."""
        found: dict[str, str | None] = {}
        now = self._clock.unix()

        async def on_item(delivery: Delivery[MapItem]) -> None:
            headers = delivery.headers
            expires = float(headers.get(HEADER_EXPIRES, "0") or 0)
            gone = delivery.removed or HEADER_GONE in headers or 0 < expires <= now
            key = headers.get(HEADER_KEY)
            if len(found) < KEYS_MAX:
                found[delivery.subject] = None if gone or key is None else unquote(key)

        pattern = MAP_ITEM.pattern(workspace=workspace, map=name)
        following = await self._bus.follow(
            pattern, on_item, start="last_per_subject", headers_only=True
        )
        try:
            await following.caught_up()
        finally:
            await following.close()
        return sorted(key for key in found.values() if key is not None)

    async def names(self, workspace: WorkspaceId) -> list[str]:
        """Return the names of the maps that hold something (or did a moment ago)."""
        counts = await self._bus.counts(MAP_ITEM.pattern(workspace=workspace))
        return sorted({MAP_ITEM.parse(subject)["map"] for subject in counts})

    # -- one key --------------------------------------------------------------------------------

    async def _read(self, at: Address[MapItem]) -> Held:
        found = await self._bus.last(at)
        if found is None or found.message is None:
            return Held(None, 0)
        item = found.message
        over = item.gone or 0 < item.expires_at <= self._clock.unix()
        return Held(None if over else item, found.sequence)

    async def _change(
        self,
        at: Address[MapItem],
        name: str,
        key: str,
        change: Callable[[MapItem | None], MapItem | None],
        ttl_s: float,
    ) -> MapItem | None:
        """Write what `change` makes of the value, until nobody came in between; return what was there."""
        for _ in range(CHANGES_MAX):
            held = await self._read(at)
            item = change(held.item)
            if item is None:
                return None
            left_s = max(0.0, item.expires_at - self._clock.unix()) if item.expires_at else ttl_s
            try:
                await self._write(at, item, left_s, expect_last=held.sequence)
            except ConflictError:
                continue
            except UnavailableError as err:
                raise DeadlineExceededError(
                    "state.unsure", f"whether {key!r} of map {name} was changed is not known: {err}"
                ) from err
            return held.item
        raise _busy(name, key)

    async def _write(
        self, at: Address[MapItem], item: MapItem, ttl_s: float, *, expect_last: int | None
    ) -> None:
        headers = {HEADER_KEY: quote(item.key, safe="")}
        if item.expires_at:
            headers[HEADER_EXPIRES] = f"{item.expires_at:.3f}"
        if item.gone:
            headers[HEADER_GONE] = "1"
        # The broker counts in whole seconds: it removes a little later than the value's own time.
        kept_s = ttl_s + 1.0 if ttl_s > 0 else 0.0
        await self._bus.append(at, item, expect_last=expect_last, headers=headers, ttl_s=kept_s)

    def _expiring(self, item: MapItem, ttl_s: float) -> MapItem:
        if ttl_s <= 0:
            return item
        return msgspec.structs.replace(item, expires_at=self._clock.unix() + ttl_s)


def check_key(key: str) -> str:
    """Return a key that may be stored. Raises: InvalidRequestError."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= KEY_BYTES_MAX:
        raise InvalidRequestError(
            "request.invalid", f"a key is text of 1 to {KEY_BYTES_MAX} bytes in UTF-8"
        )
    return key


def page(keys: Sequence[str], after: str, limit: int) -> tuple[list[str], str]:
    """Return the keys after `after`, at most `limit`, and the cursor for what follows ("" = nothing)."""
    rest = [key for key in keys if not after or key > after]
    return rest[:limit], rest[limit - 1] if len(rest) > limit else ""


def _at(workspace: WorkspaceId, name: str, key: str) -> Address[MapItem]:
    digest = hashlib.sha256(key.encode()).hexdigest()[:40]
    return MAP_ITEM.at(workspace=workspace, map=name, key=digest)


def _whole(item: MapItem) -> int:
    try:
        return msgspec.json.decode(item.data, type=int) if item.format is Format.JSON else _none()
    except UNREADABLE as err:
        raise InvalidRequestError(
            "request.invalid", f"{item.key!r} holds no whole number, so nothing can be added to it"
        ) from err


def _none() -> int:
    raise msgspec.ValidationError("it is a pickle")


def _busy(name: str, key: str) -> OverloadedError:
    return OverloadedError(
        "scheduler.overloaded",
        f"{key!r} of map {name} is changed by so many at once that {CHANGES_MAX} tries came second",
        retry_after_s=1,
    )
