"""Spans are children of the traceparent they were given, and malformed ones start anew."""

from __future__ import annotations

import pytest
from glowplug_runtime import tracing


@pytest.fixture(autouse=True)
def fresh_keeper(monkeypatch):
    monkeypatch.setattr(tracing._State, "keeper", tracing._Keeper())
    tracing.configure("demo", "demo-1", 1.0)


def kept():
    return tracing._State.keeper.spans


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
