"""`Map`: keys and values that all code of a workspace shares, outside and in every container."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from glowplug.asked import check_shared_name
from glowplug.errors import InvalidInputError, NotFoundError
from glowplug.twins import blocking

if TYPE_CHECKING:
    from glowplug.client.http import Http

KEY_BYTES_MAX = 256
TTL_S_MIN = 1.0
PAGE_KEYS = 1_000
READ_AT_ONCE = 16
_MISSING = object()


class Map:
    """A durable map with text keys; every method has an awaitable twin, `m.get.aio(…)`.

    A write is on disk when the method returns, and what was written before is read by whoever reads after.

    Args:
        name: 1 to 63 letters, digits, '-' or '_'. The same name is the same map everywhere in a workspace.
    """

    def __init__(self, name: str) -> None:
        self.name = check_shared_name("Map", name)

    @classmethod
    def from_name(cls, name: str) -> Map:
        """Return the map of this name; nothing is asked before it is used."""
        return cls(name)

    @blocking
    async def get(self, key: str, default: Any = None) -> Any:
        """Return what the key holds, or the default."""
        return await self._get(key, default)

    @blocking
    async def put(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Write a key.

        Args:
            key: text of at most 256 bytes.
            value: anything that pickles to at most 1 MiB; None, False, 0 and "" are values like any other.
            ttl: seconds (≥ 1) after which it is gone; without it, any earlier ttl of the key ends, too.
        """
        await self._put(key, value, ttl)

    set = put

    @blocking
    async def put_if_absent(self, key: str, value: Any, ttl: float | None = None) -> bool:
        """Write a key that is not there; return whether it was written. Of several writers one succeeds."""
        return await self._put(key, value, ttl, absent="1")

    @blocking
    async def delete(self, key: str) -> bool:
        """Remove a key; return whether it was there."""
        return await self._pop(key) is not _MISSING

    @blocking
    async def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove a key and return what it held; of several that try, one gets it.

        Raises: KeyError if it is not there and no default is given; DeadlineExceededError if nobody knows
            whether it was removed.
        """
        found = await self._pop(key)
        if found is not _MISSING:
            return found
        if default is _MISSING:
            raise KeyError(key)
        return default

    @blocking
    async def incr(self, key: str, by: int = 1) -> int:
        """Add to a whole number, 0 where there is no such key; return the sum. Exact under any crowd.

        Raises: InvalidInputError if it holds something else; DeadlineExceededError if nobody knows whether
            it was added.
        """
        http = await _reach()
        if isinstance(by, bool) or not isinstance(by, int):
            raise InvalidInputError(f"by={by!r}: give a whole number")
        answer = await http.request(
            "POST",
            f"/api/v1/maps/{self.name}/add",
            params={"key": _checked(key)},
            body=json.dumps({"by": by}).encode(),
            headers={"Content-Type": "application/json"},
            repeat=False,
        )
        return int(answer.json()["value"])

    @blocking
    async def contains(self, key: str) -> bool:
        """Return whether there is such a key."""
        return await self._get(key, _MISSING) is not _MISSING

    @blocking
    async def keys(self) -> list[str]:
        """Return the keys, in order of their text."""
        return await self._keys()

    @blocking
    async def items(self) -> list[tuple[str, Any]]:
        """Return keys and values; a key that goes meanwhile is left out."""
        return await self._items()

    @blocking
    async def values(self) -> list[Any]:
        """Return the values, in order of their keys."""
        return [value for _, value in await self._items()]

    @blocking
    async def length(self) -> int:
        """Return the number of keys."""
        http = await _reach()
        found = await http.request_json("GET", f"/api/v1/maps/{self.name}")
        return int(found["length"])

    @blocking
    async def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Write several keys, one after the other."""
        for key, value in {**(values or {}), **more}.items():
            await self._put(key, value, None)

    @blocking
    async def clear(self) -> None:
        """Remove all keys there are now."""
        http = await _reach()
        await http.request("DELETE", f"/api/v1/maps/{self.name}")

    def __getitem__(self, key: str) -> Any:
        found = self.get(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.contains(key)

    def __len__(self) -> int:
        return self.length()

    def __bool__(self) -> bool:
        return (
            True  # an empty map is a map; asking the platform for its size would be a surprise here
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __repr__(self) -> str:
        return f"<glowplug Map {self.name}>"

    # -- in the background loop -----------------------------------------------------------------

    async def _get(self, key: str, default: Any) -> Any:
        from glowplug.client.values import load_value  # noqa: PLC0415 - what needs the network

        http = await _reach()
        try:
            answer = await http.request("GET", self._path, params={"key": _checked(key)})
        except NotFoundError:
            return default
        return load_value(answer.headers["Glowplug-Format"], answer.body)

    async def _put(self, key: str, value: Any, ttl: float | None, **params: str) -> bool:
        from glowplug.client.values import dump_value, new_write_id  # noqa: PLC0415

        form, data = dump_value(value)
        params["key"] = _checked(key)
        if ttl is not None:
            params["ttl_s"] = str(_checked_ttl(ttl))
        http = await _reach()
        answer = await http.request(
            "PUT",
            self._path,
            body=data,
            params=params,
            headers={
                "Glowplug-Format": form,
                "Glowplug-Write-Id": new_write_id(),
                "Content-Type": "application/octet-stream",
            },
        )
        return bool(answer.json()["stored"])

    async def _pop(self, key: str) -> Any:
        from glowplug.client.values import load_value  # noqa: PLC0415

        http = await _reach()
        try:
            answer = await http.request(
                "DELETE", self._path, params={"key": _checked(key)}, repeat=False
            )
        except NotFoundError:
            return _MISSING
        return load_value(answer.headers["Glowplug-Format"], answer.body)

    async def _keys(self) -> list[str]:
        http = await _reach()
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            answer = await http.request_json(
                "GET",
                f"/api/v1/maps/{self.name}/keys",
                params={"after": after, "limit": str(PAGE_KEYS)},
            )
            found += answer["keys"]
            after = answer["next"]
        return found

    async def _items(self) -> list[tuple[str, Any]]:
        import asyncio  # noqa: PLC0415 - loaded when needed

        keys = await self._keys()
        found: list[tuple[str, Any]] = []
        for at in range(0, len(keys), READ_AT_ONCE):
            some = keys[at : at + READ_AT_ONCE]
            values = await asyncio.gather(*(self._get(key, _MISSING) for key in some))
            found += [
                (key, value)
                for key, value in zip(some, values, strict=True)
                if value is not _MISSING
            ]
        return found

    @property
    def _path(self) -> str:
        return f"/api/v1/maps/{self.name}/item"


def _checked(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key of a Map is text, not {type(key).__name__}; write str({key!r})")
    if not 0 < len(key.encode("utf-8", "surrogatepass")) <= KEY_BYTES_MAX:
        raise InvalidInputError(f"a key has 1 to {KEY_BYTES_MAX} bytes")
    return key


def _checked_ttl(ttl: float) -> float:
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not ttl >= TTL_S_MIN:
        raise InvalidInputError(f"ttl={ttl!r}: give seconds, at least {TTL_S_MIN:g}")
    return float(ttl)


async def _reach() -> Http:
    from glowplug.client.here import reach  # noqa: PLC0415 - what needs the network, when needed

    return await reach()
