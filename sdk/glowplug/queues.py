"""`Queue`: values that code of a workspace hands to other code, in order, each to one getter."""

from __future__ import annotations

import base64
import json
import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from glowplug.asked import check_shared_name
from glowplug.errors import GlowplugError, InvalidInputError, NotFoundError
from glowplug.twins import blocking

if TYPE_CHECKING:
    import asyncio

    from glowplug.client.http import Http

POLL_S = 20.0
PUT_MANY_MAX = 1_000
# Of one request: base64 makes a third more of it, and a container's door takes 16 MiB.
PUT_BYTES_MAX = 8 * 1024 * 1024


class QueueEmptyError(GlowplugError, queue.Empty):
    """Nothing came within the time-out (or was there, with `block=False`)."""

    default_code = "state.not_found"


class Queue:
    """A durable queue; every method has an awaitable twin, `q.get.aio(…)`.

    A value is on disk when `put` returns. Values come out in the order in which they went in, each to one
    getter, at most once: one that dies right after `get` takes its value along. Work that must be done whatever
    dies belongs into a `@task_queue`.

    Args:
        name: 1 to 63 letters, digits, '-' or '_'. The same name is the same queue everywhere in a workspace.
    """

    def __init__(self, name: str) -> None:
        self.name = check_shared_name("Queue", name)
        self._putting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @classmethod
    def from_name(cls, name: str) -> Queue:
        """Return the queue of this name; nothing is asked before it is used."""
        return cls(name)

    @blocking
    async def put(self, value: Any, *, partition: str = "") -> None:
        """Append a value. Values that one program puts at once keep the order of the calls.

        Args:
            value: anything that pickles to at most 1 MiB; None, False, 0 and "" are values like any other.
            partition: a queue within the queue, with an order of its own.
        """
        await self._put([value], partition)

    @blocking
    async def put_many(self, values: Iterable[Any], *, partition: str = "") -> None:
        """Append values in their order; nobody else of this program comes in between."""
        await self._put(list(values), partition)

    @blocking
    async def get(
        self,
        block: bool = True,  # noqa: FBT001, FBT002 - as queue.Queue.get has it
        timeout: float | None = None,  # noqa: ASYNC109 - the user's word
        *,
        partition: str = "",
    ) -> Any:
        """Take the oldest value, waiting for one.

        Raises: QueueEmptyError (also a `queue.Empty`) after `timeout` seconds, or at once if not `block`.
        """
        return (await self._take(1, block=block, timeout=timeout, partition=partition))[0]

    @blocking
    async def get_many(
        self,
        count: int,
        block: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        partition: str = "",
    ) -> list[Any]:
        """Take up to `count` of the oldest values, waiting for the first.

        Raises: QueueEmptyError as `get`.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInputError(f"count={count!r}: give a whole number from 1")
        return await self._take(count, block=block, timeout=timeout, partition=partition)

    pop = get

    @blocking
    async def peek(self, *, partition: str = "") -> Any:
        """Return the oldest value and leave it there. Raises: QueueEmptyError."""
        http = await _reach()
        try:
            found = await http.request_json(
                "GET", f"/api/v1/queues/{self.name}/first", params=_params(partition)
            )
        except NotFoundError as err:
            raise QueueEmptyError(f"queue {self.name} is empty") from err
        return _values(found)[0]

    @blocking
    async def length(self, *, partition: str | None = "") -> int:
        """Return how many values a partition holds; None counts all partitions."""
        http = await _reach()
        found = await http.request_json("GET", f"/api/v1/queues/{self.name}")
        return int(found["length"] if partition is None else found["partitions"].get(partition, 0))

    @blocking
    async def empty(self, *, partition: str = "") -> bool:
        """Return whether a partition holds nothing now."""
        http = await _reach()
        found = await http.request_json("GET", f"/api/v1/queues/{self.name}")
        return not found["partitions"].get(partition, 0)

    @blocking
    async def clear(self, *, partition: str | None = None) -> None:
        """Remove what is there now, of one partition or of all."""
        http = await _reach()
        params = {} if partition is None else _params(partition)
        await http.request("DELETE", f"/api/v1/queues/{self.name}", params=params)

    def __len__(self) -> int:
        return self.length()

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return Queue, (self.name,)

    def __repr__(self) -> str:
        return f"<glowplug Queue {self.name}>"

    # -- in the background loop -----------------------------------------------------------------

    async def _put(self, values: list[Any], partition: str) -> None:
        from glowplug.client.values import dump_value, new_write_id  # noqa: PLC0415

        batches: list[list[dict[str, str]]] = [[]]
        size = 0
        for value in values:
            form, data = dump_value(value)
            if batches[-1] and (
                len(batches[-1]) >= PUT_MANY_MAX or size + len(data) > PUT_BYTES_MAX
            ):
                batches.append([])
                size = 0
            size += len(data)
            text = base64.b64encode(data).decode()
            batches[-1].append({"format": form, "data": text, "item_id": new_write_id()})
        async with self._in_turn():
            http = await _reach()
            for batch in batches:
                if batch:
                    await http.request(
                        "POST",
                        f"/api/v1/queues/{self.name}/items",
                        params=_params(partition),
                        body=json.dumps({"items": batch}).encode(),
                        headers={"Content-Type": "application/json"},
                    )

    async def _take(
        self,
        count: int,
        *,
        block: bool,
        timeout: float | None,  # noqa: ASYNC109
        partition: str,
    ) -> list[Any]:
        import asyncio  # noqa: PLC0415 - loaded when needed

        http = await _reach()
        clock = asyncio.get_running_loop().time
        until = clock() + (timeout or 0.0) if timeout is not None else None
        while True:
            left = POLL_S if until is None else max(0.0, min(POLL_S, until - clock()))
            wait_s = left if block else 0.0
            found = await http.request_json(
                "POST",
                f"/api/v1/queues/{self.name}/take",
                params=_params(partition) | {"count": str(count), "wait_s": f"{wait_s:.3f}"},
            )
            if found["items"]:
                return _values(found)
            if not block or (until is not None and clock() >= until):
                waited = f" within {timeout} s" if block else ""
                raise QueueEmptyError(f"queue {self.name}: nothing came{waited}")

    def _in_turn(self) -> asyncio.Lock:
        """Return the lock that keeps the order of this program's puts; one per event loop."""
        import asyncio  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        if self._putting is None or self._putting[0] is not loop:
            self._putting = loop, asyncio.Lock()
        return self._putting[1]


def _params(partition: str) -> dict[str, str]:
    if not isinstance(partition, str):
        raise TypeError(f"partition={partition!r}: give text")
    return {"partition": partition} if partition else {}


def _values(found: dict[str, Any]) -> list[Any]:
    from glowplug.client.values import load_value  # noqa: PLC0415

    return [load_value(one["format"], base64.b64decode(one["data"])) for one in found["items"]]


async def _reach() -> Http:
    from glowplug.client.here import reach  # noqa: PLC0415 - what needs the network, when needed

    return await reach()
