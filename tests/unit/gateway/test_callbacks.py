"""Where callbacks may go, how they are signed, and how long they are tried."""

from __future__ import annotations

import ipaddress

import pytest
from glowplug import verify_callback
from glowplug.callbacks import BadSignatureError
from glowplug_contracts.addresses import may_reach, parse_networks
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.http import (
    HEADER_CALLBACK_SIGNATURE,
    HEADER_CALLBACK_TIMESTAMP,
)
from glowplug_gateway.addresses import (
    check_url,
)
from glowplug_gateway.callbacks import BETWEEN_MAX_S, next_try_s
from glowplug_gateway.signing import signature
from glowplug_runtime.guarding import ClosedAddressError, GuardedResolver

from tests.support.builders_records import task_id

BODY = '{"task_id": "inv_1", "größe": 1}'.encode()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_only_public_addresses_are_reached(address):
    assert not may_reach(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_are(address):
    assert may_reach(ipaddress.ip_address(address), ())


def test_a_network_that_is_named_is_reached_and_no_other():
    networks = parse_networks("10.1.0.0/16, ::1/128")
    assert may_reach(ipaddress.ip_address("10.1.2.3"), networks)
    assert may_reach(ipaddress.ip_address("::ffff:10.1.2.3"), networks)
    assert may_reach(ipaddress.ip_address("::1"), networks)
    assert not may_reach(ipaddress.ip_address("10.2.0.1"), networks)
    assert not may_reach(ipaddress.ip_address("127.0.0.1"), networks)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http:///x",
        "http://user:secret@example.com/",
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://012.0.0.1:8080/",
        "http://2130706433/",
        "http://0x7f000001/",
        "https://example.com/ x",
        "https://example.com/\nx",
        "https://exämple.com/",
        "https://example.com:99999/",
        "https://example.com/" + "x" * 3_000,
    ],
)
def test_a_url_that_can_not_be_told_is_refused_at_once(url):
    with pytest.raises(InvalidRequestError) as refused:
        check_url(url, ())
    assert "callback_url" in refused.value.details["fields"]


def test_good_urls_are_taken():
    check_url("https://example.com/hook?x=1", ())
    check_url("http://93.184.216.34:8080/", ())
    check_url("http://127.0.0.1:1/", parse_networks("127.0.0.0/8"))


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001"])
async def test_a_name_is_checked_by_what_it_resolves_to(host):
    with pytest.raises(ClosedAddressError, match="some_networks"):
        await GuardedResolver((), "some_networks").resolve(host, 80)
    (found, *_) = await GuardedResolver(parse_networks("127.0.0.0/8"), "some_networks").resolve(
        host, 80
    )
    assert found["host"] == "127.0.0.1"


async def test_a_host_that_can_not_be_a_name_is_an_error_of_the_connection():
    with pytest.raises(OSError, match="no host name"):
        await GuardedResolver((), "some_networks").resolve("x" * 64 + ".example", 80)


def signed(body: bytes = BODY, at: int = 1_000, secret: str = "s") -> dict[str, str]:
    return {
        HEADER_CALLBACK_TIMESTAMP: str(at),
        HEADER_CALLBACK_SIGNATURE.upper(): signature(secret, at, body),
    }


def test_what_the_gateway_signs_the_receiver_verifies():
    assert verify_callback("s", signed(), BODY, now=1_100)["task_id"] == "inv_1"


@pytest.mark.parametrize(
    ("headers", "body", "now"),
    [
        (signed(), BODY + b" ", 1_000),
        (signed() | {HEADER_CALLBACK_TIMESTAMP: "1001"}, BODY, 1_000),
        (signed(secret="other"), BODY, 1_000),
        (signed(), BODY, 1_301),
        (signed(), BODY, 699),
        ({}, BODY, 1_000),
        ({HEADER_CALLBACK_TIMESTAMP: "1000"}, BODY, 1_000),
        (signed() | {HEADER_CALLBACK_TIMESTAMP: "²"}, BODY, 1_000),
        (signed() | {HEADER_CALLBACK_SIGNATURE.upper(): "v1=ä"}, BODY, 1_000),
    ],
)
def test_what_was_changed_or_is_old_is_not(headers, body, now):
    with pytest.raises(BadSignatureError):
        verify_callback("s", headers, body, now=now)


def test_pauses_double_up_to_a_bound_and_end():
    pauses = [next_try_s(task_id(1), attempts, 14, 1.0) for attempts in range(1, 15)]
    assert pauses[-1] is None
    assert all(0.8 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:12]))
    assert next_try_s(task_id(1), 50, 100, 1.0) <= BETWEEN_MAX_S
    assert next_try_s(task_id(1), 3, 14, 1.0) != next_try_s(task_id(2), 3, 14, 1.0)
