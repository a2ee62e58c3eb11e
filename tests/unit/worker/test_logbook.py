"""A container's output: bounded, in order, honest about what is missing."""

from __future__ import annotations

from typing import Any

from glowplug_worker.logbook import BURST_BYTES, LINE_BYTES, RATE_BYTES_S, SEGMENT_BYTES, Logbook


def a_logbook() -> Logbook:
    return Logbook(
        container_id="ctr_1", deployment_id="dep_1", workspace="default", name="f", now=0.0
    )


def write(book: Logbook, piece: bytes, now: float = 0.0, **fields: Any) -> None:
    book.write(piece, stream="stdout", invocation_id="inv_1", at=1.0, now=now, **fields)


def drain(book: Logbook) -> list[Any]:
    segments = []
    while book.pending:
        segments.append(book.take(1.0))
    return segments


def test_keeps_lines_in_order_with_their_ends() -> None:
    book = a_logbook()
    write(book, b"one\ntwo\npart")
    write(book, b"ial\n")
    (segment,) = drain(book)
    assert [line.text for line in segment.lines] == ["one\n", "two\n", "part", "ial\n"]
    assert {line.invocation_id for line in segment.lines} == {"inv_1"}
    assert (segment.number, segment.dropped) == (0, 0)


def test_numbers_its_segments() -> None:
    book = a_logbook()
    write(book, b"a\n")
    drain(book)
    write(book, b"b\n")
    assert [each.number for each in drain(book)] == [1]


def test_segments_stay_small_and_lines_too() -> None:
    book = a_logbook()
    write(book, b"x" * 200_000 + b"\n" + b"short\n" * 1000)
    segments = drain(book)
    sizes = [sum(len(line.text) for line in each.lines) for each in segments]
    assert len(segments) > 1
    assert max(sizes) <= SEGMENT_BYTES + 32 * 1024
    joined = "".join(line.text for each in segments for line in each.lines)
    assert joined == "x" * 200_000 + "\n" + "short\n" * 1000


def test_drops_beyond_the_burst_and_says_so_where_it_happened() -> None:
    book = a_logbook()
    line = b"y" * 952 + b"\n"
    fits = BURST_BYTES // (len(line) + LINE_BYTES)
    for _ in range(fits + 7):
        write(book, line)
    later = 1.0
    write(book, b"after\n", now=later)
    segments = drain(book)
    texts = [each.text for segment in segments for each in segment.lines]
    assert len(texts) == fits + 2
    assert "7 lines dropped" in texts[-2]
    assert texts[-1] == "after\n"
    assert sum(each.dropped for each in segments) == 7
    assert book.dropped_total == 7


def test_earns_its_rate_back() -> None:
    book = a_logbook()
    line = b"z" * 1023 + b"\n"
    while not book.dropped_total:
        write(book, line)
        drain(book)
    before = book.dropped_total
    seconds = 2.0
    may = int(seconds * RATE_BYTES_S / (len(line) + LINE_BYTES)) - 1
    for _ in range(may):
        write(book, line, now=seconds)
    assert book.dropped_total == before


def test_says_what_the_runner_itself_dropped() -> None:
    book = a_logbook()
    write(book, b"next\n", dropped=3)
    (segment,) = drain(book)
    assert "3 lines dropped" in segment.lines[0].text
    assert segment.dropped == 3


def test_a_drop_at_the_very_end_is_said_too() -> None:
    book = a_logbook()
    write(book, b"", dropped=2)
    (segment,) = drain(book)
    assert "2 lines dropped" in segment.lines[0].text


def test_any_bytes_are_text() -> None:
    book = a_logbook()
    write(book, b"\xff\xfe\n")
    assert drain(book)[0].lines[0].text == "\ufffd\ufffd\n"


def test_remembers_the_last_lines() -> None:
    book = a_logbook()
    write(book, b"".join(b"%d\n" % each for each in range(100)))
    assert book.last_lines == tuple(str(each) for each in range(80, 100))
