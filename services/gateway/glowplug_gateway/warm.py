"""Which warm slot a call may go straight to: what linked workers have told, less what is on its way. Pure.

A container's room is what its worker told last, less the calls sent since that the worker had not seen when it
told. So no slot is counted twice, however words and calls cross. The worker remains the judge: what it tells is
a hint that may be out of date the moment a dispatcher hands it other work, and then it refuses.

Invariants (`check`): V1 nothing is sent beyond what was told; V2 a container belongs to one link; V3 what a link
told goes with it.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import ContainerId, DeploymentId
from glowplug_contracts.messages.link import SlotsTold

CONTAINERS_PER_LINK_MAX = 1_000


class Slot(msgspec.Struct, frozen=True):
    """Room in a container, reached through a link."""

    link: int
    container_id: ContainerId


class _Container(msgspec.Struct):
    link: int
    container_id: ContainerId
    deployment_id: DeploymentId
    free: int = 0
    seen: int = 0
    sent: int = 0

    @property
    def room(self) -> int:
        return self.free - (self.sent - self.seen)


class WarmSlots:
    """See the module. Links are numbers that are never used again."""

    def __init__(self) -> None:
        self._containers: dict[ContainerId, _Container] = {}
        self._of: dict[DeploymentId, dict[ContainerId, _Container]] = {}
        self._links: dict[int, set[ContainerId]] = {}

    def open(self, link: int) -> None:
        """A worker is linked from now on."""
        self._links[link] = set()

    def close(self, link: int) -> None:
        """A link has ended, and with it what it told."""
        for container_id in self._links.pop(link, set()):
            self._drop(container_id)

    def told(self, link: int, slots: SlotsTold) -> None:
        """Take a worker's word. One about a container that another link told of means that it moved."""
        mine = self._links.get(link)
        if mine is None:
            return
        if slots.closed:
            if slots.container_id in mine:
                mine.discard(slots.container_id)
                self._drop(slots.container_id)
            return
        container = self._containers.get(slots.container_id)
        if container is None or container.link != link:
            if len(mine) >= CONTAINERS_PER_LINK_MAX:
                return
            if container is not None:
                self._links[container.link].discard(container.container_id)
                self._drop(container.container_id)
            container = _Container(link, slots.container_id, slots.deployment_id)
            mine.add(slots.container_id)
            self._containers[slots.container_id] = container
            self._of.setdefault(slots.deployment_id, {})[slots.container_id] = container
        container.free = slots.free
        container.seen = min(max(slots.seen, container.seen), container.sent)

    def take(self, deployment_id: DeploymentId) -> Slot | None:
        """Count one call as sent to the container with the most room (ties by id), or find none."""
        best: _Container | None = None
        for container in self._of.get(deployment_id, {}).values():
            if container.room > 0 and (best is None or _better(container, best)):
                best = container
        if best is None:
            return None
        best.sent += 1
        return Slot(best.link, best.container_id)

    def give_back(self, slot: Slot) -> None:
        """Nothing was sent to a slot that was taken, nor will be."""
        container = self._containers.get(slot.container_id)
        if container is not None and container.link == slot.link:
            container.sent = max(container.seen, container.sent - 1)

    def _drop(self, container_id: ContainerId) -> None:
        container = self._containers.pop(container_id)
        siblings = self._of[container.deployment_id]
        del siblings[container_id]
        if not siblings:
            del self._of[container.deployment_id]

    def check(self) -> None:
        """Raise InvariantError unless every invariant holds (O(state))."""
        for container in self._containers.values():
            _hold(container.seen <= container.sent, f"V1: {container}")
            _hold(container.container_id in self._links.get(container.link, ()), f"V2: {container}")
        told = sum(len(each) for each in self._links.values())
        _hold(told == len(self._containers), "V3: a link and the containers differ")
        _hold(told == sum(len(each) for each in self._of.values()), "V3: a deployment differs")


def _better(one: _Container, other: _Container) -> bool:
    return (-one.room, one.container_id) < (-other.room, other.container_id)


def _hold(truth: object, what: str) -> None:
    if not truth:
        raise InvariantError("platform.bug", f"warm slots: {what}")
