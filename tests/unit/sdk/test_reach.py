"""`block_network=` and `allow_list=` as they are written."""

from __future__ import annotations

import glowplug
import pytest
from glowplug import Sandbox


def plain(x):
    return x


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"block": None, "allow": []}),
        ({"block_network": True}, {"block": True, "allow": []}),
        ({"block_network": False}, {"block": False, "allow": []}),
        ({"allow_list": ["pypi.org"]}, {"block": False, "allow": ["pypi.org"]}),
        ({"allow_list": ("10.0.0.0/8",)}, {"block": False, "allow": ["10.0.0.0/8"]}),
    ],
)
def test_what_is_asked(given, asked):
    assert glowplug.function(**given)(plain).asked.network == asked
    assert Sandbox(**given).network == asked


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"block_network": "yes"}, TypeError, "True or False"),
        ({"allow_list": "pypi.org"}, TypeError, "list of strings"),
        ({"allow_list": [1]}, TypeError, "list of strings"),
        ({"allow_list": []}, ValueError, "block_network=True"),
        ({"allow_list": ["a.b"], "block_network": True}, ValueError, "leave it"),
    ],
)
def test_mistakes_raise_where_they_are_written(given, error, words):
    with pytest.raises(error, match=words):
        glowplug.function(**given)
    with pytest.raises(error, match=words):
        Sandbox(**given)
