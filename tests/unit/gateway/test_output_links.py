"""Public addresses of outputs: what is good, and how what user code made is answered."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import ForbiddenError, InvalidRequestError
from glowplug_contracts.messages.output import OutputPart
from glowplug_gateway.output_links import (
    Span,
    UnsatisfiableError,
    check_link,
    check_output_name,
    headers_of,
    pieces_of,
    range_of,
    signed_path,
)
from hypothesis import given
from hypothesis import strategies as st

KEY = b"k" * 32
ID = "out_00000000000000000000000001"


def query_of(path: str) -> tuple[str, str]:
    from urllib.parse import parse_qs, urlsplit

    query = parse_qs(urlsplit(path).query)
    return query["expires"][0], query["sig"][0]


def code_of(output_id: str, name: str, query: tuple[str, str], now: float, key=KEY) -> str:
    try:
        check_link(key, output_id, name, query, now)
    except ForbiddenError as error:
        return error.code
    return "good"


def test_an_address_is_good_until_its_second_and_not_after():
    query = query_of(signed_path(KEY, ID, "a b.png", 1_000))
    assert code_of(ID, "a b.png", query, 999.9) == "good"
    assert code_of(ID, "a b.png", query, 1_000.0) == "output.link_expired"


def test_whatever_is_changed_in_an_address_it_is_not_good():
    expires, sig = query_of(signed_path(KEY, ID, "a.png", 1_000))
    forged = [
        (ID[:-1] + "2", "a.png", (expires, sig)),
        (ID, "b.png", (expires, sig)),
        (ID, "a.png", ("9999", sig)),
        (ID, "a.png", ("+1000", sig)),
        (ID, "a.png", ("01000", sig[:-1] + ("0" if sig[-1] != "0" else "1"))),
        (ID, "a.png", (expires, "")),
        (ID, "a.png", ("", "")),
        (ID, "a.png", ("9" * 400, sig)),
        (ID, "a.png", ("1000\n", sig)),
        (ID, "a.png", (expires, "é\udcff")),
        (ID, "a.png\n1000", (expires, sig)),
    ]
    assert {code_of(*one, now=1.0) for one in forged} == {"output.bad_link"}
    assert code_of(ID, "a.png", (expires, sig), 1.0, key=b"x" * 32) == "output.bad_link"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../etc/passwd",
        "a/b",
        "a\\b",
        "a\x00b",
        "a\nb",
        "x" * 256,
        "é" * 128,
        "\udcff",
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    with pytest.raises(InvalidRequestError):
        check_output_name(name)


def test_plain_names_pass_in_any_script():
    for name in ("a.png", "..a", "bild ü.png", "文.txt", "x" * 255):
        assert check_output_name(name) == name


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.pdf", "a.js", "a.xml", "a", "a.png.gz"])
def test_what_could_run_is_a_download_of_no_type(name):
    headers = headers_of(name)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"].startswith("attachment;")


def test_a_picture_is_shown_and_nothing_of_it_may_run():
    headers = headers_of('p"ic\r\nture ü.png')
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Disposition"].startswith("inline;")
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=90-", Span(90, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("bytes=5-2", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=0-1", None),
    ],
)
def test_ranges(header, span):
    assert range_of(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=200-300"])
def test_a_range_behind_the_end_is_416(header):
    with pytest.raises(UnsatisfiableError):
        range_of(header, 100)


@given(
    sizes=st.lists(st.integers(1, 20), max_size=8),
    first=st.integers(0, 200),
    more=st.integers(0, 200),
)
def test_pieces_are_the_bytes_of_the_range(sizes, first, more):
    parts = tuple(OutputPart(digest=str(number), size=size) for number, size in enumerate(sizes))
    blobs = {str(n): bytes([n]) * size for n, size in enumerate(sizes)}
    whole = b"".join(blobs[part.digest] for part in parts)
    span = Span(min(first, len(whole)), min(first + more, len(whole)))
    got = b"".join(blobs[part.digest][i.first : i.end] for part, i in pieces_of(parts, span))
    assert got == whole[span.first : span.end]
