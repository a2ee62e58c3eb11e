"""What this worker offers, and the locks by which workers of one host keep out of each other's way.

A worker writes what it offers into a claim file that it keeps locked; a claim whose lock can be taken
belongs to nobody any more. Its data directory is locked likewise: two workers never share one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
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
    """What a live worker of this host offers to placement.

    What nobody set is *shared*: workers divide it evenly among those who live. `held_*` is what its
    containers have been promised, which may be more than its share since another worker came.
    """

    worker: str
    cpu_millis: int
    memory_bytes: int
    gpu_ids: tuple[str, ...] = ()
    shares_cpu: bool = False
    shares_memory: bool = False
    held_millis: int = 0
    held_bytes: int = 0


def try_lock(path: Path) -> IO[str] | None:
    """Return the open, exclusively locked file, or None if somebody else holds it.

    The lock ends with the file, so with the process: nobody has to clean up after a kill.
    """
    file = os.fdopen(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8"
    )
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


class Offers:
    """This worker's claim, looked at again whenever others may have come or gone."""

    def __init__(
        self,
        settings: WorkerSettings,
        worker: str,
        claims: Path,
        file: IO[str],
        gpus: Callable[[], tuple[GpuDevice, ...]],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._claims = claims
        self._file = file
        self._gpus = gpus

    def renew(self, held_millis: int = 0, held_bytes: int = 0) -> Offer:
        """Return what to offer now, and write it down for the others.

        Args:
            held_millis, held_bytes: promised to the containers that live here.
        """
        with _take_turn(self._claims):
            offer = decide_offer(
                self._settings, host_millis(), host_bytes(), self._gpus(), self._others()
            )
            claim = Claim(
                worker=self._worker,
                cpu_millis=offer.cpu_millis,
                memory_bytes=offer.memory_bytes,
                gpu_ids=tuple(each.gpu_id for each in offer.gpus if not each.simulated),
                shares_cpu=self._settings.cpu <= 0,
                shares_memory=not self._settings.memory,
                held_millis=held_millis,
                held_bytes=held_bytes,
            )
            self._file.seek(0)
            self._file.truncate()
            self._file.write(msgspec.json.encode(claim).decode())
            self._file.flush()
        return offer

    def _others(self) -> list[Claim]:
        return [each for each in read_claims(self._claims) if each.worker != self._worker]


@contextlib.contextmanager
def open_offers(
    settings: WorkerSettings,
    worker: str,
    claims: Path,
    gpus: Callable[[], tuple[GpuDevice, ...]] = tuple,
) -> Iterator[Offers]:
    """Claim a part of this host, next to its other workers, until the end.

    Args:
        gpus: tells which of this host's GPUs work now.
    """
    claims.mkdir(parents=True, exist_ok=True)
    path = claims / f"{worker}.json"
    with _take_turn(claims):
        file = try_lock(path)
    if file is None:
        raise UnavailableError(
            "platform.unavailable", f"a worker called {worker} runs on this host already"
        )
    with file:
        try:
            yield Offers(settings, worker, claims, file, gpus)
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
    """Return what to offer: what was asked for, else an even share of what the others leave. Pure.

    Args:
        claims: the other live workers'.
    """
    shared_millis = _share(
        cpu_millis, [(each.cpu_millis, each.held_millis, each.shares_cpu) for each in claims]
    )
    shared_bytes = _share(
        max(0, memory_bytes - KEPT_BYTES),
        [(each.memory_bytes, each.held_bytes, each.shares_memory) for each in claims],
    )
    taken = {gpu_id for each in claims for gpu_id in each.gpu_ids}
    return Offer(
        host=socket.gethostname(),
        cpu_millis=round(settings.cpu * 1000) if settings.cpu > 0 else shared_millis,
        memory_bytes=parse_bytes(settings.memory) or shared_bytes,
        gpus=parse_gpus(settings.gpus) or tuple(each for each in gpus if each.gpu_id not in taken),
    )


def _share(total: int, others: list[tuple[int, int, bool]]) -> int:
    """Return our part of `total` beside others' (claimed, held, shares).

    Who holds more than an even share keeps it until its containers end; we wait for that.
    """
    left = max(0, total - sum(claimed for claimed, _, shares in others if not shares))
    holding = [held for _, held, shares in others if shares]
    even = left // (len(holding) + 1)
    return max(0, min(even, left - sum(max(even, held) for held in holding)))


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
