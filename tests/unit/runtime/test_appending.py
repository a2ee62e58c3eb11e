"""A write that is left unanswered: whose silence it is, the stream's or the broker's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_runtime.appending import Appender, Raw
from glowplug_runtime.wire import WireError

RAW = Raw("v1.record.0.default.inv_1", b"", {})


class Client:
    """A connection on which a few writes have no answer."""

    def __init__(self, unanswered: int, *, broker_answers: bool = True) -> None:
        self.unanswered = unanswered
        self.broker_answers = broker_answers

    async def request(self, *_: object, **__: object) -> SimpleNamespace:
        self.unanswered -= 1
        if self.unanswered >= 0:
            raise TimeoutError
        return SimpleNamespace(data=b'{"stream": "RECORDS_0", "seq": 7}')

    async def flush(self) -> None:
        if not self.broker_answers:
            raise WireError("not connected")


class Heard:
    """Stands for `Silences`: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def unanswered(self, stream: str, asked_at: float, now: float) -> None:
        assert asked_at <= now
        self.told.append(f"{stream} unanswered")

    def answered(self, stream: str) -> None:
        self.told.append(f"{stream} answered")


async def last_of(_stream: str, _subject: str) -> None:
    return None


def an_appender(client: Client) -> tuple[Appender, list[str]]:
    appender = Appender(client, last_of)  # type: ignore[arg-type]
    appender.silences = heard = Heard()  # type: ignore[assignment]
    return appender, heard.told


async def test_a_stream_that_does_not_answer_while_its_broker_does_is_noted_until_it_does():
    appender, told = an_appender(Client(2))
    assert await appender.append("RECORDS_0", RAW, 5.0) == 7
    assert told == ["RECORDS_0 unanswered", "RECORDS_0 unanswered", "RECORDS_0 answered"]


async def test_a_broker_that_is_away_says_nothing_about_its_streams():
    appender, told = an_appender(Client(10**9, broker_answers=False))
    with pytest.raises(UnavailableError):
        await appender.append("RECORDS_0", RAW, 0.1)
    assert told == []
