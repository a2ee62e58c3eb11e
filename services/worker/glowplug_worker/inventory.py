"""What this worker offers, and the locks by which workers of one host keep out of each other's way.

A worker writes what it offers into a claim file that it keeps locked; a claim whose lock can be taken
belongs to nobody any more. Its data directory is locked likewise: two workers never share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
import structlog
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.worker import GpuDevice

from glowplug_worker.capacity import Offer
from glowplug_worker.settings import WorkerSettings, parse_bytes, parse_gpus

log = structlog.get_logger()

LOCK_FILE: Final = "lock"
# What the host's own processes and this platform need.
KEPT_BYTES: Final = 256 * 1024 * 1024
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a live worker of this host offers to placement."""

    worker: str
    cpu_millis: int
    memory_bytes: int
    gpu_ids: tuple[str, ...] = ()


def try_lock(path: Path) -> IO[str] | None:
    """Return the open, exclusively locked file, or None if somebody else holds it.

    The lock ends with the file, so with the process: nobody has to clean up after a kill.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def open_directory(directory: Path) -> Iterator[Path]:
    """Make the worker's directory and hold its lock.

    Raises: UnavailableError if another worker lives in it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = try_lock(directory / LOCK_FILE)
    if lock is None:
        raise UnavailableError(
            "platform.unavailable",
            f"another worker uses {directory}; give this one its own GLOWPLUG_WORKER_DATA_DIR",
        )
    with lock:
        yield directory


@contextlib.contextmanager
def open_offer(settings: WorkerSettings, worker: str, claims: Path) -> Iterator[Offer]:
    """Decide what to offer, next to the other workers of this host, and claim it until the end."""
    claims.mkdir(parents=True, exist_ok=True)
    path = claims / f"{worker}.json"
    with _take_turn(claims):
        file = try_lock(path)
        if file is None:
            raise UnavailableError(
                "platform.unavailable", f"a worker called {worker} runs on this host already"
            )
        offer = decide_offer(
            settings, host_millis(), host_bytes(), real_gpus(), read_claims(claims)
        )
        claim = Claim(
            worker=worker,
            cpu_millis=offer.cpu_millis,
            memory_bytes=offer.memory_bytes,
            gpu_ids=tuple(each.gpu_id for each in offer.gpus if not each.simulated),
        )
        file.truncate(0)
        file.write(msgspec.json.encode(claim).decode())
        file.flush()
    with file:
        try:
            yield offer
        finally:
            with _take_turn(claims):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _take_turn(claims: Path) -> Iterator[None]:
    """Be the only one who reads or changes claims; for milliseconds, at a worker's start and end."""
    with (claims / ".lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def read_claims(claims: Path) -> list[Claim]:
    """Return the claims of live workers; those of dead ones are removed."""
    found = []
    for path in sorted(claims.glob("*.json")):
        lock = try_lock(path)
        if lock is not None:
            with lock:
                path.unlink(missing_ok=True)
            continue
        with contextlib.suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Claim))
    return found


def decide_offer(
    settings: WorkerSettings,
    cpu_millis: int,
    memory_bytes: int,
    gpus: tuple[GpuDevice, ...],
    claims: list[Claim],
) -> Offer:
    """Return what to offer: what was asked for, else what the others leave of the host. Pure."""
    left_millis = max(0, cpu_millis - sum(each.cpu_millis for each in claims))
    left_bytes = max(0, memory_bytes - KEPT_BYTES - sum(each.memory_bytes for each in claims))
    taken = {gpu_id for each in claims for gpu_id in each.gpu_ids}
    return Offer(
        host=socket.gethostname(),
        cpu_millis=round(settings.cpu * 1000) if settings.cpu > 0 else left_millis,
        memory_bytes=parse_bytes(settings.memory) or left_bytes,
        gpus=parse_gpus(settings.gpus) or tuple(each for each in gpus if each.gpu_id not in taken),
    )


def host_millis() -> int:
    """Return the cores this process may use, in thousandths."""
    return len(os.sched_getaffinity(0)) * 1000


def host_bytes() -> int:
    """Return the host's memory, or the limit of the cgroup we are in where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(path.read_text()))
    return total


def real_gpus() -> tuple[GpuDevice, ...]:
    """Return the devices NVML names; none where there is no driver."""
    try:
        import pynvml  # noqa: PLC0415 - only workers look, once

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML has an exception type per error; all mean "none here"
        return ()
    try:
        found = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(number)
            found.append(
                GpuDevice(
                    gpu_id=_text(pynvml.nvmlDeviceGetUUID(device)),
                    kind=_kind(_text(pynvml.nvmlDeviceGetName(device))),
                    memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(device).total),
                )
            )
        return tuple(found)
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _kind(name: str) -> str:
    """Return the model in NVML's name: "NVIDIA H100 80GB HBM3" → "H100"."""
    words = [word for word in name.split() if word not in ("NVIDIA", "GeForce", "RTX", "Tesla")]
    return words[0] if words else name
