"""Targets on the SCALE_DECISIONS stream.

Each decision gets its time here, and a span in the trace of the invocation that caused it.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.messages.scale import ScaleDecided
from glowplug_contracts.subjects import SCALE
from glowplug_runtime import tracing
from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock


class StreamTargets:
    """Implements ports.Targets."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock

    async def write(self, decision: ScaleDecided) -> None:
        """Append the decision. Raises: UnavailableError, OverloadedError."""
        dated = msgspec.structs.replace(decision, at=self._clock.unix())
        if not decision.trace:
            await self._append(dated)
            return
        with tracing.span(
            "scale",
            decision.trace,
            deployment_id=decision.deployment_id,
            target=decision.target,
            previous=decision.previous,
            reason=decision.reason,
        ) as span:
            await self._append(msgspec.structs.replace(dated, trace=span.traceparent))

    async def _append(self, decision: ScaleDecided) -> None:
        await self._bus.append(SCALE.at(deployment_id=decision.deployment_id), decision)
