"""Keeps what is known of this host's GPUs, and answers the worker: what to offer, what to give, who uses what.

`look` runs once a second in a thread of its own, because the driver may block. A device that broke is not
offered any more, and the containers that have it are named to `on_broken`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

import structlog
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.worker import GpuDevice, GpuState

from glowplug_worker.gpus import health
from glowplug_worker.gpus.grants import Granted, grant, read_specs
from glowplug_worker.gpus.model import Found, Readings

log = structlog.get_logger()

LOOK_S: Final = 1.0
MPS_PIPES: Final = Path("/tmp/nvidia-mps")  # noqa: S108 - where NVIDIA's daemon listens unless told otherwise


class Driver(Protocol):
    """What NVML tells (`nvml.Nvml`)."""

    @property
    def driver(self) -> str:
        """Return its version."""

    @property
    def found(self) -> tuple[Found, ...]:
        """Return what there was at the start."""

    def read(self) -> Readings:
        """Look at every device once; blocks."""

    def close(self) -> None:
        """Let the driver go."""


class Gpus:
    """See the module. Without a driver there is nothing, and nothing is asked.

    Args:
        cdi: directories with the host's descriptions.
        mps: where an MPS daemon's pipes are; containers are held to their parts by it where it runs and
            `shares_ipc` says that they can reach it.
    """

    def __init__(
        self,
        driver: Driver | None = None,
        *,
        cdi: Iterable[Path] = (),
        mps: Path = MPS_PIPES,
    ) -> None:
        self._driver = driver
        self._cdi = tuple(cdi)
        self._mps = mps
        self._readings = Readings()
        self.broken: dict[str, str] = {}
        self.on_broken: Callable[[str, str], None] = lambda _gpu_id, _why: None

    @property
    def found(self) -> tuple[Found, ...]:
        """Return every device, broken ones included."""
        return self._driver.found if self._driver is not None else ()

    @property
    def driver(self) -> str:
        """Return the driver's version."""
        return self._driver.driver if self._driver is not None else ""

    def offered(self) -> tuple[GpuDevice, ...]:
        """Return what works."""
        return tuple(
            GpuDevice(gpu_id=each.gpu_id, kind=each.kind, memory_bytes=each.memory_bytes)
            for each in self.found
            if each.gpu_id not in self.broken
        )

    def states(self) -> tuple[GpuState, ...]:
        """Return how every device is."""
        read = self._readings.devices
        return tuple(
            GpuState(
                gpu_id=each.gpu_id,
                kind=each.kind,
                memory_bytes=each.memory_bytes,
                used_bytes=read[each.gpu_id].used_bytes if each.gpu_id in read else 0,
                busy=read[each.gpu_id].busy if each.gpu_id in read else 0.0,
                broken=self.broken.get(each.gpu_id, ""),
            )
            for each in self.found
        )

    def look(self) -> Readings:
        """Ask the driver; blocks, changes nothing here."""
        return self._driver.read() if self._driver is not None else Readings()

    def take(self, readings: Readings) -> None:
        """Take in what a look has brought."""
        self._readings = readings
        for fault in readings.faults:
            if not health.reason(fault):
                log.info("gpu.fault", gpu_id=fault.gpu_id, what=fault.what, number=fault.number)
            for gpu_id in health.broken_by(fault, self.found):
                if gpu_id not in self.broken:
                    self.broken[gpu_id] = health.reason(fault)
                    log.error("gpu.broken", gpu_id=gpu_id, why=self.broken[gpu_id])
                    self.on_broken(gpu_id, self.broken[gpu_id])

    def grant(self, gpu_ids: Iterable[str], part_bytes: int, *, shares_ipc: bool) -> Granted:
        """Return what a container with these devices gets, `part_bytes` of one (0 = all of it).

        Raises: UnavailableError if one of them is not here, broken, or has no node.
        """
        known = {each.gpu_id: each for each in self.found}
        wanted = [known[gpu_id] for gpu_id in gpu_ids if gpu_id in known]
        granted = grant(wanted, read_specs(self._cdi) if wanted else ())
        if part_bytes and wanted and shares_ipc and self.has_mps:
            granted.env.update(mps_env(part_bytes, wanted[0].memory_bytes, self._mps))
        return granted

    def describe(self) -> str:
        """Return in words what is here, for `status` and `doctor`."""
        kinds = Counter(each.kind for each in self.found)
        parts = "held by MPS" if self.has_mps else "accounting only, no MPS daemon listens"
        rules = "CDI" if read_specs(self._cdi) else "the driver's names"
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"{counted}; driver {self.driver}; devices by {rules}; parts of one: {parts}"

    @property
    def has_mps(self) -> bool:
        """Return whether an MPS daemon listens."""
        return (self._mps / "control").exists()

    def used(
        self, roots: Mapping[ContainerId, int], parent: Callable[[int], int]
    ) -> dict[ContainerId, tuple[int, float]]:
        """Return bytes and share of time of each container, given their outermost pids."""
        owners = {pid: container for container, pid in roots.items() if pid}
        totals: dict[ContainerId, tuple[int, float]] = {}
        for use in self._readings.uses:
            container = _owner(use.pid, owners, parent)
            if container is not None:
                size, busy = totals.get(container, (0, 0.0))
                totals[container] = size + use.used_bytes, min(1.0, busy + use.busy)
        return totals

    def close(self) -> None:
        """Let the driver go."""
        if self._driver is not None:
            self._driver.close()


ANCESTORS_MAX: Final = 64


def _owner(
    pid: int, owners: Mapping[int, ContainerId], parent: Callable[[int], int]
) -> ContainerId | None:
    """Return the container whose tree a process is in."""
    for _ in range(ANCESTORS_MAX):
        if pid in owners:
            return owners[pid]
        if pid <= 1:
            break
        pid = parent(pid)
    return None


def mps_env(part_bytes: int, whole_bytes: int, pipes: Path) -> dict[str, str]:
    """Return what makes an MPS daemon hold a program to its part of memory and of time."""
    percent = max(1, min(100, round(100 * part_bytes / max(1, whole_bytes))))
    return {
        "CUDA_MPS_PIPE_DIRECTORY": str(pipes),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={part_bytes >> 20}M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(percent),
    }
