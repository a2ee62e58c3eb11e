"""When schedules are due: names, elapsed time, cron in a zone, and the two nights a year that are odd."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_runtime.due_times import NEVER, due_times
from hypothesis import given, settings
from hypothesis import strategies as st

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def in_berlin(when: str, start: str, count: int) -> list[str]:
    """Return local times with their offsets: two 02:30 of one night differ by it."""
    times, at = due_times(when, "Europe/Berlin"), local(start)
    found = []
    for _ in range(count):
        at = times.after(at)
        found.append(dt.datetime.fromtimestamp(at, BERLIN).strftime("%d %H:%M%z"))
    return found


def local(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def utc(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("when", "after", "due"),
    [
        ("every 30s", "2026-01-01T00:00:00", "2026-01-01T00:00:30"),
        ("every 30 seconds", "2026-01-01T00:00:29.9", "2026-01-01T00:00:30"),
        ("every 90m", "2026-01-01T00:00:00", "2026-01-01T01:30:00"),
        ("every 1d", "2026-01-01T13:00:00", "2026-01-02T00:00:00"),
        ("@hourly", "2026-01-01T13:00:00", "2026-01-01T14:00:00"),
        ("@Daily", "2026-01-01T13:00:00", "2026-01-02T00:00:00"),
        ("@weekly", "2026-01-01T13:00:00", "2026-01-04T00:00:00"),
        ("@monthly", "2026-01-01T13:00:00", "2026-02-01T00:00:00"),
        ("@yearly", "2026-01-01T13:00:00", "2027-01-01T00:00:00"),
        ("*/5 9-17 * * MON-FRI", "2026-01-02T17:55:00", "2026-01-05T09:00:00"),
        ("* * * * * *", "2026-01-01T00:00:00.5", "2026-01-01T00:00:01"),
        ("0 0 L * *", "2026-02-01T00:00:00", "2026-02-28T00:00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_the_next_due_time(when, after, due) -> None:
    assert due_times(when).after(utc(after)) == utc(due)


def test_a_zone_moves_the_due_time() -> None:
    times = due_times("0 9 * * *", "America/New_York")
    assert times.after(utc("2026-01-01T00:00:00")) == utc("2026-01-01T14:00:00")
    assert times.after(utc("2026-07-01T00:00:00")) == utc("2026-07-01T13:00:00")


def test_a_fixed_time_in_the_skipped_hour_fires_once_right_after_it() -> None:
    assert in_berlin("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:30+0200"]
    assert in_berlin("0,30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:00+0200"]


def test_a_fixed_time_in_the_doubled_hour_fires_once_the_first_time() -> None:
    assert in_berlin("30 2 * * *", "2026-10-24T12:00", 2) == ["25 02:30+0200", "26 02:30+0100"]


def test_what_repeats_follows_elapsed_time_over_both_changes() -> None:
    spring = ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]
    autumn = ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100"]
    assert in_berlin("*/30 * * * *", "2026-03-29T01:00", 3) == spring
    assert in_berlin("*/30 * * * *", "2026-10-25T01:30", 5) == autumn
    assert in_berlin("0 * * * *", "2026-10-25T01:30", 3) == [autumn[0], autumn[2], autumn[4]]


@given(
    st.sampled_from(
        ["30 2 * * *", "*/20 * * * *", "0 1-4 * * *", "15,45 2,3 * * *", "@daily", "*/7 * * * * *"]
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(utc("2026-01-01T00:00:00"), utc("2027-12-31T00:00:00")),
    st.sampled_from([0, 1_774_746_000, 1_792_890_000]),
    st.floats(0, 7_200),
)
@settings(max_examples=300, deadline=None)
def test_whoever_asks_counts_the_same_ones(when, zone, start, near, further) -> None:
    """The next due time is later, and asking anywhere before it names the same one."""
    times = due_times(when, zone)
    start = near or start
    due = times.after(start)
    assert due > start
    assert due == int(due)
    between = min(start + further, due - 0.5)
    assert times.after(max(start, between)) == due


@pytest.mark.parametrize(
    ("when", "zone", "field"),
    [
        ("every 0s", "UTC", "when"),
        ("every 400d", "UTC", "when"),
        ("every blue moon", "UTC", "when"),
        ("* * *", "UTC", "when"),
        ("61 * * * *", "UTC", "when"),
        ("@often", "UTC", "when"),
        ("", "UTC", "when"),
        ("* " * 101, "UTC", "when"),
        ("@daily", "Mars/Olympus", "timezone"),
        ("@daily", "../../etc/passwd", "timezone"),
        ("every 30s", "Europe/Berlin", "timezone"),
    ],
)
def test_what_is_no_schedule_is_refused_by_its_field(when, zone, field) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        due_times(when, zone)
    assert list(refused.value.details["fields"]) == [f"schedule.{field}"]


def test_a_day_that_never_comes_has_no_due_time() -> None:
    assert due_times("0 0 31 2,4 MON").after(0) > 0  # a Monday will do
    times = due_times("0 0 * 2 MON#5")  # a fifth Monday in February: 2044 again
    assert times.after(utc("2026-01-01T00:00:00")) == utc("2044-02-29T00:00:00")
    assert NEVER == 0
