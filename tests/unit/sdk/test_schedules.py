"""`@schedule` as it is written: checked where it stands, and carried to the platform whole."""

from __future__ import annotations

import glowplug
import msgspec
import pytest
from glowplug.asked import Times
from glowplug.description import describe_asked
from glowplug.errors import NotYetSupportedError
from glowplug.schedules import Schedule
from glowplug_contracts.messages.deployment import DeploymentSpec
from glowplug_contracts.messages.schedule import CatchUp, ScheduleSpec


def test_says_when_where_and_what_to_catch_up() -> None:
    @glowplug.schedule("0 9 * * MON-FRI", timezone="Europe/Berlin", catch_up="one", retries=2)
    def report(context): ...

    assert isinstance(report, Schedule)
    assert report.asked.schedule == Times("0 9 * * MON-FRI", "Europe/Berlin", "one")
    assert report.asked.retry.max_retries == 2
    assert report.asked.inputs is None
    told = describe_asked(report.asked, source={}, image={}, is_generator=False)
    assert msgspec.convert(told, DeploymentSpec).schedule == ScheduleSpec(
        when="0 9 * * MON-FRI", timezone="Europe/Berlin", catch_up=CatchUp.ONE
    )


def test_when_may_be_named() -> None:
    assert glowplug.schedule(when="@hourly")(lambda: None).asked.schedule == Times(
        "@hourly", "UTC", "skip"
    )


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, TypeError),
        ({"when": 30}, TypeError),
        ({"when": "sometimes"}, ValueError),
        ({"when": "@daily", "timezone": 1}, TypeError),
        ({"when": "@daily", "catch_up": "maybe"}, ValueError),
        ({"when": "@daily", "colour": "red"}, TypeError),
        ({"when": "@daily", "inputs": {}}, NotYetSupportedError),
        ({"when": "@daily", "gpu_memory": 1}, ValueError),
    ],
)
def test_what_is_wrong_is_told_where_it_is_written(given, kind) -> None:
    with pytest.raises(kind):
        glowplug.schedule(**given)


def test_bare_it_names_what_is_missing() -> None:
    with pytest.raises(TypeError, match="needs a time"):
        glowplug.schedule(lambda: None)


def test_a_function_that_needs_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="without arguments: give 'day' a default"):
        glowplug.schedule("@daily")(lambda day: None)
    glowplug.schedule("@daily")(lambda day=1, *more, context, **rest: None)


def test_a_generator_is_refused() -> None:
    def items():
        yield 1

    with pytest.raises(TypeError, match="return a list"):
        glowplug.schedule("@daily")(items)


def test_local_runs_it_here() -> None:
    assert glowplug.schedule("@daily")(lambda: 7).local() == 7
