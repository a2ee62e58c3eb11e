"""`@on_event` as it is written: checked where it stands, and carried to the platform whole."""

from __future__ import annotations

import pickle

import glowplug
import msgspec
import pytest
from glowplug import BatchFailedError, Event, on_event
from glowplug._vendor import cloudpickle
from glowplug.description import describe_asked
from glowplug.errors import NotYetSupportedError
from glowplug.parameters import HONOURED, NOT_YET
from glowplug_contracts.cloudevents import read_structured
from glowplug_contracts.messages.deployment import DeploymentSpec
from glowplug_contracts.messages.event import EventFilter, TriggerSpec

from tests.unit.sdk.test_parameters import GIVEN, SURFACE


def handle(event):
    return event


def spec_of(wrapper) -> DeploymentSpec:
    source = {"handler": "app:f"}
    told = describe_asked(wrapper.asked, source=source, image={}, is_generator=False)
    return msgspec.convert(told, DeploymentSpec)


def test_patterns_filter_batch_and_window_reach_the_platform() -> None:
    wanted = {"all": [{"exact": {"source": "/a"}}, {"not": {"suffix": {"subject": ".tmp"}}}]}
    made = on_event(["com.*", "subject:x/**"], filter=wanted, batch=10, window=2.5)(handle)
    suffix = EventFilter(kind="suffix", attributes={"subject": ".tmp"})
    assert spec_of(made).trigger == TriggerSpec(
        patterns=("com.*", "subject:x/**"),
        filter=EventFilter(
            kind="all",
            filters=(
                EventFilter(kind="exact", attributes={"source": "/a"}),
                EventFilter(kind="not", filters=(suffix,)),
            ),
        ),
        batch=10,
        window_s=2.5,
    )
    assert (spec_of(made).kind, spec_of(made).inputs) == ("on_event", None)
    assert spec_of(on_event("a")(handle)).trigger == TriggerSpec(patterns=("a",))
    listed = on_event("a", filter=[{"prefix": {"id": "1"}}])(handle)
    assert spec_of(listed).trigger.filter.kind == "all"


@pytest.mark.parametrize(
    ("patterns", "given", "word"),
    [
        (handle, {}, "say which events"),
        ([], {}, "give a pattern"),
        ([""], {}, "no pattern"),
        (5, {}, "give a pattern"),
        ("a", {"batch": 0}, "between 1"),
        ("a", {"batch": 1.5}, "whole number"),
        ("a", {"window": 1}, "needs batch"),
        ("a", {"batch": 2, "window": 0}, "above 0"),
        ("a", {"batch": 2, "window": "1s"}, "give seconds"),
        ("a", {"filter": {"sql": "x"}}, "there are exact"),
        ("a", {"filter": {"exact": {}}}, "attributes"),
        ("a", {"filter": {"exact": {"id": 1}}}, "no attribute"),
        ("a", {"filter": {"exact": {"id": "1"}, "prefix": {}}}, "give one of"),
        ("a", {"filter": {"any": []}}, "list of filters"),
        ("a", {"memmory": 1}, "did you mean 'memory'"),
        ("a", {"inputs": {}}, "not yet supported"),
    ],
)
def test_mistakes_are_told_where_they_are_written(patterns, given, word) -> None:
    with pytest.raises((TypeError, ValueError, NotYetSupportedError), match=word):
        on_event(patterns, **given)


def test_what_can_be_decorated() -> None:
    with pytest.raises(TypeError, match="generator"):
        on_event("a")(lambda event: (yield event))
    with pytest.raises(TypeError, match="decorates a function"):
        on_event("a")(int)
    again = on_event("b")(on_event("a")(handle))
    assert again.__glowplug_fn__ is handle


@pytest.mark.parametrize("name", sorted(set(SURFACE) - {"max_pending_tasks"}))
def test_every_common_parameter_changes_what_is_asked_or_is_refused(name) -> None:
    if name in NOT_YET["on_event"]:
        with pytest.raises(NotYetSupportedError, match=f"{name}=.* is not yet supported; "):
            on_event("a", **{name: object()})
        return
    others = {"gpu": "any"} if name in {"gpu_count", "gpu_memory"} else {}
    asked = on_event("a", **{name: GIVEN[name]}, **others)(handle).asked
    assert asked != on_event("a", **others)(handle).asked


def test_the_table_covers_the_surface() -> None:
    own = {"filter", "batch", "window"}
    assert HONOURED["on_event"] | set(NOT_YET["on_event"]) == set(SURFACE) | own


def test_it_pickles_and_runs_here() -> None:
    made = on_event("a", batch=2)(lambda events: len(events) + 0)
    copy = pickle.loads(cloudpickle.dumps(made))
    assert copy.asked == made.asked
    assert copy.local([1, 2]) == 2
    with pytest.raises(TypeError, match="called by events"):
        made([1])
    with pytest.raises(NotYetSupportedError, match="serve"):
        _ = made.serve


def test_an_event_in_its_json_form_is_what_the_platform_reads() -> None:
    event = Event(
        id="1", source="/a", type="t", subject="s", time="2020-01-01T00:00:00Z",
        data={"x": 1}, extensions={"tenant": "x"},
    )  # fmt: skip
    assert Event.from_json(event.to_json()) == event
    read = read_structured(msgspec.json.encode(event.to_json()))
    assert (read.id, read.subject, read.data, read.extensions) == (
        "1",
        "s",
        b'{"x":1}',
        {"tenant": "x"},
    )
    binary = Event(id="1", source="/a", type="t", data=b"\x00\xff")
    assert Event.from_json(binary.to_json()).data == b"\x00\xff"
    assert read_structured(msgspec.json.encode(binary.to_json())).data == b"\x00\xff"
    assert "data" not in Event(id="1", source="/a", type="t").to_json()
    assert len({event, Event.from_json(event.to_json())}) == 1


def test_a_failed_batch_names_events_and_pickles() -> None:
    events = [Event(id=str(n), source="/a", type="t") for n in range(3)]
    error = BatchFailedError([events[1], "2"], "why")
    assert (error.failed, str(error)) == (("1", "2"), "why")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.failed, str(copy)) == (("1", "2"), "why")


def test_the_names_are_there() -> None:
    for name in ("BatchFailedError", "Event", "on_event", "send_event"):
        assert name in dir(glowplug)
