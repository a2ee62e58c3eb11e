"""Both versions of the broker's ack subjects are read."""

from __future__ import annotations

from glowplug_runtime.follower import Place, parse_ack_subject


def test_reads_the_first_version():
    assert parse_ack_subject("$JS.ACK.CALLS_0.owner-g1.1.42.7.1700000000.3") == Place(42, 7, 3)


def test_reads_the_second_version_with_domain_account_and_token():
    subject = "$JS.ACK._.ACCHASH.CALLS_0.owner-g1.1.42.7.1700000000.3.token"
    assert parse_ack_subject(subject) == Place(42, 7, 3)
