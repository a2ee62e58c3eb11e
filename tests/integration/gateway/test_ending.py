"""Ephemeral versions that nothing uses end, and with them the need of their images."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionKind,
    SourceRef,
)
from glowplug_contracts.streams import DEPLOYMENTS
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.ending import LISTEN_FIRST_S, Ending

from tests.support.clock import FakeClock
from tests.support.eventually import eventually

KEEP_S = 1000.0
WORKSPACE = "default"


class Gateway:
    """What ends versions, at a time of the test's own."""

    def __init__(self, bus) -> None:
        self.clock = FakeClock()
        self.bucket = bus.bucket(DEPLOYMENTS)
        self.catalog = Catalog(bus, self.clock, KEEP_S)
        self.busy: set[str] = set()
        self.ending = Ending(self.catalog, self.clock, lambda one: one in self.busy)

    async def write(self, name: str, **fields: object) -> Deployment:
        spec = DeploymentSpec(
            name=name, kind=FunctionKind.FUNCTION, source=SourceRef(), python_version=""
        )
        made = Deployment(
            deployment_id=self.clock.id("deployment"),
            workspace=WORKSPACE,
            version=0,
            spec=spec,
            ephemeral=True,
            created_at=self.clock.unix(),
        )
        made = msgspec.structs.replace(made, **fields)
        await self.catalog.write_deployment(made, 0)
        return made

    async def state(self, version: Deployment) -> DeploymentState | None:
        found = await self.bucket.get(f"{WORKSPACE}.{version.deployment_id}")
        return found.value.state if found is not None and found.value is not None else None


@pytest.fixture
async def gateway(bus):
    gateway = Gateway(bus)
    async with gateway.catalog.open():
        yield gateway


async def test_only_what_is_unused_ends_and_is_forgotten_later(gateway):
    unused, called, busy = [await gateway.write(name) for name in ("unused", "called", "busy")]
    named = await gateway.write("named", ephemeral=False)
    gateway.busy.add(busy.deployment_id)
    gateway.clock.advance(KEEP_S * 0.9)
    await gateway.catalog.to_call(WORKSPACE, called.deployment_id)
    gateway.clock.advance(KEEP_S * 0.2)
    await gateway.ending.look()
    assert [await gateway.state(one) for one in (unused, called, busy, named)] == [
        DeploymentState.DELETED,
        DeploymentState.ACTIVE,
        DeploymentState.ACTIVE,
        DeploymentState.ACTIVE,
    ]
    with pytest.raises(NotFoundError):
        await gateway.catalog.to_call(WORKSPACE, unused.deployment_id)
    gateway.clock.advance(KEEP_S)
    await gateway.ending.look()
    assert await gateway.state(unused) is None
    assert await gateway.state(busy) is DeploymentState.ACTIVE


async def test_nothing_ends_before_dispatchers_can_have_told_what_waits(gateway):
    version = await gateway.write("f", created_at=gateway.clock.unix() - 2 * KEEP_S)
    await gateway.ending.look()
    assert await gateway.state(version) is DeploymentState.ACTIVE
    gateway.clock.advance(LISTEN_FIRST_S)
    await gateway.ending.look()
    assert await gateway.state(version) is DeploymentState.DELETED


async def test_a_use_that_another_gateway_noted_counts(gateway, bus):
    version = await gateway.write("f")
    other = Gateway(bus)
    other.clock.advance(KEEP_S + 1)
    gateway.clock.advance(KEEP_S + 1)
    # This one ends it as it knew it: the write meets the other's, and the version lives.
    known = gateway.catalog.ephemerals()
    await other.catalog.to_call(WORKSPACE, version.deployment_id)
    gateway.catalog.ephemerals = lambda: known
    await gateway.ending.look()
    assert await gateway.state(version) is DeploymentState.ACTIVE


async def test_a_use_meets_an_end_that_was_first(gateway, bus):
    version = await gateway.write("f")
    other = Gateway(bus)
    found = await other.catalog.by_id(WORKSPACE, version.deployment_id)
    for one in (gateway, other):
        one.clock.advance(KEEP_S + 1)
    await gateway.ending.look()
    with pytest.raises(NotFoundError):
        await other.catalog.use(found)


async def test_a_program_that_runs_again_brings_its_version_back(gateway):
    version = await gateway.write("f")
    gateway.clock.advance(KEEP_S + 1)
    await gateway.ending.look()
    # As the deployer writes it: the same id, whatever is there.
    again = msgspec.structs.replace(version, created_at=gateway.clock.unix())
    await gateway.catalog.write_deployment(again, None)
    found = await gateway.catalog.to_call(WORKSPACE, version.deployment_id)
    assert found.state is DeploymentState.ACTIVE
    await eventually(lambda: _knows(gateway, again))


async def _knows(gateway: Gateway, version: Deployment) -> bool:
    return version in [entry.value for entry in gateway.catalog.ephemerals()]
