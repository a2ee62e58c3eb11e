"""How far a pull is, in bytes."""

from __future__ import annotations

import asyncio

from glowplug_imagecache.metering import Counted, Meter, tell_while


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, int]] = []

    async def __call__(self, text: str, done: int, total: int) -> None:
        self.said.append((text, done, total))


class Zeros:
    """Contents that are zeros."""

    def read(self, content: int, offset: int, size: int) -> bytes:
        return bytes(size)


def ended(error: Exception | None = None) -> asyncio.Future[None]:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        work.set_result(None)
    else:
        work.set_exception(error)
    return work


async def test_the_end_is_told_however_short_it_was() -> None:
    told, meter = Told(), Meter(10)
    meter.at(3)
    await tell_while([ended(), ended()], "downloading", meter, told)
    assert told.said == [("downloading", 3, 10), ("downloading", 10, 10)]


async def test_what_fails_is_not_told_to_be_done() -> None:
    told, meter = Told(), Meter(10)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await tell_while([never, ended(ValueError("gone"))], "downloading", meter, told)
    assert told.said == [("downloading", 0, 10)]


def test_more_is_never_done_than_there_is() -> None:
    meter = Meter(10)
    counted = Counted(Zeros(), meter.at)
    assert (counted.read(0, 0, 8), meter.done) == (bytes(8), 8)
    counted.read(0, 0, 8)  # small files are read twice
    assert meter.done == 10
