"""Finished spans to any OpenTelemetry collector, by the SDK's own batch exporter (OTLP over HTTP).

Imported only where the standard OTEL_EXPORTER_OTLP_* variables are set; they configure it.
"""

from __future__ import annotations

from collections.abc import Callable

from glowplug_contracts.messages.trace import Span
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

FLUSH_MS = 2_000
NS = 1_000_000_000


def open_exporter(
    service: str, instance: str, exporter: SpanExporter | None = None
) -> tuple[Callable[[Span], None], Callable[[], None]]:
    """Return what to call with each finished span, and what to call at the end (bounded)."""
    resource = Resource({"service.name": service, "service.instance.id": instance})
    processor = BatchSpanProcessor(exporter or OTLPSpanExporter())

    def export(span: Span) -> None:
        processor.on_end(readable(span, resource))

    def end() -> None:
        processor.force_flush(FLUSH_MS)
        processor.shutdown()  # type: ignore[no-untyped-call]

    return export, end


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """Return the span in the SDK's form."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.INTERNAL if span.parent_id else SpanKind.SERVER,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=int(span.start_at * NS),
        end_time=int(span.end_at * NS),
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
