"""Families of durable work in the simulated world: some, one that waits for all of them, one that waits for that.

They are written as the gateway writes them: who waits first, then those that are waited for, each until it is
accepted; whoever asked asks again with the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from glowplug_contracts.ids import DeploymentId, InvocationId
from glowplug_contracts.messages.invocation import Format, Input, Payload, State
from glowplug_contracts.messages.record import InvocationRecord, RateLimit

from tests.support.builders_scale import WORKSPACE

if TYPE_CHECKING:
    from tests.support.world import World
    from tests.support.world_nodes import Client, Nodes

CONDITIONS = ("succeeded", "succeeded", "failed", "ended")
RATED = 0.4  # share of worlds in which a deployment has a rate
RATES = (RateLimit(count=1, period_s=0.5), RateLimit(count=3, period_s=2.0))
BURSTS = (0, 1, 2)
MEMBERS_MAX = 3
ACCEPTED_LOOK_S = 0.05


def rate_some(world: World, nodes: Nodes, until_s: float) -> None:
    """Let one deployment of some worlds begin only so many in a time, and ask for more than that at once."""
    if not world.chance(RATED):
        return
    deployment_id = DeploymentId(world.rng.choice(sorted(nodes.habits)))
    nodes.rates[deployment_id] = world.rng.choice(RATES)
    for _ in range(world.rng.choice(BURSTS)):
        at = world.rng.uniform(0.0, until_s)
        for _ in range(2 * nodes.rates[deployment_id].count):
            world.later(at, nodes.client, nodes.client.spawn, deployment_id, 0)


def ask_for_families(world: World, nodes: Nodes, until_s: float) -> None:
    """Have some families put, over the ill time."""
    for number in range(world.rng.choice([0, 1, 3])):
        at = world.rng.uniform(0.0, until_s)
        world.later(at, nodes.client, _put, world, nodes, number)


def _put(world: World, nodes: Nodes, number: int) -> None:
    names = sorted(nodes.habits)

    def record(name: str) -> InvocationRecord:
        deployment_id = DeploymentId(world.rng.choice(names))
        return InvocationRecord(
            invocation_id=InvocationId(f"inv_family_{number}_{name}"),
            workspace=WORKSPACE,
            deployment_id=deployment_id,
            input=Input(args=Payload(format=Format.JSON, data=b"{}")),
            state=State.ACCEPTED,
            rate=nodes.rates.get(deployment_id, RateLimit()),
        )

    last, joined = record("last"), record("joined")
    members = [record(str(n)) for n in range(world.rng.randint(1, MEMBERS_MAX))]
    replace = msgspec.structs.replace
    family = [
        replace(last, after=(joined.invocation_id,), after_if=world.rng.choice(CONDITIONS)),
        replace(
            joined,
            after=tuple(one.invocation_id for one in members),
            after_if=world.rng.choice(CONDITIONS),
            then=(last.invocation_id,),
        ),
        *(replace(one, then=(joined.invocation_id,)) for one in members),
    ]
    world.counts["families"] += 1
    _store_in_order(world, nodes.client, family)


def _store_in_order(world: World, client: Client, left: list[InvocationRecord]) -> None:
    first, *rest = left
    client._store(first)

    def look() -> None:
        if first.invocation_id not in client.accepted:
            world.later(ACCEPTED_LOOK_S, client, look)
        elif rest:
            _store_in_order(world, client, rest)

    look()
