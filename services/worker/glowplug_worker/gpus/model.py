"""What is known about GPUs, as values."""

from __future__ import annotations

import msgspec


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A device that containers can be given: a GPU, or a part of one that MIG cut out.

    Attributes:
        gpu_id: its UUID, "GPU-…" or "MIG-…": what CUDA_VISIBLE_DEVICES takes.
        index: as nvidia-smi counts, "0"; of a part, "0:1".
        minor: of the GPU's device node.
        parent: the GPU that a part belongs to, "" for a whole one; `gpu_instance` and `compute_instance`
            are then the part's numbers.
    """

    gpu_id: str
    kind: str
    memory_bytes: int
    index: str
    minor: int
    parent: str = ""
    gpu_instance: int = -1
    compute_instance: int = -1


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says of a device now; `busy` is a share of time, 0 … 1."""

    used_bytes: int = 0
    busy: float = 0.0


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of the host uses of a device."""

    gpu_id: str
    pid: int
    used_bytes: int = 0
    busy: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the driver reported of a GPU, or of one part of it.

    Attributes:
        what: "xid", "ecc" (two bits, not corrected) or "lost" (it does not answer).
        number: the Xid.
    """

    gpu_id: str
    what: str
    number: int = 0
    gpu_instance: int = -1
    compute_instance: int = -1


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """One look at all devices."""

    devices: dict[str, Reading] = {}
    uses: tuple[Use, ...] = ()
    faults: tuple[Fault, ...] = ()
