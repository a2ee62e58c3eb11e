"""Traces: spans by OpenTelemetry, kept by the platform itself and exported by OTLP where asked.

Context travels as W3C `traceparent` text in HTTP headers and in messages' `trace` fields. Finished spans
go to the SPAN stream in segments, a few times a second; where the standard OTEL_EXPORTER_OTLP_* variables
are set they also go to that collector. Source: W3C Trace Context; OpenTelemetry specification.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.messages.trace import Span, SpanSegment
from glowplug_contracts.subjects import SPAN
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from glowplug_runtime.bus import Bus

log = structlog.get_logger()

NS = 1_000_000_000
FLUSH_S = 0.1
SPANS_KEPT_MAX = 20_000
SEGMENT_SPANS_MAX = 200
OTLP_FLUSH_MS = 2_000

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")


class SpanHandle:
    """A span that runs."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        flags = f"{int(context.trace_flags):02x}"
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-{flags}"

    def set(self, **attributes: str | float | bool) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def fail(self, message: str) -> None:
        """Mark the span as failed."""
        self._span.set_status(Status(StatusCode.ERROR, message))

    def end(self, at_unix: float | None = None) -> None:
        """End it now, or at this Unix time."""
        self._span.end(None if at_unix is None else int(at_unix * NS))


class _Keeper(SpanProcessor):
    """Holds finished spans until they are sent; beyond the bound it drops and counts."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        if len(self.spans) >= SPANS_KEPT_MAX:
            self.dropped += 1
            return
        context = span.get_span_context()
        if context is None or span.start_time is None or span.end_time is None:
            return
        self.spans.append(
            Span(
                trace_id=f"{context.trace_id:032x}",
                span_id=f"{context.span_id:016x}",
                parent_id=f"{span.parent.span_id:016x}" if span.parent else "",
                name=span.name,
                service=str(span.resource.attributes.get("service.name", "")),
                start_at=span.start_time / NS,
                end_at=span.end_time / NS,
                error=span.status.description or "error"
                if span.status.status_code is StatusCode.ERROR
                else "",
                attributes={
                    k: v
                    for k, v in (span.attributes or {}).items()
                    if isinstance(v, str | int | float)
                },
            )
        )


class _State:
    keeper = _Keeper()
    provider: TracerProvider | None = None
    tracer: otel.Tracer = otel.NoOpTracer()


def configure(service: str, instance: str, sample: float) -> None:
    """Start tracing in this process (after any fork)."""
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample)),
        resource=Resource({"service.name": service, "service.instance.id": instance}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(_State.keeper)
    if any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,  # 60 ms that only those pay who export
        )

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _State.provider = provider
    _State.tracer = provider.get_tracer("glowplug")


def start_span(
    name: str,
    parent: str = "",
    *,
    start_unix: float | None = None,
    **attributes: str | float | bool,
) -> SpanHandle:
    """Return a started span; the caller ends it. A malformed `parent` starts a new trace."""
    return SpanHandle(
        _State.tracer.start_span(
            name,
            context=_context(parent),
            start_time=None if start_unix is None else int(start_unix * NS),
            attributes=attributes,
        )
    )


@contextlib.contextmanager
def span(name: str, parent: str = "", **attributes: str | float | bool) -> Iterator[SpanHandle]:
    """Run the block inside a span; an exception marks it failed and passes."""
    handle = start_span(name, parent, start_unix=None, **attributes)
    try:
        yield handle
    except BaseException as error:
        handle.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        handle.end()


def record_span(
    name: str,
    parent: str,
    start_unix: float,
    end_unix: float,
    error: str = "",
    **attributes: str | float | bool,
) -> str:
    """Record a span that is over; return its traceparent."""
    handle = start_span(name, parent, start_unix=start_unix, **attributes)
    if error:
        handle.fail(error)
    handle.end(max(start_unix, end_unix))
    return handle.traceparent


def new_trace() -> str:
    """Return a traceparent that no span has yet: the start of a sampled trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in a traceparent, or "" if it is malformed."""
    match = _TRACEPARENT.match(traceparent)
    return match.group(1) if match else ""


async def flush(bus: Bus, service: str, instance: str) -> None:
    """Send the finished spans. What can't be sent now is tried again with the next."""
    keeper = _State.keeper
    if keeper.dropped:
        log.warning("tracing.dropped", spans=keeper.dropped)
        keeper.dropped = 0
    while keeper.spans:
        segment, keeper.spans = keeper.spans[:SEGMENT_SPANS_MAX], keeper.spans[SEGMENT_SPANS_MAX:]
        message = SpanSegment(service=service, instance=instance, spans=tuple(segment))
        try:
            await bus.append(SPAN.at(service=service), message)
        except PlatformError as error:
            keeper.spans = (segment + keeper.spans)[:SPANS_KEPT_MAX]
            log.warning("tracing.delayed", error=str(error))
            return


def shutdown() -> None:
    """Give the OTLP exporter a bounded last chance."""
    if _State.provider:
        _State.provider.force_flush(OTLP_FLUSH_MS)
        _State.provider.shutdown()


def _context(parent: str) -> Context:
    match = _TRACEPARENT.match(parent)
    if not match:
        return Context()
    context = SpanContext(
        trace_id=int(match.group(1), 16),
        span_id=int(match.group(2), 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match.group(3), 16)),
    )
    return otel.set_span_in_context(NonRecordingSpan(context), Context())
