"""Containers' own networks, with a real kernel and an internet of our own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import RejectedError, UnavailableError
from glowplug_contracts.reach import parse_reach
from glowplug_worker.access import Access, Granted
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.network import dns
from glowplug_worker.runtime.network.host import RECORDS, name_of, sweep
from glowplug_worker.runtime.network.own import Attached, OwnNetworks, open_own
from glowplug_worker.runtime.network.rules import CONNECTIONS_MAX, make_plan

from tests.support.containers import open_container
from tests.support.eventually import eventually
from tests.support.internet import (
    HERE,
    LINK,
    MAIL,
    METADATA,
    OTHER,
    PRIVATE,
    SITE,
    WEB,
    Internet,
    connects,
    inside,
    lacks,
    open_internet,
    resolves,
)

pytestmark = pytest.mark.skipif(bool(lacks()), reason=lacks() or "it can be tested")

INTERNET = Granted(access=Access.INTERNET)
NONE = Granted(access=Access.NONE)
PLAN = make_plan("198.18.0.0/15")
WORKER = f"test {os.getpid()}"
GATEWAY = str(PLAN.gateway)


class Site(msgspec.Struct):
    """Everything that a test needs."""

    internet: Internet
    networks: OwnNetworks
    taken: contextlib.AsyncExitStack

    async def attach(self, granted: Granted) -> Attached:
        attached = await self.networks.attach("ctr_test", granted)
        assert isinstance(attached, Attached)
        self.taken.push_async_callback(attached.close)
        return attached


def listed(*entries: str) -> Granted:
    return Granted(access=Access.LISTED, reach=parse_reach(entries))


async def at(attached: Attached, host: str, port: int = WEB) -> str:
    work = functools.partial(connects, host, port)
    return await asyncio.to_thread(inside, attached.netns, work)


async def named(attached: Attached, name: str, kind: int = dns.A) -> tuple[int, tuple[str, ...]]:
    work = functools.partial(resolves, GATEWAY, name, kind)
    return await asyncio.to_thread(inside, attached.netns, work)


@contextlib.asynccontextmanager
async def open_site(tmp_path: Path, opened: str = "") -> AsyncIterator[Site]:
    async with (
        open_internet() as internet,
        asyncio.TaskGroup() as tasks,
        open_own(
            WORKER,
            make_plan("198.18.0.0/15", opened),
            lambda work, name: tasks.create_task(work, name=name),
            tmp_path / "network",
            servers=lambda: (internet.server,),
        ) as networks,
        contextlib.AsyncExitStack() as taken,
    ):
        yield Site(internet=internet, networks=networks, taken=taken)


async def test_public_addresses_are_reached_and_nothing_else(tmp_path):
    async with open_site(tmp_path) as site:
        one, two, none = [await site.attach(each) for each in (INTERNET, INTERNET, NONE)]
        # What follows would prove nothing if these could not be reached from this host.
        for address in (SITE, PRIVATE, *METADATA):
            assert await asyncio.to_thread(connects, address, WEB) == str(HERE), address
        assert await asyncio.to_thread(connects, SITE, MAIL) == str(HERE)

        assert await at(one, SITE) == str(HERE)  # behind the host's own address
        assert await at(none, SITE) == "OSError"
        refused = "ConnectionRefusedError"
        for address in (PRIVATE, *METADATA):
            assert await at(one, address) == refused, address
        assert await at(one, SITE, MAIL) == refused
        assert (await at(one, str(two.namespace.address))) == refused

        with socket.create_server(("0.0.0.0", 0)) as here:
            port = here.getsockname()[1]
            uplink = PLAN.outside[1]
            for address in (str(HERE), "192.0.2.2", str(uplink), GATEWAY, "127.0.0.1"):
                assert await at(one, address, port) == refused, address
            here.settimeout(0)
            with pytest.raises(BlockingIOError):
                here.accept()


async def test_a_source_that_is_not_its_own_is_dropped(tmp_path):
    async with open_site(tmp_path) as site:
        one, two = await site.attach(INTERNET), await site.attach(INTERNET)

        def pretend() -> str:
            # As root of the host: code in a container could not even give itself the address.
            subprocess.run(
                ["ip", "address", "add", f"{two.namespace.address}/32", "dev", "eth0"], check=True
            )
            return connects(SITE, WEB, source=str(two.namespace.address), patience_s=1.0)

        assert await asyncio.to_thread(inside, one.netns, pretend) == "TimeoutError"
        assert await at(one, SITE) == str(HERE)


async def test_a_list_lets_only_what_it_names(tmp_path):
    async with open_site(tmp_path) as site:
        site.internet.names |= {
            "site.example": ([SITE], 30),
            "other.example": ([OTHER], 30),
            "a.b.wild.example": ([OTHER], 30),
            "inner.site.example": ([OTHER], 30),
        }
        by_name = await site.attach(listed("site.example"))
        assert await at(by_name, SITE) == "ConnectionRefusedError"  # not asked for yet
        assert await named(by_name, "SITE.example.") == (dns.NOERROR, (SITE,))
        assert await at(by_name, SITE) == str(HERE)
        assert await at(by_name, OTHER) == "ConnectionRefusedError"
        site.internet.asked.clear()
        for name in ("other.example", "inner.site.example", "wild.example", "site.example.evil"):
            assert await named(by_name, name) == (dns.NXDOMAIN, ())
        assert await named(by_name, "site.example", kind=16) == (dns.NOERROR, ())  # no text records
        assert await named(by_name, "site.example", kind=dns.AAAA) == (dns.NOERROR, ())
        assert site.internet.asked == []  # nothing went out, not even a question

        by_wildcard = await site.attach(listed("*.wild.example", "203.0.113.8/30"))
        assert await at(by_wildcard, SITE) == str(HERE)  # in the range
        assert await named(by_wildcard, "a.b.wild.example") == (dns.NOERROR, (OTHER,))
        assert await at(by_wildcard, OTHER) == str(HERE)
        assert await at(by_wildcard, METADATA[0]) == "ConnectionRefusedError"

        everything = await site.attach(listed("0.0.0.0/0"))
        assert await at(everything, OTHER) == str(HERE)
        assert await at(everything, PRIVATE) == "ConnectionRefusedError"
        with pytest.raises(RejectedError, match="private networks are closed"):
            await site.attach(listed(f"{PRIVATE}/24"))


async def test_a_name_can_not_be_turned_against_what_is_closed(tmp_path):
    async with open_site(tmp_path) as site:
        site.internet.names |= {
            "rebound.example": ([PRIVATE, METADATA[0], "127.0.0.1", SITE, str(PLAN.gateway)], 0),
            "metadata.google.internal": ([METADATA[0]], 30),
        }
        for granted in (INTERNET, listed("rebound.example", "metadata.google.internal")):
            attached = await site.attach(granted)
            assert await named(attached, "rebound.example") == (dns.NOERROR, (SITE,))
            assert await named(attached, "metadata.google.internal") == (dns.NOERROR, ())
            assert await at(attached, PRIVATE) == "ConnectionRefusedError"


async def test_an_answer_opens_an_address_for_a_time_that_asking_renews(tmp_path):
    async with open_site(tmp_path) as site:
        site.internet.names["site.example"] = ([SITE], 30)
        attached = await site.attach(listed("site.example"))
        number, router = attached.namespace.number, site.networks._router

        def left() -> str:
            shown = subprocess.run(
                ["nft", "list", "set", "inet", "glowplug", f"answered{number}"],
                check=True,
                capture_output=True,
                text=True,
            )
            return shown.stdout.split("expires")[1].split()[0]

        router.do(lambda: router.answered(number, (attached.namespace.address,), 5)).result()
        assert router.do(left).result().startswith(("4s", "5s"))
        router.do(lambda: router.answered(number, (attached.namespace.address,), 500)).result()
        assert router.do(left).result().startswith("8m")


async def test_a_flood_of_connections_is_cut_off_and_is_its_own(tmp_path):
    async with open_site(tmp_path) as site:
        one, two = await site.attach(INTERNET), await site.attach(INTERNET)
        place = (SITE, 9999)

        def receive() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            opened.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            opened.bind(place)
            return opened

        def flood(times: int, word: bytes) -> None:
            for _ in range(times):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
                    each.sendto(
                        word, place
                    )  # each from a port of its own: a connection to the kernel

        came: Counter[bytes] = Counter()

        def count(word: bytes) -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    came[receiving.recv(10)] += 1
            return came[word]

        with inside(site.internet.netns, receive) as receiving:
            await asyncio.to_thread(inside, one.netns, lambda: flood(100, b"few"))
            await eventually(lambda: count(b"few") == 100)
            await asyncio.to_thread(inside, one.netns, lambda: flood(CONNECTIONS_MAX + 2000, b"x"))
            await asyncio.to_thread(inside, two.netns, lambda: flood(1, b"other"))
            await eventually(lambda: count(b"other") == 1)
            assert 0 < count(b"x") <= CONNECTIONS_MAX


async def test_what_the_operator_opens_is_reached(tmp_path):
    async with open_site(tmp_path, opened="10.66.0.0/24") as site:
        attached = await site.attach(INTERNET)
        assert await at(attached, PRIVATE) == str(HERE)
        assert await at(attached, METADATA[1]) == "ConnectionRefusedError"
        await site.networks.tend([(PRIVATE, WEB), ("broker.example", 4222)])
        assert await at(attached, PRIVATE) == "ConnectionRefusedError"
        attached = await site.attach(listed(PRIVATE))
        assert await at(attached, PRIVATE) == "ConnectionRefusedError"
        await site.networks.tend([])
        assert await at(attached, PRIVATE) == str(HERE)


async def test_interfaces_forward_for_as_long_as_a_worker_needs_them_and_new_ones_too(tmp_path):
    def forwards() -> str:
        return Path(f"/proc/sys/net/ipv4/conf/{LINK}/forwarding").read_text().strip()

    def opened(name: str) -> AbstractAsyncContextManager[OwnNetworks]:
        return open_own(
            f"{name} {os.getpid()}",
            PLAN,
            lambda work, _: asyncio.ensure_future(work),
            tmp_path / name,
            records=tmp_path / "records",
        )

    async with opened("first") as first, open_internet(), contextlib.AsyncExitStack() as taken:
        assert forwards() == "0"
        await first.tend([])
        assert forwards() == "1"
        attached = await first.attach("ctr_test", INTERNET)
        assert isinstance(attached, Attached)
        taken.push_async_callback(attached.close)
        assert await at(attached, SITE) == str(HERE)
    async with open_internet(), contextlib.AsyncExitStack() as stack:
        async with opened("second"):
            await stack.enter_async_context(opened("third"))
            assert forwards() == "1"
        assert forwards() == "1"  # the third needs it still
        await stack.aclose()
        assert forwards() == "0"


async def test_a_process_that_was_born_with_an_empty_network_gets_one(tmp_path):
    async with open_site(tmp_path) as site:
        attached = await site.attach(listed("203.0.113.8/30"))
        before = attached.namespace
        born = await asyncio.create_subprocess_exec("unshare", "--net", "sleep", "600")
        try:
            await eventually(lambda: network_of(born.pid) != network_of(os.getpid()))
            await attached.move(born.pid)
            assert os.fstat(attached.netns).st_ino == network_of(born.pid)
            assert await at(attached, SITE) == str(HERE)
            assert await at(attached, OTHER) == "ConnectionRefusedError"
            # Nobody was ever in the one that it left, which is the next one's, without the list.
            assert before in site.networks._ready
            router = site.networks._router
            shown = await asyncio.to_thread(lambda: router.do(rules_in_force).result())
            assert f"list{attached.namespace.number} " in shown
            assert f"list{before.number} " not in shown
            await attached.close()
            shown = await asyncio.to_thread(lambda: router.do(rules_in_force).result())
            assert f"list{attached.namespace.number} " not in shown
        finally:
            born.kill()
            await born.wait()


def network_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def rules_in_force() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


async def test_the_worker_can_connect_to_what_listens_inside(tmp_path):
    async with open_site(tmp_path) as site:
        attached = await site.attach(NONE)
        listening = inside(attached.netns, lambda: socket.create_server(("127.0.0.1", 0)))
        with listening:
            way = await site.networks.open_inside(attached)
            with way:
                loop = asyncio.get_running_loop()
                await loop.sock_connect(way, listening.getsockname())
                listening.accept()[0].close()


def left_of(worker: str) -> list[str]:
    """Everything on the host that bears a worker's name."""
    name = name_of(worker)
    found = [link for _, link in socket.if_nameindex()]
    found += subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True
    ).stdout.split()
    found += [path.name for path in RECORDS.iterdir()]
    return [each for each in found if name in each]


