"""Settings come from the environment once, and mistakes are refused by name."""

from __future__ import annotations

import pytest
from glowplug_runtime.settings import Settings, SettingsError, load


class DemoSettings(Settings, frozen=True, kw_only=True):
    slots: int = 4


def test_defaults_stand_where_nothing_is_set():
    assert load(DemoSettings, "demo", {}) == DemoSettings()


def test_the_services_own_variable_wins_over_the_common_one():
    env = {
        "GLOWPLUG_LOG_LEVEL": "debug",
        "GLOWPLUG_DEMO_LOG_LEVEL": "error",
        "GLOWPLUG_DEMO_SLOTS": "9",
    }
    found = load(DemoSettings, "demo", env)
    assert (found.log_level, found.slots) == ("error", 9)


def test_a_services_own_field_has_no_common_variable():
    assert load(DemoSettings, "demo", {"GLOWPLUG_SLOTS": "9"}).slots == 4


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"GLOWPLUG_DEMO_SLOT": "9"}, "GLOWPLUG_DEMO_SLOT"),
        ({"GLOWPLUG_DEMO_SLOTS": "many"}, "GLOWPLUG_DEMO_SLOTS"),
    ],
)
def test_refuses_what_it_does_not_know_or_cannot_read(env, named):
    with pytest.raises(SettingsError, match=named):
        load(DemoSettings, "demo", env)
