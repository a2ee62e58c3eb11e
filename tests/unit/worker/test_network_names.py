"""What containers may ask of names and are told, and the messages that carry it."""

from __future__ import annotations

import struct

import pytest
from glowplug_contracts.reach import parse_reach
from glowplug_worker.runtime.network import dns
from glowplug_worker.runtime.network.names import (
    OPEN_AFTER_S,
    OPEN_MIN_S,
    TTL_MAX_S,
    Step,
    Told,
    judge,
    nameservers,
    tell,
)
from glowplug_worker.runtime.network.rules import IPv4Address, make_plan
from hypothesis import given
from hypothesis import strategies as st

PLAN = make_plan("198.18.0.0/15", "10.9.0.0/16")
LIST = parse_reach(["pypi.org", "*.pythonhosted.org"])
TXT, HTTPS = 16, 65
# The question "pypi.org A IN" as dig writes it, with a version of EDNS behind it.
QUERY = bytes.fromhex(
    "1a2b 0120 0001 0000 0000 0001 04707970690 36f7267 00 0001 0001 00 0029 04d0 0000 0000 0000".replace(
        " ", ""
    )
)


def a_question(name: str = "pypi.org", kind: int = dns.A, klass: int = dns.IN) -> dns.Question:
    wire = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"
    return dns.read_question(
        struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + wire + struct.pack(">HH", kind, klass)
    )


@pytest.mark.parametrize(
    ("question", "reach", "step"),
    [
        (a_question("example.org"), None, Step.ADDRESSES),
        (a_question("example.org", TXT), None, Step.PASS_ON),
        (a_question("example.org", dns.AAAA), None, Told(code=dns.NOERROR)),
        (a_question("example.org", 255), None, Told(code=dns.NOTIMP)),
        (a_question("example.org", 252), None, Told(code=dns.NOTIMP)),
        (a_question("version.bind", TXT, 3), None, Told(code=dns.REFUSED)),
        (a_question("pypi.org"), LIST, Step.ADDRESSES),
        (a_question("PyPI.ORG."), LIST, Step.ADDRESSES),
        (a_question("files.pythonhosted.org"), LIST, Step.ADDRESSES),
        (a_question("pypi.org", TXT), LIST, Told(code=dns.NOERROR)),
        (a_question("pypi.org", HTTPS), LIST, Told(code=dns.NOERROR)),
        (a_question("data.evil.example"), LIST, Told(code=dns.NXDOMAIN)),
        (a_question("data.evil.example", TXT), LIST, Told(code=dns.NXDOMAIN)),
        (a_question("pypi.org.evil.example"), LIST, Told(code=dns.NXDOMAIN)),
        (a_question(""), LIST, Told(code=dns.NXDOMAIN)),
    ],
)
def test_what_is_done_with_a_question(question, reach, step):
    assert judge(question, reach) == step


def test_only_addresses_that_may_be_reached_are_told():
    every = (
        "8.8.8.8",
        "10.0.0.1",
        "10.9.1.2",
        "127.0.0.1",
        "169.254.169.254",
        "198.18.0.1",
        "0.0.0.0",
    )
    found = dns.Addresses(code=0, addresses=tuple(map(IPv4Address, every)), ttl_s=90_000)
    told = tell(PLAN, found)
    assert [str(address) for address in told.addresses] == ["8.8.8.8", "10.9.1.2"]
    assert told.ttl_s == TTL_MAX_S
    assert told.open_s == TTL_MAX_S + OPEN_AFTER_S
    assert Told(code=0, ttl_s=0).open_s == OPEN_MIN_S + OPEN_AFTER_S


def test_name_servers_are_read():
    text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.2\n nameserver\tfd00::53 \nnameserver\n"
    assert nameservers(text) == ["10.0.0.2", "fd00::53"]


def test_a_question_is_read_as_programs_write_it():
    question = dns.read_question(QUERY)
    assert (question.number, question.name, question.kind) == (0x1A2B, "pypi.org", dns.A)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        QUERY[:11],
        QUERY[:20],
        QUERY[:2] + b"\x81" + QUERY[3:],  # an answer
        QUERY[:2] + b"\x28" + QUERY[3:],  # an update
        QUERY[:4] + b"\0\2" + QUERY[6:],  # two questions
        QUERY[:6] + b"\0\1" + QUERY[8:],  # answers in a question
        QUERY[:12] + b"\xc0\x0c\0\1\0\1",  # a name that points to itself
        QUERY[:12] + b"\x04a.bc\0\0\1\0\1",  # a dot within a label
        QUERY[:12] + b"\x02\xff\xfe\0\0\1\0\1",
        QUERY[:12]
        + b"\x3f"
        + b"a" * 63
        + b"\x3f"
        + b"a" * 63
        + b"\x3f"
        + b"a" * 63
        + b"\x3f"
        + b"a" * 63,
    ],
)
def test_what_is_no_question_is_refused(data):
    with pytest.raises(dns.MalformedError):
        dns.read_question(data)


def an_answer(question: dns.Question, *records: bytes, flags: int = 0x8180) -> bytes:
    head = struct.pack(">HHHHHH", 9, flags, 1, len(records), 0, 0)
    return head + question.wire + b"".join(records)


def record(kind: int, data: bytes, ttl_s: int = 60, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl_s, len(data)) + data


def test_addresses_behind_aliases_are_found_with_the_shortest_time():
    question = a_question()
    alias = record(5, b"\x03cdn\x07example\0", 20)
    data = an_answer(question, alias, record(dns.A, bytes([1, 2, 3, 4]), 300, b"\x03cdn\xc0\x2a"))
    found = dns.read_addresses(data, question, 9)
    assert found == dns.Addresses(code=0, addresses=(IPv4Address("1.2.3.4"),), ttl_s=20)
    assert dns.passed_on(data, question, 9)[:2] == b"\0\7"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\0\1" + data[2:],  # another number
        lambda data: data[:2] + b"\x01" + data[3:],  # no answer
        lambda data: data[:13] + b"q" + data[14:],  # to another question
        lambda data: data[:-1],
        lambda data: data[:40],
    ],
)
def test_what_is_no_answer_to_the_question_is_refused(change):
    question = a_question()
    data = an_answer(question, record(dns.A, bytes([1, 2, 3, 4])))
    with pytest.raises(dns.MalformedError):
        dns.read_addresses(change(data), question, 9)


def test_what_is_told_can_be_read_again():
    question = a_question()
    addresses = tuple(IPv4Address(f"8.0.0.{n}") for n in range(dns.ADDRESSES_MAX))
    data = dns.reply(question, dns.NOERROR, addresses, 60)
    found = dns.read_addresses(data, question, question.number)
    assert found == dns.Addresses(code=0, addresses=addresses, ttl_s=60)
    assert dns.read_addresses(dns.truncated(question), question, 7).truncated
    assert dns.read_question(dns.ask(question, 5)).number == 5


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data):
    for head in (b"", QUERY[:12], QUERY):
        try:
            question = dns.read_question(head + data)
        except dns.MalformedError:
            continue
        assert len(question.name) <= 255
        assert question.name == question.name.lower()
        assert dns.read_question(dns.ask(question, 1)).name == question.name


@given(st.binary(max_size=600), st.integers(0, 0xFFFF))
def test_any_bytes_of_a_server_are_read_or_refused(data, answers):
    question = a_question()
    head = struct.pack(">HHHHHH", 9, 0x8180, 1, answers, 0, 0) + question.wire
    try:
        found = dns.read_addresses(head + data, question, 9)
    except dns.MalformedError:
        return
    assert len(found.addresses) <= dns.ADDRESSES_MAX
