"""What a container gets of the network: the whole table."""

from __future__ import annotations

import itertools

import pytest
from glowplug_contracts.messages.container import ContainerKind
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_worker.access import Access, Granted, Means, Refused, decide

FUNCTION, SANDBOX, BUILD = ContainerKind.FUNCTION, ContainerKind.SANDBOX, ContainerKind.BUILD
ROOT = Means(own=True, none=True, host=True)
USER = Means(own=False, none=True, host=True)  # bubblewrap without root
BARE = Means(own=False, none=False, host=True)  # a plain process without root
SHUT = Means(own=False, none=True, host=False)  # GLOWPLUG_WORKER_NETWORK=none

UNSAID, BLOCK, OPEN = NetworkSpec(), NetworkSpec(block=True), NetworkSpec(block=False)
LISTED = NetworkSpec(block=False, allow=("pypi.org",))


@pytest.mark.parametrize(
    ("kind", "asked", "means", "gets"),
    [
        (FUNCTION, UNSAID, ROOT, "internet"),
        (FUNCTION, UNSAID, USER, "host"),
        (FUNCTION, UNSAID, BARE, "host"),
        (FUNCTION, UNSAID, SHUT, "none"),
        (FUNCTION, OPEN, SHUT, "none"),
        (FUNCTION, BLOCK, ROOT, "none"),
        (FUNCTION, BLOCK, USER, "none"),
        (FUNCTION, BLOCK, BARE, None),
        (FUNCTION, LISTED, ROOT, "listed"),
        (FUNCTION, LISTED, USER, None),
        (SANDBOX, UNSAID, ROOT, "none"),
        (SANDBOX, UNSAID, USER, "none"),
        (SANDBOX, UNSAID, BARE, "host"),  # which isolates nothing at all, and says so
        (SANDBOX, OPEN, ROOT, "internet"),
        (SANDBOX, OPEN, USER, "host"),
        (SANDBOX, LISTED, ROOT, "listed"),
        (SANDBOX, LISTED, BARE, None),
        (BUILD, UNSAID, ROOT, "host"),
    ],
)
def test_what_is_granted(kind, asked, means, gets):
    granted = decide(kind, asked, means)
    if gets is None:
        assert isinstance(granted, Refused)
        assert granted.why
    else:
        assert isinstance(granted, Granted)
        assert granted.access == gets


def test_what_was_asked_for_in_words_is_never_weakened():
    every = itertools.product((FUNCTION, SANDBOX), (BLOCK, LISTED), (ROOT, USER, BARE, SHUT))
    for kind, asked, means in every:
        granted = decide(kind, asked, means)
        if isinstance(granted, Granted):
            assert granted.access is (Access.NONE if asked.block else Access.LISTED)


def test_a_list_that_can_not_be_read_is_refused():
    granted = decide(FUNCTION, NetworkSpec(block=False, allow=("no name",)), ROOT)
    assert isinstance(granted, Refused)
