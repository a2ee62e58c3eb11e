"""Which names a container may ask for, and which addresses it is told. Pure.

What an allow-list does not name does not exist inside. Addresses that nobody may reach are never told,
whoever's names stand for them: so a name can't be turned against this host or its neighbours afterwards.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
from glowplug_contracts.reach import Reach

from glowplug_worker.runtime.network import dns
from glowplug_worker.runtime.network.rules import IPv4Address, Plan

# Whole zones, and everything that there is of a name.
_TOO_MUCH: Final = frozenset({251, 252, 255})
# An address may be told, and so be reached, for at most so long without asking again.
TTL_MAX_S: Final = 3600
# A listed address stays open for a while after its name should be asked again, but never too shortly.
OPEN_MIN_S: Final = 60
OPEN_AFTER_S: Final = 30


class Step(Enum):
    """What is done with a question that may be asked."""

    ADDRESSES = "ask for its addresses"
    PASS_ON = "pass it on as it is"  # noqa: S105 - no password


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered: a code, and addresses for so long."""

    code: int
    addresses: tuple[IPv4Address, ...] = ()
    ttl_s: int = 0

    @property
    def open_s(self) -> float:
        """Return how long a list lets its container reach the addresses."""
        return max(self.ttl_s, OPEN_MIN_S) + OPEN_AFTER_S


def judge(question: dns.Question, reach: Reach | None) -> Step | Told:
    """Return what to do with a question; `reach` None: no list."""
    if question.klass != dns.IN:
        return Told(code=dns.REFUSED)
    if question.kind in _TOO_MUCH:
        return Told(code=dns.NOTIMP)
    if reach is not None and not reach.lets(question.name):
        return Told(code=dns.NXDOMAIN)
    if question.kind == dns.A:
        return Step.ADDRESSES
    # There is no IPv6 inside; and other records of listed names could carry anything to and fro.
    if question.kind == dns.AAAA or reach is not None:
        return Told(code=dns.NOERROR)
    return Step.PASS_ON


def tell(plan: Plan, found: dns.Addresses) -> Told:
    """Return what is told of what was found."""
    fit = tuple(address for address in found.addresses if plan.lets(address))
    return Told(code=found.code, addresses=fit, ttl_s=min(found.ttl_s, TTL_MAX_S))


def nameservers(resolv_conf: str) -> list[str]:
    """Return the addresses of the name servers that a host is configured with, in order."""
    lines = (line.split() for line in resolv_conf.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
