"""What a worker offers, and whether a container still fits. Pure: the last check behind placement's."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.messages.container import BindContainer
from glowplug_contracts.messages.worker import GpuDevice


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What placement may use here."""

    host: str
    cpu_millis: int
    memory_bytes: int
    gpus: tuple[GpuDevice, ...]


def refuse_for_capacity(offer: Offer, live: Sequence[BindContainer], wanted: BindContainer) -> str:
    """Return "" if it fits beside the live ones, else "full"."""
    needs = wanted.spec.resources
    cpu_millis = sum(each.spec.resources.cpu_millis for each in live)
    memory_bytes = sum(each.spec.resources.memory_bytes for each in live)
    if cpu_millis + needs.cpu_millis > offer.cpu_millis:
        return "full"
    if memory_bytes + needs.memory_bytes > offer.memory_bytes:
        return "full"
    return "" if _gpus_fit(offer, live, wanted) else "full"


def _gpus_fit(offer: Offer, live: Sequence[BindContainer], wanted: BindContainer) -> bool:
    """Return whether the devices are here, and free: as a whole, or of the part that is wanted."""
    sizes = {each.gpu_id: each.memory_bytes for each in offer.gpus}
    part = wanted.spec.resources.gpu_memory_bytes
    for gpu_id in wanted.gpu_ids:
        others = [each.spec.resources.gpu_memory_bytes for each in live if gpu_id in each.gpu_ids]
        if gpu_id not in sizes or (others and not part) or not all(others):
            return False
        if part and sum(others) + part > sizes[gpu_id]:
            return False
    return True
