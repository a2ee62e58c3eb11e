"""What the gateway refuses of a network that is asked for."""

from __future__ import annotations

import pytest
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.reach import ENTRIES_MAX
from glowplug_gateway.reaching import check_network


@pytest.mark.parametrize(
    "network",
    [
        NetworkSpec(),
        NetworkSpec(block=True),
        NetworkSpec(block=False),
        NetworkSpec(allow=("pypi.org", "*.pypi.org", "203.0.113.0/24")),
    ],
)
def test_what_can_be_meant(network):
    assert check_network(network) == {}


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (NetworkSpec(block=True, allow=("pypi.org",)), "one of them"),
        (NetworkSpec(allow=("https://pypi.org",)), "no host name"),
        (NetworkSpec(allow=("2001:db8::/32",)), "IPv6"),
        (NetworkSpec(allow=("a.example",) * (ENTRIES_MAX + 1)), str(ENTRIES_MAX)),
    ],
)
def test_what_can_not(network, words):
    assert words in check_network(network)["network.allow"]
