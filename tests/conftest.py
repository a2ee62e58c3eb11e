"""The broker, the bus, and who runs beside whom."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.topology import ensure_topology

from tests.support.clock import FakeClock
from tests.support.nats import Server, open_nats_server

# Tests speak gRPC and fork containers in one process; gRPC's own handlers at a fork may abort it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


# What starts platforms and containers runs one after the other, in one of the processes of `pytest -n`: it
# looks at the host for leftovers, and sets the environment. The rest goes file by file to the other ones.
ONE_BY_ONE = (
    "e2e",
    "faults",
    "security",
    "integration/backends",
    "integration/network",
    "integration/worker",
)
# Of these, what starts no container and looks at no host.
BESIDE = tuple(
    f"security/test_{name}.py"
    for name in ("archives", "blobs", "bombs", "fuzz", "names", "routes", "strangers", "terminal")
)
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what may not run beside each other; of two processes, one begins with the longest group."""
    several = hasattr(config, "workerinput")
    first, rest = [], []
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        alone = file.startswith(ONE_BY_ONE) and file not in BESIDE
        item.add_marker(pytest.mark.xdist_group("host" if alone else file))
        (first if alone and several else rest).append(item)
    items[:] = [*first, *rest]


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
