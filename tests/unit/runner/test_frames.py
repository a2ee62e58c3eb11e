"""The frame codec: whatever way the bytes are cut, the same frames come out."""

from __future__ import annotations

import json

import pytest
from glowplug.runner import frames
from glowplug_worker import frames as workers
from hypothesis import given
from hypothesis import strategies as st

HEADERS = st.dictionaries(
    st.text(max_size=8), st.text() | st.integers() | st.booleans(), max_size=4
)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=300)), max_size=6)


@given(FRAMES, st.integers(1, 64))
def test_frames_survive_any_cut(wanted, step):
    sent = [({**header, "type": "log"}, body) for header, body in wanted]
    data = b"".join(frames.encode(*frame) for frame in sent)
    parser = frames.FrameParser()
    got = [f for at in range(0, len(data), step) for f in parser.feed(data[at : at + step])]
    assert got == sent


@given(st.integers(0, 3 * frames.BODY_BYTES_MAX))
def test_a_large_body_is_cut_at_the_bound_and_marked(size):
    pieces = frames.encode_large({"type": "run"}, bytes(size))
    parser = frames.FrameParser()
    got = [frame for piece in pieces for frame in parser.feed(piece)]
    assert sum(len(body) for _, body in got) == size
    assert [bool(header.get("more")) for header, _ in got] == [True] * (len(got) - 1) + [False]
    assert all(len(body) <= frames.BODY_BYTES_MAX for _, body in got)


@pytest.mark.parametrize(
    "prefix",
    [
        (frames.HEADER_BYTES_MAX + 1).to_bytes(4, "big") + bytes(4),
        bytes(4) + (frames.BODY_BYTES_MAX + 1).to_bytes(4, "big"),
    ],
    ids=["header", "body"],
)
def test_lengths_over_the_bound_are_refused_before_anything_is_kept(prefix):
    with pytest.raises(frames.FrameError, match="bound"):
        frames.FrameParser().feed(prefix)


@pytest.mark.parametrize("text", [b"{", b"[1]", b"{}", b'{"type":1}', b"\xff", b"[" * 100_000])
def test_a_header_that_is_no_typed_object_is_refused(text):
    data = len(text).to_bytes(4, "big") + bytes(4) + text
    with pytest.raises(frames.FrameError):
        frames.FrameParser().feed(data)


def test_a_frame_too_large_is_not_sent():
    with pytest.raises(frames.FrameError):
        frames.encode({"type": "x"}, bytes(frames.BODY_BYTES_MAX + 1))


def test_both_sides_of_the_socket_have_the_same_bounds():
    assert workers.HEADER_BYTES_MAX == frames.HEADER_BYTES_MAX
    assert workers.BODY_BYTES_MAX == frames.BODY_BYTES_MAX


def test_what_the_worker_writes_the_runner_reads():
    run = workers.Run(id="inv_1", index=3, format="json", attempt=2, stream=True)
    [(header, body)] = frames.FrameParser().feed(workers.encode_frame(run, b"{}"))
    assert body == b"{}"
    assert header == json.loads(json.dumps(header))
    assert (header["type"], header["index"], header["stream"]) == ("run", 3, True)


def test_what_the_runner_writes_the_worker_reads():
    data = frames.encode(
        {"type": "log", "stream": "stdout", "id": "i", "at": 1.5, "dropped": 2}, b"x"
    )
    [(header, body)] = workers.FrameReader().feed(data)
    assert header == workers.Log(stream="stdout", id="i", at=1.5, dropped=2)
    assert body == b"x"