def forwards() -> dict[str, str]:
    return {
        path.parent.name: path.read_text()
        for path in Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
        if path.parent.name not in (LINK, "all")
    }


async def test_nothing_is_left_of_a_worker_that_ends_or_is_killed(tmp_path):
    forwarding = forwards()
    async with open_site(tmp_path) as site:
        await site.attach(listed("site.example"))
        assert len(left_of(WORKER)) == 4  # the uplink, the table, the record and its lock
    assert left_of(WORKER) == []

    killed = f"killed {os.getpid()}"
    code = f"""
import asyncio, os, pathlib, signal
from glowplug_worker.runtime.network.own import open_own
from glowplug_worker.runtime.network.rules import make_plan
from glowplug_worker.access import Access, Granted
async def main():
    path = pathlib.Path({str(tmp_path)!r})
    plan = make_plan("198.18.0.0/15")
    async with open_own({killed!r}, plan, None, path) as networks:
        await networks.attach("c", Granted(access=Access.INTERNET))
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await process.wait()
    # At least the host's table, the record and its lock: the router went with its worker.
    assert len(left_of(killed)) >= 3
    assert await asyncio.to_thread(sweep) >= 1
    assert left_of(killed) == []
    assert forwards() == forwarding


NAMES = """
import socket
def look(work):
    try:
        return work()
    except OSError as error:
        return type(error).__name__
