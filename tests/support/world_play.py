"""One run of the simulated world from a seed: what is deployed and asked for, how ill it gets, how it ends."""

from __future__ import annotations

import random

import msgspec
from glowplug_autoscaler.decide import BACKLOG_KEPT_S
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.deployment import Resources

from tests.support.builders_scale import a_deployment
from tests.support.world import HEALTHY, Illness, Machines, World
from tests.support.world_families import ask_for_families, rate_some
from tests.support.world_nodes import Nodes
from tests.support.world_worker import Habits, Worker

MIB = 1024**2
ILL_S = 15.0
HEALED_S = 300.0
REST_S = 60.0
AUDITED_S = 150.0
SMALL_BACKLOG = 6


class LostError(AssertionError):
    """A promise did not hold in a world: the seed that shows it, and the end of the story."""


def play(seed: int, *, calm: bool = False, machines: Machines | None = None) -> World:
    """Run a world to its end. Raises: LostError."""
    illness = HEALTHY if calm else an_illness(random.Random(f"illness {seed}"))
    world = World(seed, illness, machines)
    try:
        _play(world)
    except Exception as error:
        story = "\n".join(world.story)
        raise LostError(
            f"seed {seed}: {type(error).__name__}: {error}\n"
            f"replay with GLOWPLUG_SIM_SEED={seed}\n{illness}\n{dict(world.counts)}\n{story}"
        ) from error
    return world


def an_illness(rng: random.Random) -> Illness:
    """How ill a world of this seed gets; some have one kind of trouble only."""
    return Illness(
        dropped=rng.choice([0.0, 0.01, 0.1]),
        doubled=rng.choice([0.0, 0.02, 0.2]),
        late=rng.choice([0.0, 0.05, 0.3]),
        late_s=rng.choice([0.05, 0.5, 3.0]),
        unanswered=rng.choice([0.0, 0.01, 0.1]),
        death_every_s=rng.choice([0.0, 6.0, 2.0]),
        zombies=rng.choice([0.0, 0.5]),
        freezes=rng.choice([0.0, 0.4]),
        left_out=rng.choice([0.0, 0.0, 0.05, 0.3]),
    )


def _play(world: World) -> None:
    nodes = furnish(world)
    nodes.start()
    ask(world, nodes)
    if world.illness.death_every_s:
        _let_die(world, nodes)
    world.run(ILL_S)
    # Of what was sent before it heals; where no more is said, an autoscaler goes by it for a while.
    latest = world.now + world.illness.late_s + BACKLOG_KEPT_S
    stopped = (*nodes.workers, *nodes.gateways, nodes.autoscaler)
    latest = max(latest, *(node.frozen_until for node in stopped))
    heal(world, nodes)
    world.run(ILL_S + HEALED_S, world.checks.all_ended)
    world.checks.everything_ended()
    if world.counts["records left out"]:
        world.run(world.now + AUDITED_S)  # by then an audit has found what was left out
    world.run(max(world.now, latest))  # it would wake what rests
    world.run(world.now + REST_S, world.checks.at_rest)
    world.run(world.now + 3.0)  # and it stays so
    world.checks.everything_rests()
    world.checks.look()


def furnish(world: World) -> Nodes:
    """Deploy some functions on some workers; the first worker alone has room for every minimum."""
    rng, nodes = world.rng, Nodes(world)
    nodes.workers.append(
        Worker(world, nodes, "w1", cpu_millis=8000, memory_bytes=4096 * MIB, gpus=("H100", "A10G"))
    )
    for number in range(2, rng.randint(2, 4) + 1):
        gpus = rng.choice([(), ("H100",), ("A10G", "A10G")])
        cpu_millis = rng.choice([1000, 2000, 4000])
        memory_bytes = rng.choice([512, 2048]) * MIB
        name = f"w{number}"
        nodes.workers.append(
            Worker(world, nodes, name, cpu_millis=cpu_millis, memory_bytes=memory_bytes, gpus=gpus)
        )
    if world.illness != HEALTHY and world.chance(0.3):
        nodes.backlog_max = SMALL_BACKLOG  # met now and then; what is beyond must end all the same
    for number in range(rng.randint(1, 4)):
        gpus = rng.choice([(), (), ("H100", "A10G")])
        deployment = a_deployment(
            f"f{number}",
            minimum=0 if gpus else rng.choice([0, 0, 1]),
            maximum=rng.randint(1, 4),
            buffer=rng.choice([0, 0, 2]),
            tasks_per_container=rng.choice([1, 1, 3]),
            keep_warm_s=rng.choice([0.0, 0.5, 3.0]),
            concurrency=rng.choice([1, 1, 3]),
            max_pending=rng.choice([0, 0, 10]),
            resources=Resources(
                cpu_millis=rng.choice([125, 1000, 2000]),
                memory_bytes=rng.choice([128, 512]) * MIB,
                gpus=gpus,
                gpu_count=int(bool(gpus)),
            ),
        )
        nodes.habits[deployment.deployment_id] = Habits(
            start_s=rng.choice([0.02, 0.3, 1.0]),
            run_s=rng.choice([0.005, 0.1, 0.8]),
            start_fails=rng.choice([0.0, 0.0, 0.0, 0.3]),
            crashes=rng.choice([0.0, 0.0, 0.2]),
        )
        if nodes.habits[deployment.deployment_id].start_fails:
            nodes.flaky.add(deployment.deployment_id)
        world.broker.put_deployment(deployment)
    return nodes


def ask(world: World, nodes: Nodes) -> None:
    """Spread calls, batches and durable work over the ill time."""
    rng, client = world.rng, nodes.client
    names = sorted(nodes.habits)
    rate_some(world, nodes, ILL_S * 0.8)
    for _ in range(rng.choice([10, 30, 60])):
        deployment_id, priority = rng.choice(names), rng.choice([0, 0, 5])
        at = rng.uniform(0.0, ILL_S * 0.8)
        kind = rng.random()
        if kind < 0.5:
            world.later(at, client, client.call, deployment_id, 1, priority)
        elif kind < 0.7:
            world.later(at, client, client.call, deployment_id, rng.randint(2, 5), priority)
        else:
            world.later(at, client, client.spawn, deployment_id, priority)
    ask_for_families(world, nodes, ILL_S * 0.8)
    if world.chance(0.2):
        at = rng.uniform(1.0, ILL_S * 0.8)
        world.later(at, client, nodes.delete, DeploymentId(rng.choice(names)))


def _let_die(world: World, nodes: Nodes) -> None:
    def dies() -> None:
        nodes.let_somebody_die()
        world.later(world.rng.expovariate(1 / world.illness.death_every_s), world.broker, again)

    def again() -> None:
        if world.illness.death_every_s and world.now < ILL_S:
            dies()

    world.later(world.rng.expovariate(1 / world.illness.death_every_s), world.broker, again)


def heal(world: World, nodes: Nodes) -> None:
    """From now on nothing goes wrong; who is dead comes back."""
    world.tell("the world heals")
    world.illness = HEALTHY
    for deployment_id, habits in nodes.habits.items():
        nodes.habits[deployment_id] = msgspec.structs.replace(habits, start_fails=0.0, crashes=0.0)
