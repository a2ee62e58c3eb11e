"""The lean client cuts the byte stream into messages wherever the network cut it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from glowplug_runtime.wire import WireClient, _publish_lines
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventually import eventually


def a_client():
    return WireClient(
        [("127.0.0.1", 1)],
        name="t",
        user="",
        password="",
        inbox_prefix="_INBOX_t",
        on_disconnected=lambda: None,
        on_reconnected=lambda: None,
    )


def as_received(subject: str, sid: int, data: bytes, headers: dict[str, str] | None) -> bytes:
    """What a server sends for what `_publish_lines` would publish."""
    line, _, rest = _publish_lines(subject, "", data, headers).partition(b"\r\n")
    verb, *words = line.split(b" ")
    verb = b"HMSG" if verb == b"HPUB" else b"MSG"
    return b" ".join([verb, words[0], b"%d" % sid, *words[1:]]) + b"\r\n" + rest


@given(
    messages=st.lists(
        st.tuples(
            st.binary(max_size=40),
            st.none() | st.dictionaries(st.sampled_from(["A", "B"]), st.just("x y")),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_finds_every_message_however_the_bytes_were_cut(messages, cuts):
    async def run() -> None:
        client = a_client()
        seen = []

        async def on_message(message):
            seen.append((message.data, message.headers))

        sub = await client.subscribe("a.b", cb=on_message)
        stream = b"".join(as_received("a.b", sub.sid, data, headers) for data, headers in messages)
        edges = [0, *sorted(c for c in cuts if c < len(stream)), len(stream)]
        for start, end in pairwise(edges):
            client.data_received(stream[start:end])
        await eventually(lambda: len(seen) == len(messages))
        await client.close()
        assert seen == [(data, headers or None) for data, headers in messages]

    asyncio.run(run())


def test_a_header_value_cannot_end_its_line():
    assert b"\r\nEvil: 1" not in _publish_lines("a", "", b"", {"X": "1\r\nEvil: 1"})


async def test_an_answer_that_nobody_gives_times_out():
    client = a_client()
    with pytest.raises(TimeoutError):
        await client.request("a", b"", timeout_s=0.01)
    await client.close()