say(look(lambda: socket.gethostbyname("site.example")))
say(look(lambda: socket.gethostbyname("other.example")))
say(look(lambda: socket.create_connection(("site.example", 80), 3).recv(100).decode()))
say(sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line))
say(open("/etc/resolv.conf").read().split()[:2])
server = socket.create_server(("127.0.0.1", 80))  # low ports are free inside
say(look(lambda: open("/proc/sys/net/ipv4/conf/all/forwarding", "w").write("1") and "written"))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory into which any user may look, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="glowplug-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("name", ["bwrap", "process", "oci-crun", "oci-runc"])
async def test_programs_in_containers_find_names_and_reach_what_they_may(place, name):
    kind, _, runtime = name.partition("-")
    try:
        backend = await choose_backend(kind, place / "data", None, runtime)
    except UnavailableError as error:
        pytest.skip(f"{name}: {error.message}")
    async with open_site(place) as site:
        site.internet.names |= {"site.example": ([SITE], 30), "other.example": ([OTHER], 30)}
        attached = await site.attach(listed("site.example"))
        fields = {"network": "own", "netns": attached.netns, "binds": attached.binds}
        async with open_container(backend, place / "c", NAMES, **fields) as container:
            assert await container.said() == SITE
            assert await container.said() == "gaierror"
            assert await container.said() == str(HERE)
            assert await container.said() == ["eth0", "lo"]
            assert await container.said() == ["nameserver", GATEWAY]
            if backend.mounts:
                assert await container.said() in ("PermissionError", "OSError")
