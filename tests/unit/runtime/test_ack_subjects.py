"""Both versions of the broker's ack subjects are read."""

from __future__ import annotations

import pytest
from glowplug_runtime.follower import (
    Place,
    format_stored_time,
    parse_ack_subject,
    parse_stored_time,
)


def test_reads_the_first_version():
    assert parse_ack_subject("$JS.ACK.CALLS_0.owner-g1.1.42.7.1700000000.3") == Place(
        42, 7, 1700000000, 3
    )


def test_reads_the_second_version_with_domain_account_and_token():
    subject = "$JS.ACK._.ACCHASH.CALLS_0.owner-g1.1.42.7.1700000000.3.token"
    assert parse_ack_subject(subject) == Place(42, 7, 1700000000, 3)


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.000000001Z"]
)
def test_stored_times_are_read_to_the_nanosecond(text):
    assert format_stored_time(parse_stored_time(text)) == text


def test_stored_times_are_told_without_zeros_at_their_end():
    assert parse_stored_time("2026-01-02T03:04:05.12Z") % 10**9 == 120_000_000
    assert parse_stored_time("2026-01-02T03:04:05Z") % 10**9 == 0
