"""The network that a container is started in: granted, taken, joined, given back.

Where containers have no networks of their own, they have the machine's or none (`HostNetworks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec
from glowplug_contracts.errors import RejectedError

from glowplug_worker.access import Access, Granted, Means, Refused, decide
from glowplug_worker.ports import (
    Attachment,
    Backend,
    Bind,
    Evidence,
    Exit,
    Network,
    Networks,
    RunningContainer,
    StartPlan,
)

if TYPE_CHECKING:
    from glowplug_contracts.messages.container import ContainerSpec


class Plain(msgspec.Struct, frozen=True):
    """The machine's network, or none: nothing is held (`ports.Attachment`)."""

    network: Network
    netns: int | None = None
    binds: tuple[Bind, ...] = ()

    async def move(self, pid: int) -> None:
        """What was born with none keeps none."""

    async def close(self) -> None:
        """There is nothing to give back."""


class HostNetworks(msgspec.Struct, frozen=True):
    """Containers share the machine's network, where it is `host`, or have none (`ports.Networks`)."""

    host: bool = True
    own: bool = False

    async def tend(self, doors: Iterable[tuple[str, int]]) -> None:
        """Nothing here keeps them away: the doors ask for credentials."""

    async def attach(self, name: str, granted: Granted) -> Attachment:  # noqa: ARG002
        """Return it (`ports.Networks.attach`)."""
        return Plain("shared" if granted.access is Access.HOST else "none")


class Surroundings(Protocol):
    """What says which networks there are."""

    @property
    def networks(self) -> Networks:
        """Return the networks on offer."""

    @property
    def backend(self) -> Backend:
        """Return what starts containers."""


def means_of(workshop: Surroundings) -> Means:
    """Return what this worker can give."""
    networks = workshop.networks
    none = networks.own or "network" in workshop.backend.enforces
    return Means(own=networks.own, none=none, host=networks.host)


async def attach(workshop: Surroundings, spec: ContainerSpec, name: str) -> Attachment:
    """Return the network of a container.

    Raises: RejectedError if it can't be had here; UnavailableError.
    """
    granted = decide(spec.kind, spec.network, means_of(workshop))
    if isinstance(granted, Refused):
        raise RejectedError("network.unsupported", granted.why)
    return await workshop.networks.attach(name, granted)


def join(plan: StartPlan, attachment: Attachment) -> StartPlan:
    """Return what is planned, in this network."""
    return msgspec.structs.replace(
        plan,
        binds=(*plan.binds, *attachment.binds),
        network=attachment.network,
        netns=attachment.netns,
    )


class Networked(msgspec.Struct, frozen=True):
    """A running container together with its network (`ports.RunningContainer`)."""

    running: RunningContainer
    attachment: Attachment

    @property
    def pid(self) -> int:
        """Return the host pid of the outermost process."""
        return self.running.pid

    def evidence(self) -> Evidence:
        """Return what the kernel counted."""
        return self.running.evidence()

    def kill(self) -> None:
        """SIGKILL the whole tree now. May be repeated."""
        self.running.kill()

    async def wait(self) -> Exit:
        """Return when nothing of the tree lives. May be repeated."""
        return await self.running.wait()

    async def close(self) -> None:
        """Kill what is left, wait, and give back what was held. May be repeated."""
        try:
            await self.running.close()
        finally:
            await self.attachment.close()
