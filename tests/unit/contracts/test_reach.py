"""What an allow-list may name, and what it lets."""

from __future__ import annotations

import ipaddress

import pytest
from glowplug_contracts.reach import parse_reach


def test_names_wildcards_addresses_and_ranges_are_read():
    reach = parse_reach(
        ["PyPI.org.", "*.Pythonhosted.org", "203.0.113.7", "198.51.100.9/24", "bücher.example"]
    )
    assert reach.names == {"pypi.org", "xn--bcher-kva.example"}
    assert reach.below == {"pythonhosted.org"}
    assert reach.networks == (
        ipaddress.IPv4Network("203.0.113.7/32"),
        ipaddress.IPv4Network("198.51.100.0/24"),
    )


@pytest.mark.parametrize(
    ("name", "let"),
    [
        ("pypi.org", True),
        ("files.pypi.org", False),
        ("files.pythonhosted.org", True),
        ("a.b.pythonhosted.org", True),
        ("pythonhosted.org", False),  # a wildcard stands for what is below
        ("evilpythonhosted.org", False),
        ("pypi.org.evil.example", False),
        ("org", False),
        ("", False),
    ],
)
def test_only_what_is_listed_is_let(name, let):
    assert parse_reach(["pypi.org", "*.pythonhosted.org"]).lets(name) is let


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "a..b",
        "-a.example",
        "https://pypi.org",
        "pypi.org:443",
        "pypi.org/simple",
        "a.*.example",
        "10.0.0.0/33",
        "2001:db8::1",
        "::/0",
        "1.2.3",
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.0x1",
        "x" * 64,
        ".".join(["abc"] * 70),
        "new\nline",
        "nul\0",
    ],
)
def test_what_can_not_be_meant_is_refused(entry):
    with pytest.raises(ValueError, match=r"."):
        parse_reach([entry])
