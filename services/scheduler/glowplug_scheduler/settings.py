"""The scheduler's settings."""

from __future__ import annotations

from typing import Literal

from glowplug_contracts.messages.schedule import LATE_S
from glowplug_runtime.settings import Settings

from glowplug_scheduler.dispatch_state import CACHE_BYTES_MAX


class SchedulerSettings(Settings, frozen=True, kw_only=True):
    """Settings of the scheduler; environment prefix GLOWPLUG_SCHEDULER_.

    Attributes:
        replicas: copies of each synced stream that the broker keeps, 1, 3 or 5; a cluster of brokers
            needs more than 1.
        durability: "synced" keeps what was accepted on disk before the answer; "memory" keeps all streams and
            buckets in the broker's memory: quick, and everything is gone when the broker ends.
        cache_bytes: of waiting interactive calls kept in memory, per shard; beyond it a call is read
            again from its stream when its turn comes.
        schedule_late_s: a schedule's due time that comes late by no more fires whatever its `catch_up` says.
    """

    replicas: int = 1
    durability: Literal["synced", "memory"] = "synced"
    cache_bytes: int = CACHE_BYTES_MAX
    schedule_late_s: float = LATE_S
