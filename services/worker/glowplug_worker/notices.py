"""What the dispatcher must hear of calls that came straight from gateways, gathered for some milliseconds. Pure.

A dispatcher needs them for its figures, for scale-in and for probes, not one by one and not at once. What still
runs when a notice is written is named in it, and named again when it has ended; what came and went in between is
only counted, with the most that ran at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from glowplug_contracts.ids import ContainerId, InvocationId

EVERY_S: Final = 0.02


class Notice(msgspec.Struct, frozen=True):
    """What happened in one container since the last one.

    Attributes:
        began: still run.
        ended: were named as begun before.
        passed: how many began and ended unnamed.
        peak: how many ran at once, at most.
    """

    shard: int
    container_id: ContainerId
    began: tuple[InvocationId, ...]
    ended: tuple[InvocationId, ...]
    passed: int
    peak: int


class _Container(msgspec.Struct):
    running: int = 0
    peak: int = 0
    passed: int = 0
    began: dict[InvocationId, None] = msgspec.field(default_factory=dict)
    ended: list[InvocationId] = msgspec.field(default_factory=list)


class Notices:
    """See the module."""

    def __init__(self) -> None:
        self._listener: Callable[[], None] = lambda: None
        self._containers: dict[tuple[int, ContainerId], _Container] = {}
        self._news: dict[tuple[int, ContainerId], None] = {}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever there is something to say."""
        self._listener = listener

    def began(self, shard: int, container_id: ContainerId, invocation_id: InvocationId) -> None:
        """A call was taken."""
        key = (shard, container_id)
        container = self._containers.setdefault(key, _Container())
        container.began[invocation_id] = None
        container.running += 1
        container.peak = max(container.peak, container.running)
        self._note(key)

    def ended(self, shard: int, container_id: ContainerId, invocation_id: InvocationId) -> None:
        """It left its slot. Each that began ends once."""
        key = (shard, container_id)
        container = self._containers[key]
        container.running -= 1
        if invocation_id in container.began:
            del container.began[invocation_id]
            container.passed += 1
        else:
            container.ended.append(invocation_id)
        self._note(key)

    def _note(self, key: tuple[int, ContainerId]) -> None:
        if not self._news:
            self._listener()
        self._news[key] = None

    def take(self) -> Iterator[Notice]:
        """Return what is to be said now."""
        news, self._news = self._news, {}
        for key in news:
            one = self._containers[key]
            yield Notice(*key, tuple(one.began), tuple(one.ended), one.passed, one.peak)
            if one.running:
                self._containers[key] = _Container(one.running, one.running)
            else:
                del self._containers[key]
