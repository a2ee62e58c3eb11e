"""Targets: how many containers a deployment should have, and why."""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages import Message


class ScaleDecided(Message, frozen=True, kw_only=True):
    """A deployment's target changed. A lower `generation` than one seen is ignored."""

    deployment_id: DeploymentId
    target: int
    previous: int
    reason: str
    generation: int
    queued: int = 0
    in_flight: int = 0
    at: float = 0.0
    trace: str = ""
