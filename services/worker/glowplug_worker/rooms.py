"""What one gateway was told of the room in our containers, and when it must hear more. Pure.

A gateway counts by itself: what it was told, less what it has sent since. It can't know of room that came
otherwise, nor that a container closes. Only these are said unasked, and only once.
"""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.link import SlotsTold

from glowplug_worker.ports import Room


class Told:
    """See the module. One for each link."""

    def __init__(self) -> None:
        self._seen: dict[ContainerId, int] = {}
        self._told: dict[ContainerId, int] = {}  # as the gateway counts on

    def count(self, container_id: ContainerId) -> None:
        """A call for this container has come through the link."""
        self._seen[container_id] = self._seen.get(container_id, 0) + 1
        if self._told.get(container_id):
            self._told[container_id] -= 1

    def say(self, room: Room) -> SlotsTold:
        """Return what there is now; it must be sent."""
        container_id, slots = room.container_id, room.slots
        told = SlotsTold(
            container_id=container_id,
            deployment_id=room.deployment_id,
            free=slots.free,
            seen=self._seen.get(container_id, 0),
            closed=slots.draining,
        )
        if slots.draining:
            self._told.pop(container_id, None)
            self._seen.pop(container_id, None)
        else:
            self._told[container_id] = slots.free
        return told

    def should_hear(self, room: Room) -> bool:
        """Return whether the gateway can't know that there is room, or that there is none any more."""
        told = self._told.get(room.container_id)
        if room.slots.draining:
            return told is not None
        return not told and room.slots.free > 0
