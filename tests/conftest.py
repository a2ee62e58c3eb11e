"""The broker, the bus, and who runs beside whom."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.topology import ensure_topology

from tests.support.clock import FakeClock
from tests.support.nats import Server, open_nats_server

if TYPE_CHECKING:
    from tests.support.weed import Weed

# Tests speak gRPC and fork containers in one process; gRPC's own handlers at a fork may abort it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


# What starts platforms and containers runs one after the other, in one of the processes of `pytest -n`: it
# looks at the host for leftovers, and sets the environment. The rest goes file by file to the other ones.
ONE_BY_ONE = (
    "e2e",
    "faults",
    "security",
    "integration/backends",
    "integration/imagecache/test_real_registry.py",
    "integration/network",
    "integration/worker",
    "repo/test_images.py",
)
# Of these, what starts no container and looks at no host.
BESIDE = tuple(
    f"security/test_{name}.py"
    for name in ("archives", "blobs", "bombs", "fuzz", "names", "routes", "strangers", "terminal")
)


def group_of(test: str) -> str:
    """Return what a test belongs to that may not run beside others of it: "host", or its own file."""
    file = Path(test.split("::", 1)[0]).relative_to("tests").as_posix()
    return "host" if file.startswith(ONE_BY_ONE) and file not in BESIDE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each group to one process; of the groups, those with the most tests first."""
    from xdist.scheduler import LoadScopeScheduling  # not every run has pytest-xdist

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The host, which one process of this run may have."""
    run = tmp_path_factory.getbasetemp()
    shared = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    with (shared / "host.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest) -> None:
    """Fail what looks at the host beside another process that does."""
    if group_of(request.node.nodeid) == "host":
        request.getfixturevalue("_host")


@pytest.fixture(autouse=True, scope="module")
def _session() -> Iterator[None]:
    """The SDK keeps a program's session: what comes next in this process has a platform of its own."""
    yield
    if (loaded := sys.modules.get("glowplug.client.session")) is not None:
        loaded.close_session()


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """An S3-compatible server; tests take prefixes of their own in it."""
    from tests.support.weed import open_weed

    with open_weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Server]:
    """A broker of one's own (6 ms): tests may kill it."""
    with open_nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def with_library() -> bool:
    """Whether the bus goes through the client library; conformance tests parametrize it."""
    return False


@pytest.fixture
async def bus(nats_server: Server, with_library: bool) -> AsyncIterator[NatsBus]:
    """A connection to a broker that has every stream and bucket, one shard."""
    async with open_bus(nats_server.url, instance="test", library=with_library) as bus:
        await ensure_topology(bus, shards=1)
        yield bus
