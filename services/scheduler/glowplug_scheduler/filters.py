"""Which workers could run a container at all, and for each other one the first reason why not.

Reasons are sentences for people (`glowplug deployment show`) and begin with the filter's name. CPU and
memory are requests: the sum of a worker's containers never exceeds its offer. A GPU is one container's, or
several share it and the sum of their parts never exceeds its memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.messages.container import ContainerSpec
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import GpuDevice, WorkerBeat

STALE_BEAT_S = 3.0
ANY_GPU = "any"
_MIB = 1024 * 1024


class Room(msgspec.Struct, frozen=True):
    """A worker with what is free on it right now.

    Attributes:
        beat_age_s: seconds since it was heard.
        replicas: containers of the same deployment on it.
        refused: why it lately refused this container, or "".
        gpus_free: devices that nobody uses.
        gpu_shares: devices that nobody has for itself, with the bytes that are left of each.
    """

    beat: WorkerBeat
    cpu_free_millis: int
    memory_free_bytes: int
    gpus_free: tuple[GpuDevice, ...]
    beat_age_s: float = 0.0
    replicas: int = 0
    refused: str = ""
    gpu_shares: tuple[tuple[GpuDevice, int], ...] = ()


class Fit(msgspec.Struct, frozen=True):
    """A worker that can run the container, with these devices; rank 0 = the kind liked best."""

    room: Room
    gpu_ids: tuple[str, ...] = ()
    gpu_rank: int = 0


class Misfit(msgspec.Struct, frozen=True):
    """A worker that can't, and why."""

    reason: str


def fit(spec: ContainerSpec, room: Room) -> Fit | Misfit:
    """Judge one worker for one container."""
    reason = (
        _alive(room)
        or _pool(spec, room)
        or _python(spec, room)
        or _cpu(spec.resources, room)
        or _memory(spec.resources, room)
    )
    if reason:
        return Misfit(reason)
    return _gpus(spec.resources, room)


def _alive(room: Room) -> str:
    if room.beat_age_s > STALE_BEAT_S:
        return "beat: the worker is silent"
    if room.beat.draining:
        return "draining: the worker takes nothing new"
    if room.refused:
        return f"refused: the worker said {room.refused!r}"
    return ""


def _pool(spec: ContainerSpec, room: Room) -> str:
    if spec.pool == room.beat.pool:
        return ""
    return f"pool: needs {spec.pool!r}, the worker is in {room.beat.pool!r}"


def _python(spec: ContainerSpec, room: Room) -> str:
    """Unknown interpreters pass: the worker itself refuses if it can't find one."""
    wanted = spec.base_python
    known = room.beat.pythons
    if not wanted or not known or any(p == wanted or p.startswith(f"{wanted}.") for p in known):
        return ""
    return f"python: needs {wanted}, the worker has {', '.join(known)}"


def _cpu(need: Resources, room: Room) -> str:
    if need.cpu_millis <= room.cpu_free_millis:
        return ""
    offer = room.beat.cpu_millis
    return f"cpu: needs {need.cpu_millis}m, {room.cpu_free_millis}m of {offer}m are free"


def _memory(need: Resources, room: Room) -> str:
    if need.memory_bytes <= room.memory_free_bytes:
        return ""
    return (
        f"memory: needs {need.memory_bytes // _MIB} MiB, "
        f"{room.memory_free_bytes // _MIB} MiB of {room.beat.memory_bytes // _MIB} MiB are free"
    )


def _gpus(need: Resources, room: Room) -> Fit | Misfit:
    count = need.gpu_count or (1 if need.gpus else 0)
    if not count:
        return Fit(room)
    kinds = need.gpus or (ANY_GPU,)
    if need.gpu_memory_bytes:
        return _gpu_share(kinds, need.gpu_memory_bytes, room)
    for rank, kind in enumerate(kinds):
        devices = _devices(kind, count, room.gpus_free)
        if devices:
            return Fit(room, tuple(device.gpu_id for device in devices), rank)
    free = ", ".join(sorted(device.kind for device in room.gpus_free)) or "none"
    return Misfit(f"gpu: needs {count} of {' or '.join(kinds)}, free: {free}")


def _gpu_share(kinds: Sequence[str], wanted: int, room: Room) -> Fit | Misfit:
    """Take the device on which least is left over, so that others stay whole."""
    for rank, kind in enumerate(kinds):
        fitting = [
            (left, device.gpu_id)
            for device, left in room.gpu_shares
            if kind.lower() in {ANY_GPU, device.kind.lower()} and left >= wanted
        ]
        if fitting:
            return Fit(room, (min(fitting)[1],), rank)
    free = [f"{left // _MIB} MiB of {device.kind}" for device, left in room.gpu_shares]
    return Misfit(
        f"gpu: needs {wanted // _MIB} MiB of {' or '.join(kinds)}, free: {', '.join(free) or 'none'}"
    )


def _devices(kind: str, count: int, free: Sequence[GpuDevice]) -> Sequence[GpuDevice]:
    """Return `count` devices of one kind, or none; "any" takes the kind of which most are free."""
    by_kind: dict[str, list[GpuDevice]] = {}
    for device in free:
        if kind.lower() in {ANY_GPU, device.kind.lower()}:
            by_kind.setdefault(device.kind, []).append(device)
    enough = [(-len(d), name) for name, d in by_kind.items() if len(d) >= count]
    if not enough:
        return ()
    chosen = by_kind[min(enough)[1]]
    return sorted(chosen, key=lambda device: device.gpu_id)[:count]
