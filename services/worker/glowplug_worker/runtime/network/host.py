"""What one worker's networks change on the host: an uplink, one table, and which interfaces forward.

All of it is written down below /run before it is made, under the name of its worker, whose lock is held
while it lives. So `sweep` can undo what a killed worker left, and touches nothing of one that lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.runtime.network import nft
from glowplug_worker.runtime.network.netlink import IPv4Address, Netlink
from glowplug_worker.runtime.network.rules import Plan, host_rules

log = structlog.get_logger()

RECORDS: Final = Path("/run/glowplug/network")
PREFIX: Final = "gp"  # of uplinks' names
_NAME: Final = re.compile(r"^[0-9a-f]{8}\Z")
_ALL_LOCK: Final = "all.lock"
_CONF: Final = Path("/proc/sys/net/ipv4/conf")
_IPV6_CONF: Final = Path("/proc/sys/net/ipv6/conf")
_DEFAULT_MTU: Final = 1500


class Record(msgspec.Struct, kw_only=True):
    """What a worker changed here.

    Attributes:
        slot: which four addresses of `Plan.outside` are its own.
        forwards: interfaces that forward only because a worker needs it; set back by the last that goes.
        made: whether it has come as far as making anything; a root without powers does not.
    """

    name: str
    slot: int
    forwards: list[str] = []
    made: bool = True

    @property
    def uplink(self) -> str:
        """Return the host's interface to the router."""
        return PREFIX + self.name

    @property
    def table(self) -> str:
        """Return the host's table."""
        return f"glowplug_{self.name}"

    def addresses(self, plan: Plan) -> tuple[IPv4Address, IPv4Address]:
        """Return the host's address on the uplink, and the router's."""
        first = self.slot * 4
        return plan.outside[first + 1], plan.outside[first + 2]


class Host:
    """One worker's changes to the host. Held open, it says that the worker lives."""

    def __init__(self, record: Record, lock: int, records: Path, plan: Plan) -> None:
        self.record = record
        self._lock = lock
        self._records = records
        self._plan = plan

    def connect(self, router: int, uplink: str, mtu: int) -> None:
        """Make the uplink to the router behind a descriptor, and the host's rules for it."""
        ours, _ = self.record.addresses(self._plan)
        with _all_locked(self._records):
            nft.check_rights()
            self.record.made = True
            _write(self._records, self.record)
            nft.apply(self._rules())
        with Netlink() as link:
            link.make_veth(self.record.uplink, uplink, router, mtu=mtu)
            link.add_address(self.record.uplink, ours, 30)
            link.set_up(self.record.uplink)
        _write_forwarding(self.record.uplink, "1")
        _open_ways(self.record)
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(_IPV6_CONF, self.record.uplink, "disable_ipv6").write_text("1", encoding="ascii")

    def follow(self) -> None:
        """Let interfaces forward by which the host has come to reach others since: VPNs, other networks."""
        if not _closed_ways():
            return
        with _all_locked(self._records):
            self._read_again()
            self.record.forwards += _closed_ways()
            _write(self._records, self.record)
            nft.apply(f"delete table inet {self.record.table}\n{self._rules()}")
            _open_ways(self.record)

    def close(self) -> None:
        """Undo what was changed."""
        with _all_locked(self._records):
            self._read_again()
            _undo(self.record, self._records)
        os.close(self._lock)

    def _rules(self) -> str:
        _, router = self.record.addresses(self._plan)
        guarded = {name for each in _read_all(self._records) for name in each.forwards}
        return host_rules(self.record.table, self.record.uplink, router, PREFIX, sorted(guarded))

    def _read_again(self) -> None:
        """Another worker that went may have left us what is to be set back."""
        ours = (each for each in _read_all(self._records) if each.name == self.record.name)
        self.record = next(ours, self.record)


