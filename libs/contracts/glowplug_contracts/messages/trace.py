"""Spans, kept by the platform for inspection. They follow W3C trace context."""

from __future__ import annotations

from glowplug_contracts.messages import Message


class Span(Message, frozen=True, kw_only=True):
    """One timed piece of a trace; ids are lower-case hexadecimal (32 and 16 characters)."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_at: float
    end_at: float
    error: str = ""
    attributes: dict[str, str | int | float | bool] = {}


class SpanSegment(Message, frozen=True, kw_only=True):
    """Finished spans of one process."""

    service: str
    instance: str
    spans: tuple[Span, ...]
