"""A workspace sees what was done for it, and nothing of others that hangs in the same trace."""

from __future__ import annotations

from glowplug_contracts.messages.trace import Span
from glowplug_gateway.owned_spans import owned_spans


def a_span(span_id: str, parent_id: str = "", **attributes) -> Span:
    return Span(
        trace_id="t",
        span_id=span_id,
        parent_id=parent_id,
        name=span_id,
        service="x",
        start_at=1.0,
        end_at=2.0,
        attributes=attributes,
    )


def ids(spans, workspace, deployments=()) -> list[str]:
    return [span.span_id for span in owned_spans(spans, workspace, deployments)]


MINE = [a_span("a", workspace="mine"), a_span("b", "a"), a_span("c", "b", deployment_id="gone")]


def test_what_the_gateway_did_for_it_and_everything_below_is_its_own():
    assert ids(MINE, "mine") == ["a", "b", "c"]
    assert ids(MINE, "other") == []


def test_who_hangs_a_span_into_a_trace_sees_that_span_only():
    spans = [*MINE, a_span("x", "b", workspace="other"), a_span("y", "x")]
    assert ids(spans, "other") == ["x", "y"]
    assert ids(spans, "mine") == ["a", "b", "c"]


def test_what_began_without_a_request_is_known_by_its_deployment():
    spans = [a_span("fired", deployment_id="dep_1"), a_span("run", "fired"), a_span("alone")]
    assert ids(spans, "mine", {"dep_1"}) == ["fired", "run"]
    assert ids(spans, "other", {"dep_2"}) == []


def test_spans_in_a_circle_belong_to_nobody():
    assert ids([a_span("a", "b"), a_span("b", "a"), a_span("self", "self")], "mine") == []
