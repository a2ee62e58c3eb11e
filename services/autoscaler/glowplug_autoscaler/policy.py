"""What a deployment allows: the bounds between which its target moves, and how long idle ones stay.

Read once from a deployment's spec; pure. `minimum` holds only for the version that a name leads to:
an old version drains, and a version of a program that did not deploy has nobody who could delete it.
`buffer` goes with the inputs, so the latter has it, too.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from glowplug_contracts.messages.deployment import Deployment, DeploymentState

FOREVER = -1.0
# Idle seconds of a version that may not stay for ever (superseded, or ephemeral) though it asked to.
DRAIN_KEEP_WARM_S = 10.0


class Reason(StrEnum):
    """Why a target is what it is: the words of ScaleDecided.reason."""

    BACKLOG = "backlog"
    MINIMUM = "minimum"
    IDLE = "idle"
    START_FAILED = "start_failed"
    CRASHED = "crashed"
    TRIAL = "trial"
    DELETED = "deleted"
    TAKEOVER = "takeover"
    REAFFIRMED = "reaffirmed"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Queue-depth scaling of one version.

    Attributes:
        minimum, maximum: containers; the target is never outside, except below `minimum` while
            starts fail, and 0 when deleted.
        buffer: containers beyond what inputs justify, while any wait or run.
        tasks_per_container: inputs waiting or running that justify one container, ≥ 1.
        keep_warm_s: seconds of lower need before scale-in; FOREVER = never below the peak.
        deleted: scales to zero at once.
    """

    minimum: int = 0
    maximum: int = 1
    buffer: int = 0
    tasks_per_container: int = 1
    keep_warm_s: float = 10.0
    deleted: bool = False


def policy_of(deployment: Deployment) -> Policy:
    """Return the policy of a version, as far as its place (latest, ephemeral) lets it have it."""
    spec = deployment.spec.autoscaler
    lasting = deployment.latest and not deployment.ephemeral
    maximum = max(0, spec.max_containers)
    keep_warm_s = spec.keep_warm_s
    if keep_warm_s < 0:
        keep_warm_s = FOREVER if lasting else DRAIN_KEEP_WARM_S
    return Policy(
        minimum=min(max(0, spec.min_containers), maximum) if lasting else 0,
        maximum=maximum,
        buffer=max(0, spec.buffer_containers) if deployment.latest else 0,
        tasks_per_container=max(1, spec.tasks_per_container),
        keep_warm_s=keep_warm_s,
        deleted=deployment.state is DeploymentState.DELETED,
    )
