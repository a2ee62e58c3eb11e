"""What the autoscaler needs of the world, beside hearing the bus."""

from __future__ import annotations

from typing import Protocol

from glowplug_contracts.messages.scale import ScaleDecided


class Targets(Protocol):
    """Where decisions go."""

    async def write(self, decision: ScaleDecided) -> None:
        """Store a decision for placement to follow. Raises: TransientError; then it is tried again."""
