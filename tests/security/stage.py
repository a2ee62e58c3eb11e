"""Where the attempts are made: a backend run by a user, beside a victim, a neighbour and a watched host.

`play(stage, ...)` makes every attempt in a container of that stage and looks at the host after each;
`play_free` makes them in a plain process: the positive control. As another user a stage is a command:

    python -m tests.security.stage STAGE DIRECTORY
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
from glowplug_contracts.ids import ContainerId
from glowplug_worker.access import Access, Granted
from glowplug_worker.networks import HostNetworks
from glowplug_worker.ports import Backend, Bind, Limits, Networks
from glowplug_worker.runtime.cgroups import open_cgroups
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.launcher.client import open_launcher
from glowplug_worker.runtime.network.choose import open_networks
from glowplug_worker.runtime.network.rules import make_plan
from glowplug_worker.runtime.process import ProcessBackend

from tests.security.attempts.inside import ATTEMPTS
from tests.security.attempts.kit import Attempt
from tests.security.host import Host, processes_with
from tests.support.containers import Inside, open_container

RUNTIMES = {"crun": ("oci", "crun"), "runc": ("oci", "runc")}
HERE = Path(__file__).parent
MIB = 1 << 20
LIMITS = Limits(
    memory_bytes=192 * MIB, cpu_millis=500, pids=100, disk_bytes=64 * MIB, disk_inodes=2_000
)
# Loaded inside, from the directory that is bound at /probe.
CODE = """
sys.path.insert(0, {top!r})
sys.dont_write_bytecode = True
given = json.loads(os.environ["GIVEN"])
given["wire"] = wire
os.environ["GIVEN"] = json.dumps(given)
from attempts.inside import main
main(wire)
"""
# Not the range of a worker that may run on this host.
BETWEEN = "198.18.64.0/18"
SHARED = ("source", "layer", "sdk")


class Stage(msgspec.Struct, frozen=True):
    """A backend, and who runs the worker."""

    backend: str
    user: str = "root"

    def __str__(self) -> str:
        return f"{self.backend} by {self.user}"


class Seen(msgspec.Struct):
    """What came of one attempt, and what changed on the host (nothing, it is hoped)."""

    outcome: str
    words: str = ""
    changes: list[str] = []
    ended: bool = False


class Played(msgspec.Struct):
    """A whole stage: what its backend enforces, what came of each attempt, what outlived the end."""

    enforces: list[str]
    reason: str
    seen: dict[str, Seen]
    facts: dict[str, Any] = {}
    left: list[int] = []


async def play(stage: Stage, directory: Path) -> Played:
    """Make every attempt in containers of a stage's backend.

    Raises: UnavailableError where the backend does not work.
    """
    with contextlib.closing(open_cgroups(directory)) as cgroups, contextlib.ExitStack() as stack:
        name, runtime = RUNTIMES.get(stage.backend, (stage.backend, ""))
        launcher = open_launcher()
        if launcher is not None:
            stack.callback(launcher.close)
        backend = await choose_backend(
            name, directory / "data", cgroups, runtime, launcher=launcher
        )
        async with _networks(backend, directory) as networks:
            return await _play(backend, directory, networks)


async def play_free(directory: Path) -> Played:
    """Make every attempt in a plain process of this user."""
    return await _play(ProcessBackend("control"), directory, HostNetworks())


@contextlib.asynccontextmanager
async def _networks(backend: Backend, directory: Path) -> AsyncIterator[Networks]:
    """Networks of the containers' own where they can be had, else none, else the host's."""
    if "network" not in backend.enforces:
        yield HostNetworks()
        return
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        spawn = lambda work, name: tasks.create_task(work, name=name)  # noqa: E731
        opening = open_networks(
            "auto", str(directory), spawn, directory, between=BETWEEN, opened=""
        )
        networks, _ = await stack.enter_async_context(opening)
        yield networks


async def _play(backend: Backend, directory: Path, networks: Networks) -> Played:
    mark = f"glowplug-security-{secrets.token_hex(8)}"
    with scenery(backend, directory, mark) as (given, binds, host, victim):
        place = _Place(backend, networks, given, binds, mark)
        async with Container(place, directory / "neighbour") as neighbour:
            (directory / "neighbour" / "secret").write_text("secret")
            facts = await neighbour.facts()
            seen = {}
            async with contextlib.AsyncExitStack() as stack:
                container = None
                for number, attempt in enumerate(ATTEMPTS):
                    if container is None:
                        made = Container(place, directory / f"c{number}")
                        container = await stack.enter_async_context(made)
                    one = await container.attempt(number, attempt)
                    one.changes += host.changes()
                    one.changes += await neighbour.health()
                    one.changes += victim.health()
                    seen[attempt.name] = one
                    if one.ended:
                        container = None
    return Played(sorted(backend.enforces), backend.reason, seen, facts, processes_with(mark))


class _Place(msgspec.Struct, frozen=True):
    """What the containers of a stage have in common."""

    backend: Backend
    networks: Networks
    given: dict[str, Any]
    binds: tuple[Bind, ...]
    mark: str


class Container:
    """A container that makes attempts."""

    def __init__(self, place: _Place, scratch: Path) -> None:
        self._place = place
        self._scratch = scratch
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        place, scratch = self._place, self._scratch
        top = "/probe" if place.backend.mounts else str(HERE)
        writable = "/tmp" if place.backend.mounts else str(scratch)
        given = {**place.given, "writable": writable, "disk": writable}
        network = await place.networks.attach(scratch.name, _granted(place))
        self._stack.push_async_callback(network.close)
        self._inside: Inside = await self._stack.enter_async_context(
            open_container(
                place.backend,
                scratch,
                CODE.format(top=top),
                env={"GIVEN": json.dumps(given), "MARK": place.mark, "HOME": "/tmp"},
                binds=(*place.binds, *network.binds),
                container_id=ContainerId(f"ctr_{scratch.name}-{place.mark[-8:]}"),
                limits=LIMITS,
                network=network.network,
                netns=network.netns,
            )
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def attempt(self, number: int, attempt: Attempt) -> Seen:
        """Make one attempt; a container that ended by it says how."""
        try:
            await self._inside.tell(f"{number}\n".encode())
            outcome, words = await self._inside.said()
        except (AssertionError, OSError) as error:
            return Seen("held" if attempt.ends else "broken", f"it ended: {error}", ended=True)
        return Seen(outcome, words)

    async def facts(self) -> dict[str, Any]:
        """Return what it is, seen from inside, and by which users it runs, seen from here."""
        await self._inside.tell(b"facts\n")
        said: dict[str, Any] = await self._inside.said()
        inside = [users_of(pid) for pid in processes_with(self._place.mark)]
        return {**said, "users": sorted(set().union(*inside))}

    async def health(self) -> list[str]:
        """Ask whether it still answers; return in words that it does not."""
        try:
            await self._inside.tell(b"ping\n")
            said = await self._inside.said()
        except (AssertionError, OSError, TimeoutError) as error:
            return [f"the neighbour is gone: {error}"]
        return [] if said == "pong" else [f"the neighbour says {said}"]


def _granted(place: _Place) -> Granted:
    if place.networks.own:
        return Granted(access=Access.INTERNET)
    taken = "network" in place.backend.enforces
    return Granted(access=Access.NONE if taken else Access.HOST)


def users_of(pid: int) -> set[int]:
    """Return every user id, as the host sees it, that a process has."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    uids = next(line for line in status if line.startswith("Uid:")).split()[1:]
    return {int(uid) for uid in uids}


