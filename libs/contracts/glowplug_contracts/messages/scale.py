"""Targets: how many containers a deployment should have, and why."""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages import Message


class Failing(Message, frozen=True, kw_only=True):
    """Containers of a deployment fail one after the other, and starts are held back.

    Attributes:
        why: "start_failed", or "crashed": soon after they were ready.
        in_a_row: how many since one last did well.
        held_s: seconds from the decision's `at` until another is tried, unless somebody calls.
    """

    why: str
    in_a_row: int
    held_s: float = 0.0


class ScaleDecided(Message, frozen=True, kw_only=True):
    """A deployment's target changed, or how it fails. A lower `generation` than one seen is ignored.

    `failing` is None for a deployment whose containers do well, as far as the leader has seen.
    """

    deployment_id: DeploymentId
    target: int
    previous: int
    reason: str
    generation: int
    queued: int = 0
    in_flight: int = 0
    at: float = 0.0
    trace: str = ""
    failing: Failing | None = None
