"""Which addresses are open to containers, and the rule sets that say so."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from glowplug_worker.runtime.network.rules import (
    CONNECTIONS_MAX,
    IPv4Address,
    IPv4Network,
    host_rules,
    list_rules,
    make_plan,
    platform_rules,
    router_rules,
    unlist_rules,
)
from hypothesis import given
from hypothesis import strategies as st

PLAN = make_plan("198.18.0.0/15")
OPENED = make_plan("198.18.0.0/15", "10.20.0.0/16, 192.168.1.7,100.64.0.0/10")


@pytest.mark.parametrize(
    ("address", "plain", "opened"),
    [
        ("8.8.8.8", True, True),
        ("203.0.113.7", True, True),
        ("172.15.255.255", True, True),
        ("172.16.0.1", False, False),
        ("172.31.255.255", False, False),
        ("10.0.0.1", False, False),
        ("10.20.0.1", False, True),
        ("192.168.1.7", False, True),
        ("192.168.1.8", False, False),
        (
            "100.100.100.200",
            False,
            True,
        ),  # a cloud's metadata, in a network that its operator opened
        ("169.254.169.254", False, False),
        ("168.63.129.16", False, False),
        ("127.0.0.1", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.251", False, False),
        ("239.255.255.250", False, False),
        ("255.255.255.255", False, False),
        ("198.18.0.1", False, False),
        ("198.19.0.1", False, False),
    ],
)
def test_what_is_open(address, plain, opened):
    assert PLAN.lets(IPv4Address(address)) is plain
    assert OPENED.lets(IPv4Address(address)) is opened


@given(st.integers(0, 0xFFFF_FFFF))
def test_what_is_opened_is_all_that_it_opens(number):
    address = IPv4Address(number)
    if OPENED.lets(address) and not PLAN.lets(address):
        assert any(address in network for network in OPENED.opened)
    if PLAN.lets(address):
        assert OPENED.lets(address)
        assert address.is_global or address in IPv4Network("192.0.0.0/8") or _documentation(address)


def _documentation(address: IPv4Address) -> bool:
    return any(
        address in IPv4Network(each)
        for each in ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24")
    )


def test_a_list_of_nothing_but_closed_networks_is_a_mistake():
    assert PLAN.shut(IPv4Network("10.0.0.0/24"))
    assert PLAN.shut(IPv4Network("169.254.169.254/32"))
    assert not PLAN.shut(IPv4Network("0.0.0.0/0"))  # the closed ones in it stay closed
    assert not OPENED.shut(IPv4Network("10.20.5.0/24"))


@pytest.mark.parametrize(
    ("between", "opened"),
    [
        ("198.18.0.0/24", ""),
        ("nonsense", ""),
        ("198.18.0.0/15", "169.254.0.0/16"),
        ("198.18.0.0/15", "0.0.0.0/0"),
        ("198.18.0.0/15", "198.18.5.0/24"),
        ("198.18.0.0/15", "fd00::/8"),
        ("198.18.0.0/15", "10.0.0.1/8"),
    ],
)
def test_what_can_not_be_opened_is_refused(between, opened):
    with pytest.raises(ValueError, match=r"."):
        make_plan(between, opened)


def test_the_order_of_the_rules_is_the_policy():
    lines = [line.strip() for line in router_rules(PLAN).splitlines()]
    forward = lines[lines.index("chain forward {") : lines.index("chain refused {")]
    order = (
        "policy drop",
        "meta nfproto != ipv4 drop",
        "fib saddr . iif oif missing drop",  # a source that is not its own
        "ct state established,related accept",
        'oifname != "up" goto refused',  # other containers
        "tcp dport 25 goto refused",
        "ip daddr @never goto refused",
        "ip daddr . th dport @platform goto refused",
        "ip daddr @closed goto refused",
        f"ct count over {CONNECTIONS_MAX}",
        "iifname vmap @listed",
        'iifname "i*" accept',
    )
    found = [next(n for n, line in enumerate(forward) if rule in line) for rule in order]
    assert found == sorted(found)


@pytest.mark.skipif(
    shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="nftables is not installed"
)
def test_the_rules_are_such_as_nft_reads():
    networks = [IPv4Network("203.0.113.0/25"), IPv4Network("203.0.113.128/25")]
    places = [(IPv4Address("203.0.113.5"), 4222)]
    host = host_rules("glowplug_x", "gpx", IPv4Address("198.19.0.2"), "gp", ["eth0"])
    whole = router_rules(OPENED) + list_rules(7, networks) + platform_rules(places) + host
    whole += list_rules(8, []) + platform_rules([]) + unlist_rules(7)
    checked = subprocess.run(
        ["unshare", "--net", "--map-root-user", "nft", "--check", "--file", "-"],
        input=whole,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in checked.stderr:
        pytest.skip(f"no namespaces here: {checked.stderr.strip()}")
    assert checked.returncode == 0, checked.stderr
