"""Traces: W3C context in, spans out; kept by the platform itself and exported by OTLP where asked.

Context travels as W3C `traceparent` text in HTTP headers and in messages' `trace` fields. Finished spans
go to the SPAN stream in segments, a few times a second. A span costs about 3 µs here against 20–60 in the
OpenTelemetry SDK, and there are several on every call's path; so the SDK comes in only where the standard
OTEL_EXPORTER_OTLP_* variables are set: finished spans are then handed to its batch exporter too.
Source: W3C Trace Context; OpenTelemetry specification.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.messages.trace import Span, SpanSegment
from glowplug_contracts.subjects import SPAN

from glowplug_runtime.bus import Bus

log = structlog.get_logger()

FLUSH_S = 0.1
SPANS_KEPT_MAX = 20_000
SEGMENT_SPANS_MAX = 200

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
_HALF_BITS = 64

Attribute = str | int | float | bool


class SpanHandle:
    """A span that runs. `traceparent` makes others its children."""

    __slots__ = (
        "_attributes",
        "_error",
        "_name",
        "_parent_id",
        "_sampled",
        "_span_id",
        "_start_at",
        "trace_id",
    )

    def __init__(
        self, name: str, parent: str, start_unix: float | None, attributes: dict[str, Attribute]
    ) -> None:
        match = _TRACEPARENT.match(parent)
        if match:
            self.trace_id, self._parent_id, flags = match.groups()
            self._sampled = bool(int(flags, 16) & 1)
        else:
            low = random.getrandbits(_HALF_BITS)  # unpredictability is not what ids are for
            self.trace_id = f"{random.getrandbits(_HALF_BITS):016x}{low:016x}"
            self._parent_id = ""
            self._sampled = low < _State.sample * 2**_HALF_BITS
        self._span_id = f"{random.getrandbits(_HALF_BITS):016x}"
        self._name = name
        self._start_at = time.time() if start_unix is None else start_unix
        self._attributes = attributes
        self._error = ""

    @property
    def traceparent(self) -> str:
        """Return the context that makes others this span's children."""
        return f"00-{self.trace_id}-{self._span_id}-0{int(self._sampled)}"

    def set(self, **attributes: Attribute) -> None:
        """Add attributes."""
        self._attributes.update(attributes)

    def fail(self, message: str) -> None:
        """Mark the span as failed."""
        self._error = message or "error"

    def end(self, at_unix: float | None = None) -> None:
        """End it now, or at this Unix time."""
        if not self._sampled:
            return
        _State.keep(
            Span(
                trace_id=self.trace_id,
                span_id=self._span_id,
                parent_id=self._parent_id,
                name=self._name,
                service=_State.service,
                start_at=self._start_at,
                end_at=time.time() if at_unix is None else at_unix,
                error=self._error,
                attributes=self._attributes,
            )
        )


class _State:
    """This process's tracing: finished spans wait here; beyond the bound they are dropped and counted."""

    service = ""
    sample = 1.0
    spans: list[Span] = []
    dropped = 0
    export: Callable[[Span], None] | None = None
    end_export: Callable[[], None] | None = None

    @classmethod
    def keep(cls, span: Span) -> None:
        if len(cls.spans) < SPANS_KEPT_MAX:
            cls.spans.append(span)
        else:
            cls.dropped += 1
        if cls.export is not None:
            cls.export(span)


def configure(service: str, instance: str, sample: float) -> None:
    """Start tracing in this process (after any fork)."""
    _State.service, _State.sample = service, sample
    if any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ):
        from glowplug_runtime import otlp  # noqa: PLC0415  100 ms that only those pay who export

        _State.export, _State.end_export = otlp.open_exporter(service, instance)


def start_span(
    name: str, parent: str = "", *, start_unix: float | None = None, **attributes: Attribute
) -> SpanHandle:
    """Return a started span; the caller ends it. A malformed `parent` starts a new trace."""
    return SpanHandle(name, parent, start_unix, attributes)


@contextlib.contextmanager
def span(name: str, parent: str = "", **attributes: Attribute) -> Iterator[SpanHandle]:
    """Run the block inside a span; an exception marks it failed and passes."""
    handle = SpanHandle(name, parent, None, attributes)
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
    **attributes: Attribute,
) -> str:
    """Record a span that is over; return its traceparent."""
    handle = SpanHandle(name, parent, start_unix, attributes)
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
    if _State.dropped:
        log.warning("tracing.dropped", spans=_State.dropped)
        _State.dropped = 0
    while _State.spans:
        segment, _State.spans = _State.spans[:SEGMENT_SPANS_MAX], _State.spans[SEGMENT_SPANS_MAX:]
        message = SpanSegment(service=service, instance=instance, spans=tuple(segment))
        try:
            await bus.append(SPAN.at(service=service), message)
        except PlatformError as error:
            _State.spans = (segment + _State.spans)[:SPANS_KEPT_MAX]
            log.warning("tracing.delayed", error=str(error))
            return


def shutdown() -> None:
    """Give the OTLP exporter a bounded last chance."""
    if _State.end_export is not None:
        _State.end_export()
