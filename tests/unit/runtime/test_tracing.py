"""Spans are children of the traceparent they were given, and malformed ones start anew."""

from __future__ import annotations

import pytest
from glowplug_runtime import tracing


@pytest.fixture(autouse=True)
def fresh_keeper(monkeypatch):
    monkeypatch.setattr(tracing._State, "spans", [])
    tracing.configure("demo", "demo-1", 1.0)


def kept():
    return tracing._State.spans


def test_a_span_is_a_child_of_its_parent_and_keeps_its_times():
    root = tracing.record_span("root", "", 100.0, 103.0, color="red")
    tracing.record_span("child", root, 101.0, 102.0, error="boom")
    first, second = kept()
    assert (first.start_at, first.end_at, first.attributes) == (100.0, 103.0, {"color": "red"})
    assert second.trace_id == first.trace_id == tracing.trace_id_of(root)
    assert second.parent_id == first.span_id
    assert (second.error, second.service) == ("boom", "demo")


def test_a_failing_block_marks_its_span():
    with pytest.raises(ValueError, match="no"), tracing.span("work"):
        raise ValueError("no")
    assert kept()[0].error == "ValueError: no"


@pytest.mark.parametrize("parent", ["", "00-zz-11-01", "garbage"])
def test_a_malformed_parent_starts_a_new_trace(parent):
    tracing.record_span("root", parent, 1.0, 2.0)
    assert kept()[0].parent_id == ""


def test_an_unsampled_parent_is_not_recorded():
    tracing.record_span("child", "00-" + "1" * 32 + "-" + "2" * 16 + "-00", 1.0, 2.0)
    assert kept() == []


def test_a_share_of_new_traces_is_sampled_and_children_follow():
    tracing.configure("demo", "demo-1", 0.5)
    for _ in range(400):
        tracing.record_span("child", tracing.record_span("root", "", 1.0, 2.0), 1.0, 2.0)
    names = [one.name for one in kept()]
    assert 100 < names.count("root") < 300
    assert names.count("child") == names.count("root")


def test_spans_go_to_a_collector_in_the_sdks_form_too():
    from glowplug_runtime import otlp
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    collected = InMemorySpanExporter()
    export, end = otlp.open_exporter("demo", "demo-1", collected)
    root = tracing.record_span("root", "", 100.0, 103.0, color="red")
    tracing.record_span("child", root, 101.0, 102.0, error="boom")
    for one in kept():
        export(one)
    end()
    first, second = collected.get_finished_spans()
    assert (first.name, first.attributes["color"], first.start_time) == ("root", "red", 100 * 10**9)
    assert second.parent.span_id == first.context.span_id
    assert second.status.description == "boom"
    assert first.resource.attributes["service.name"] == "demo"
