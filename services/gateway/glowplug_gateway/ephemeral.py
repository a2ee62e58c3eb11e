"""When an ephemeral version ends: the program that made it is gone, or does nothing any more. Pure.

A version that no name leads to is kept for as long as programs use it. Its `used_at` is a lease: a gateway moves it
on before it accepts work, by compare-and-set and only when it is old; and a version is ended by compare-and-set when
the lease is over and nothing of it waits or runs. So no work is accepted for a version that has just been
ended. Ended, it is forgotten a second span later: by then whoever follows the versions knows.

Work that is accepted in a lease's first part is not noted: a lease counts from its last note, so a
version lives between `1 - RENEW_PART` and one span after its last use.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from glowplug_contracts.messages.deployment import Deployment, DeploymentState, FunctionKind

# Whose dead letters can be replayed for as long as they are kept.
DEAD_LETTER_KINDS = frozenset({FunctionKind.TASK_QUEUE, FunctionKind.SCHEDULE})
# A lease is moved on once this part of it is over: one write for a program that calls all day.
RENEW_PART = 0.25


def last_used(version: Deployment) -> float:
    """Return the Unix second of the last noted use."""
    return max(version.used_at, version.created_at)


def is_due(version: Deployment, now_unix: float, keep_s: float) -> bool:
    """Return whether a use now must be noted."""
    return now_unix - last_used(version) > keep_s * RENEW_PART


def used(version: Deployment, now_unix: float) -> Deployment:
    """Return the version with its use noted."""
    return msgspec.structs.replace(version, used_at=now_unix)


def fate(
    version: Deployment, now_unix: float, keep_s: float, *, busy: bool
) -> Literal["keep", "end", "forget"]:
    """Return what becomes of an ephemeral version; `busy`: something of it waits or runs."""
    idle_s = now_unix - last_used(version)
    if version.spec.kind in DEAD_LETTER_KINDS:
        keep_s = max(keep_s, version.spec.dead_letter_keep_s)
    if version.state is DeploymentState.DELETED:
        return "forget" if idle_s > 2 * keep_s and not busy else "keep"
    return "end" if idle_s > keep_s and not busy else "keep"
