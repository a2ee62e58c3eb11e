"""Reading what people write for cpu, memory and gpu.

Pure; called by the decorators, so that a mistake shows where it was written, before anything is
sent. Ki, Mi and Gi count in 1024s, kb, mb and gb in 1000s, in any case; decimals are allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MIB = 1024 * 1024
MEMORY_UNSET_BYTES = 128 * MIB
CPU_CORES_MAX = 1024
GPU_COUNT_MAX = 64
DISK_MIN_BYTES = 8 * MIB
DISK_MAX_BYTES = 3 * 1024**2 * MIB

_MEMORY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(ki|mi|gi|kb|mb|gb)\s*\Z", re.IGNORECASE)
_CPU = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(m?)\s*\Z")
_GPU = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_.-]*)(?::([0-9]+))?\Z")
_FACTORS = {
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}

Cpu = float | int | str | tuple[float | int | str, float | int | str]
Memory = int | str | tuple[int | str, int | str]
Gpu = str | list[str] | tuple[str, ...]


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes requested for placement, and the limit that is enforced (0 = the node's free share)."""

    request_bytes: int
    limit_bytes: int


@dataclass(frozen=True)
class GpuNeed:
    """Acceptable kinds in order of preference, and how many devices.

    With `memory_bytes` it is a share of one device, which others use as well; 0 = whole devices.
    """

    kinds: tuple[str, ...]
    count: int
    memory_bytes: int = 0


@dataclass(frozen=True)
class CpuNeed:
    """Thousandths of a core: what placement counts with, and the most it gets (0 = no limit)."""

    request_millis: int
    limit_millis: int = 0


def parse_cpu(value: object) -> int:
    """Return thousandths of a core for cores as a number ("1.5", 2) or millicores ("500m").

    Raises: ValueError or TypeError with a sentence.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f'cpu={value!r}: give cores as a number, or "500m"')
    if isinstance(value, str):
        match = _CPU.match(value)
        if match is None:
            raise ValueError(f'cpu={value!r}: give cores as a number, or "500m"')
        millis = float(match[1]) * (1 if match[2] else 1000)
    else:
        millis = float(value) * 1000
    if not 1 <= millis <= CPU_CORES_MAX * 1000:
        raise ValueError(f"cpu={value!r}: must be between 0.001 and {CPU_CORES_MAX} cores")
    return round(millis)


def parse_cpu_need(value: object) -> CpuNeed:
    """Return what `cpu` asks for: a request, or (request, limit).

    Raises: ValueError or TypeError with a sentence.
    """
    if not isinstance(value, tuple | list):
        return CpuNeed(parse_cpu(value))
    if len(value) != 2:  # noqa: PLR2004
        raise ValueError(f"cpu={value!r}: a pair is (request, limit)")
    request, limit = (parse_cpu(part) for part in value)
    if request > limit:
        raise ValueError(f"cpu={value!r}: the request is above the limit")
    return CpuNeed(request, limit)


def parse_disk(value: object) -> int:
    """Return the bytes that `ephemeral_disk` asks for; 0 for None.

    Raises: ValueError or TypeError with a sentence.
    """
    if value is None:
        return 0
    size = _memory_bytes(value, "ephemeral_disk")
    if not DISK_MIN_BYTES <= size <= DISK_MAX_BYTES:
        raise ValueError(f"ephemeral_disk={value!r}: must be between 8 MiB and 3 TiB")
    return size


def parse_memory(value: object) -> MemoryNeed:
    """Return what `memory` asks for: None, MiB as an int, "512Mi", or (request, limit).

    Raises: ValueError or TypeError with a sentence.
    """
    if value is None:
        return MemoryNeed(MEMORY_UNSET_BYTES, 0)
    if isinstance(value, tuple | list):
        if len(value) != 2:  # noqa: PLR2004
            raise ValueError(f"memory={value!r}: a pair is (request, limit)")
        request, limit = (_memory_bytes(part) for part in value)
        if request > limit:
            raise ValueError(f"memory={value!r}: the request is above the limit")
        return MemoryNeed(request, limit)
    limit = _memory_bytes(value)
    return MemoryNeed(limit, limit)


def parse_gpu(value: object, count: object = None, memory: object = None) -> GpuNeed:
    """Return the GPU need for "A10G", "H100:2", "any", or a list in order of preference.

    `memory` ("8Gi", or MiB as an int) asks for so much of one device instead of the whole of it.

    Raises: ValueError or TypeError with a sentence.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise TypeError(f'gpu={value!r}: give a kind such as "A10G", "H100:2", "any", or a list')
    kinds: list[str] = []
    counts: set[int] = set()
    for name in names:
        if name == "":
            continue
        match = _GPU.match(name) if isinstance(name, str) else None
        if match is None:
            raise ValueError(f'gpu={value!r}: {name!r} is no kind such as "A10G" or "H100:2"')
        kinds.append("any" if match[1].lower() == "any" else match[1])
        if match[2]:
            counts.add(int(match[2]))
    number = _gpu_count(kinds, counts, count, value)
    if memory is None:
        return GpuNeed(tuple(kinds), number)
    if number != 1:
        raise ValueError(
            f'gpu_memory={memory!r} is a share of one device: give gpu="any", or a kind'
        )
    return GpuNeed(tuple(kinds), number, _memory_bytes(memory, "gpu_memory"))


def _gpu_count(kinds: list[str], counts: set[int], count: object, value: object) -> int:
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"gpu_count={count!r}: give a whole number")
        counts.add(count)
    if not kinds:
        if counts - {0}:
            raise ValueError(f'gpu_count={count!r} needs gpu=, for example gpu="any"')
        return 0
    if len(counts) > 1:
        raise ValueError(f"gpu={value!r}, gpu_count={count!r}: the numbers of devices differ")
    number = counts.pop() if counts else 1
    if not 1 <= number <= GPU_COUNT_MAX:
        raise ValueError(f"gpu={value!r}: ask for 1 to {GPU_COUNT_MAX} devices")
    return number


def _memory_bytes(value: object, name: str = "memory") -> int:
    sentence = f'{name}={value!r}: give MiB as a whole number, or "512Mi", "16Gi", "2gb"'
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(sentence)
    if isinstance(value, int):
        size = value * MIB
    else:
        match = _MEMORY.match(value)
        if match is None:
            raise ValueError(sentence)
        size = round(float(match[1]) * _FACTORS[match[2].lower()])
    if size < MIB:
        raise ValueError(f"{name}={value!r}: must be at least 1 MiB")
    return size