class Victim:
    """The process outside that has the secret."""

    def __init__(self, secret: str, mark: str) -> None:
        self.shm_key = 0x67000000 | secrets.randbelow(1 << 20)
        self.name = f"victim-{mark[-16:]}"
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(HERE / "victim.py"), secret, self.name, str(self.shm_key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SECRET": secret},
        )
        assert self._process.stdout is not None
        self.says: dict[str, Any] = json.loads(self._process.stdout.readline())
        self.pid = self._process.pid

    def health(self) -> list[str]:
        """Ask whether it still answers; return in words that it does not."""
        if self._process.poll() is not None:
            return [f"the victim ended with {self._process.returncode}"]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        return [] if said == b"here\n" else [f"the victim says {said!r}"]

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def scenery(
    backend: Backend, directory: Path, mark: str
) -> Iterator[tuple[dict[str, Any], tuple[Bind, ...], Host, Victim]]:
    """Plant secrets and shared files; yield what the attempts are told, and what is watched."""
    secret = f"canary-{secrets.token_hex(16)}"
    shared = directory / "shared"
    for name in SHARED:
        (shared / name).mkdir(parents=True)
        (shared / name / "file.py").write_text("shared = True\n")
    volume = directory / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    planted = {
        # Readable for everybody but in home: they must be out of sight, not only out of reach.
        "home": Path.home() / f".{mark}",
        "data": directory / "secret",
        "tmp": Path("/tmp") / mark,
    }
    for path in planted.values():
        path.write_text(secret)
    victim = Victim(secret, mark)
    try:
        port = victim.says["port"]
        own = _own_address()
        given = {
            "canary": secret[::-1],
            "sandboxed": backend.mounts,
            "worker": os.getpid(),
            "victim": victim.pid,
            "shm_key": victim.shm_key,
            "shm_name": victim.name,
            "abstract": victim.name,
            "data_dir": str(directory),
            "neighbour": str(directory / "neighbour" / "secret"),
            "namespaces": {
                name: str(Path(f"/proc/self/ns/{name}").readlink())
                for name in ("user", "mnt", "pid", "ipc", "uts", "net")
            },
            "hardware": _hardware(),
            "tcp": ["127.0.0.1", port],
            "tcp_other": ["127.1.2.3", port],
            "tcp_zero": ["0.0.0.0", port],
            "tcp_gateway": [str(make_plan(BETWEEN).gateway), port],
            "tcp_mapped": ["::ffff:127.0.0.1", port],
            "tcp_host": [own, port] if own else None,
            "tcp6": victim.says["six"],
            "udp": victim.says["udp"],
            "pids": LIMITS.pids,
            "disk_mib": LIMITS.disk_bytes // MIB,
            "inodes": LIMITS.disk_inodes,
            "cpu": LIMITS.cpu_millis / 1000,
        }
        given |= {name: str(path) for name, path in planted.items()}
        binds = [_bind(HERE / "attempts", "/probe/attempts")]
        for name in SHARED:
            given[name] = f"/shared/{name}" if backend.mounts else str(shared / name)
            binds.append(_bind(shared / name, f"/shared/{name}"))
        given["volume"] = "/volume" if backend.mounts else str(volume)
        binds.append(Bind(source=volume, target="/volume", writable=True, shared=True))
        watched = shared if backend.mounts else directory / "none"
        yield given, tuple(binds), Host(watched), victim
    finally:
        victim.end()
        for path in planted.values():
            path.unlink(missing_ok=True)


def _bind(source: Path, target: str) -> Bind:
    return Bind(source=source, target=target, shared=True)


def _hardware() -> list[str]:
    """Return the hardware addresses of this host's interfaces, but for the loopback's."""
    found = [path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")]
    return sorted(address for address in found if address.strip("0:"))


def _own_address() -> str:
    """Return an address of this host that is not the loopback's; "" if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def main() -> None:
    """Play a stage as this user; say it in JSON."""
    stage, directory = sys.argv[1:3]
    played = asyncio.run(
        play_free(Path(directory)) if stage == "free" else play(Stage(stage), Path(directory))
    )
    sys.stdout.write(msgspec.json.encode(played).decode() + "\n")


if __name__ == "__main__":
    main()
