"""What a fault means: which devices are broken by it, and in which words. Pure.

Xids that a program causes by itself break nothing but the program; NVIDIA's device plugin for Kubernetes
leaves out the same ones. Every other Xid, an uncorrected memory error and a GPU that does not answer take
the device out of service until the worker starts again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from glowplug_worker.gpus.model import Fault, Found

# Engine exception, page fault, stopped processing, clean-up after another, video processor, context switch.
PROGRAMS_OWN: Final = frozenset({13, 31, 43, 45, 68, 109})


def reason(fault: Fault) -> str:
    """Return why the device is out of service, "" if it is not."""
    match fault.what:
        case "lost":
            return "the driver has lost it"
        case "ecc":
            return "an uncorrected memory error"
        case _ if fault.number in PROGRAMS_OWN:
            return ""
    return f"Xid {fault.number}"


def broken_by(fault: Fault, found: Iterable[Found]) -> list[str]:
    """Return the ids of the devices that a fault takes out of service."""
    if not reason(fault):
        return []
    return [each.gpu_id for each in found if _concerns(fault, each)]


def _concerns(fault: Fault, device: Found) -> bool:
    # Of an event without a device nothing is concluded: reading each device tells which one is lost.
    if not fault.gpu_id or fault.gpu_id not in (device.gpu_id, device.parent):
        return False
    if fault.gpu_instance < 0 or not device.parent:
        return True
    if fault.gpu_instance != device.gpu_instance:
        return False
    return fault.compute_instance in (-1, device.compute_instance)