def open_host(worker: str, plan: Plan, records: Path = RECORDS) -> Host:
    """Write down what is about to be changed; `connect` then makes it.

    Raises: OSError; UnavailableError when another worker has this name, or too many run here.
    """
    name = name_of(worker)
    with _all_locked(records):
        _sweep(records)
        lock = _try_lock(records, name)
        if lock is None:
            raise UnavailableError(
                "platform.unavailable", f"another worker named {worker} has networks on this host"
            )
        slot = _free_slot(plan, {other.slot for other in _read_all(records)})
        if slot is None:
            os.close(lock)
            raise UnavailableError("platform.unavailable", "no addresses are left for a worker")
        record = Record(name=name, slot=slot, forwards=_closed_ways(), made=False)
        _write(records, record)
    return Host(record, lock, records, plan)


def name_of(worker: str) -> str:
    """Return what stands in the names of everything that a worker makes on this host."""
    return hashlib.sha256(worker.encode()).hexdigest()[:8]


def sweep(records: Path = RECORDS) -> int:
    """Undo what dead workers left of their networks; return how many there were."""
    if os.geteuid() != 0 or not records.is_dir():
        return 0
    with _all_locked(records):
        return _sweep(records)


def outward() -> list[str]:
    """Return the interfaces by which this host reaches others."""
    lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    names = dict.fromkeys(line.split()[0] for line in lines if line.split())
    return [name for name in names if not name.startswith(PREFIX) and name != "lo"]


def path_mtu() -> int:
    """Return the largest packet that every interface outward takes."""
    sizes = [
        int(path.read_text(encoding="ascii"))
        for name in outward()
        if (path := Path("/sys/class/net", name, "mtu")).exists()
    ]
    return min(sizes, default=_DEFAULT_MTU)


def _closed_ways() -> list[str]:
    """Return the interfaces outward that forward nothing."""
    return [each for each in outward() if _read_forwarding(each) == "0"]


def _open_ways(record: Record) -> None:
    """Let interfaces forward. Their guards must be in force."""
    for interface in record.forwards:
        _write_forwarding(interface, "1")


def _free_slot(plan: Plan, taken: set[int]) -> int | None:
    """Return four addresses that no worker has, and to which this host knows no way yet."""
    lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    # Written as the processor lays them out in memory.
    known = {int.from_bytes(bytes.fromhex(line.split()[1]), sys.byteorder) for line in lines}
    for slot in range(plan.outside.num_addresses // 4):
        network = plan.outside[slot * 4]
        if slot not in taken and int.from_bytes(network.packed, "big") not in known:
            return slot
    return None


def _sweep(records: Path) -> int:
    count = 0
    for record in list(_read_all(records)):
        lock = _try_lock(records, record.name)
        if lock is None:
            continue
        try:
            _undo(record, records)
            count += 1
        except OSError as error:  # what can't be undone here must not keep a worker from starting
            log.warning("network.sweep_failed", name=record.name, error=str(error))
        finally:
            os.close(lock)
    return count


def _undo(record: Record, records: Path) -> None:
    """Take back everything that a record says. May be repeated; the caller holds both locks."""
    if record.made:
        with Netlink() as link:
            link.remove(record.uplink)
        nft.delete_table(record.table)
    others = [other for other in _read_all(records) if other.name != record.name]
    if others:
        # Who stays needs it still, and sets it back when it goes.
        heir = others[0]
        heir.forwards = list(dict.fromkeys([*heir.forwards, *record.forwards]))
        _write(records, heir)
    else:
        for interface in record.forwards:
            _write_forwarding(interface, "0")
    (records / f"{record.name}.json").unlink(missing_ok=True)
    (records / f"{record.name}.lock").unlink(missing_ok=True)


def _read_all(records: Path) -> Iterator[Record]:
    for path in sorted(records.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            record = msgspec.json.decode(path.read_bytes(), type=Record)
            if record.name == path.stem and _NAME.match(record.name):
                yield record


def _write(records: Path, record: Record) -> None:
    path = records / f"{record.name}.json"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.replace(path)


@contextlib.contextmanager
def _all_locked(records: Path) -> Iterator[None]:
    records.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(records / _ALL_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _try_lock(records: Path, name: str) -> int | None:
    fd = os.open(records / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _read_forwarding(interface: str) -> str:
    try:
        return (_CONF / interface / "forwarding").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _write_forwarding(interface: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # an interface that is gone forwards nothing
        (_CONF / interface / "forwarding").write_text(value, encoding="ascii")
