"""Which faults happen, in which order: all from one random number generator. Pure.

A fault may wait for a *moment*, a named step of the journey that the watcher sees on the bus, and
strikes then; so every part is killed at every step as the campaign grows long. A log of faults is a plan.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence

import msgspec

# A record whose first word is that it runs: stored by its gateway for a warm slot, and sent there.
FIRST_RUNNING = "first running"
# The journey's steps, by what is said on the bus when they are taken: (subject, state in the headers or body).
MOMENTS: dict[str, tuple[str, str]] = {
    "accepted": ("v1.record.>", "accepted"),
    "accepted at once": ("v1.record.>", FIRST_RUNNING),
    "claimed": ("v1.record.>", "running"),
    "retry written": ("v1.record.>", "retry_wait"),
    "succeeded": ("v1.record.>", "succeeded"),
    "cancelled": ("v1.record.>", "cancelled"),
    "handed": ("v1.worker.*.run", ""),
    "slot freed": ("v1.dispatch.*.ended", ""),
    "call accepted": ("v1.call.>", ""),
    "outcome written": ("v1.outcome.>", ""),
    "answered": ("v1.reply.>", ""),
    "scaled": ("v1.scale.>", ""),
    "bound": ("v1.worker.*.bind", ""),
    "starting": ("v1.container.>", "starting"),
    "ready": ("v1.container.>", "ready"),
    "stopped": ("v1.container.>", "stopped"),
    "beat": ("v1.beat.worker.>", ""),
    "lease renewed": ("$KV.leases.>", ""),
}
PARTS = ("gateway", "scheduler", "autoscaler", "imagecache", "sandbox", "worker")
# What may be killed inside a worker.
INSIDE = ("runner", "container")

GAP_S = (0.3, 1.5)
DOWN_S = (0.0, 1.0)
PAUSE_S = (1.0, 8.0)
LONG_PAUSE_S = 30.0
# A broker is believed gone after some 4 s, a host after 6.
LASTING_S = {"island": (3.0, 12.0), "host": (1.0, 9.0), "drag": (3.0, 10.0), "full": (2.0, 8.0)}
TOGETHER = 0.12  # share of kills that take two parts at once
AT_RANDOM = 0.25  # share that waits for no moment
PAUSES = 0.06
POISONS = 0.04
# Beyond kills, pauses and poison, where a campaign asks for them by name: each in this share of faults.
OTHERS = 0.35
CUTS = ("cut", "hold", "swallow", "delay")
CLOCKS_S = (-3600.0, -300.0, -5.0, 5.0, 300.0, 3600.0)
DISK = ("full", "drag")
CLUSTER = ("lose", "stepdown")  # with three brokers
SPREAD = ("host", "island")  # with three hosts
KINDS = ("kill", "pause", "freeze", "poison", *CUTS, "slow", "clock", *DISK, *CLUSTER, *SPREAD)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        number: from 1.
        kind: one of KINDS. "cut", "hold", "swallow" and "delay" are the link's to the broker (proxy.py); "slow"
            gives the broker a fifth of the time; "clock" sets the wall clock of the targets off by
            `value` seconds; "freeze" is a pause of LONG_PAUSE_S; "full" fills the disk of the broker's store and of
            all data directories, "drag" makes it slow (storage.py); "stepdown" has another broker of a cluster
            lead the records; "lose" lets a broker come back without its disk, "host" kills a host with
            everything on it, "island" cuts one off (nodes.py).
        targets: parts ("worker-1"), or "runner@worker-0", "container@worker-0" for what runs inside.
        moment: a key of MOMENTS, or "": at once.
        gap_s: pause before it, once the platform works again.
        down_s: how long until what was killed is started again, or how long anything else lasts.
        value: seconds of a delay, or by which a clock jumps.
    """

    number: int
    kind: str
    targets: tuple[str, ...]
    moment: str = ""
    gap_s: float = 0.0
    down_s: float = 0.0
    value: float = 0.0


def make_plan(
    seed: int,
    count: int,
    *,
    replicas: int = 2,
    brokers: int = 1,
    kinds: Sequence[str] = ("kill", "pause", "poison"),
) -> list[Fault]:
    """Return `count` faults; every pair of part and moment comes before one comes again."""
    chance = random.Random(f"plan {seed}")
    parts = [*PARTS, "broker", *INSIDE]
    pairs: list[tuple[str, str]] = []
    plan: list[Fault] = []
    for number in range(1, count + 1):
        if not pairs:
            pairs = [(part, moment) for part in parts for moment in MOMENTS]
            chance.shuffle(pairs)
        part, moment = pairs.pop()
        targets = [_one(chance, part, replicas, brokers)]
        kind, down, value = "kill", chance.uniform(*DOWN_S), 0.0
        others = [one for one in kinds if one not in ("kill", "pause", "poison")]
        roll = chance.random()
        if others and chance.random() < OTHERS:
            kind = chance.choice(others)
            down = chance.uniform(*LASTING_S.get(kind, (1.0, 5.0)))
            if kind == "clock":
                service = chance.choice([part for part in PARTS if part != "worker"])
                targets, value = [_one(chance, service, replicas, brokers)], chance.choice(CLOCKS_S)
            elif kind == "freeze":
                named = part if part not in INSIDE else "worker"
                targets, down = [_one(chance, named, replicas, brokers)], LONG_PAUSE_S
            elif kind == "lose":
                targets = [f"broker-{chance.randrange(brokers)}"]
            elif kind in SPREAD:
                targets = [f"host-{chance.randrange(brokers)}"]
            else:
                targets = ["broker-0"]
                value = round(chance.uniform(0.01, 0.3), 3)
        elif roll < PAUSES and "pause" in kinds and part not in INSIDE:
            kind = "pause"
            down = LONG_PAUSE_S if chance.random() < 0.1 else chance.uniform(*PAUSE_S)
        elif roll < PAUSES + POISONS and "poison" in kinds:
            kind, targets, moment = "poison", [], ""
        elif chance.random() < TOGETHER:
            other = _one(chance, chance.choice(parts), replicas, brokers)
            targets += [other] if other not in targets else []
        if chance.random() < AT_RANDOM:
            moment = ""
        plan.append(
            Fault(
                number=number,
                kind=kind,
                targets=tuple(targets),
                moment=moment,
                gap_s=round(chance.uniform(*GAP_S), 3),
                down_s=round(down, 3),
                value=value,
            )
        )
    return plan


def _one(chance: random.Random, part: str, replicas: int, brokers: int) -> str:
    if part in INSIDE:
        return f"{part}@worker-{chance.randrange(replicas)}"
    return f"{part}-{chance.randrange(brokers if part == 'broker' else replicas)}"


def read_plan(lines: Iterable[str]) -> list[Fault]:
    """Return the faults of a log, in their order."""
    found = []
    for line in lines:
        said = json.loads(line)
        if said.get("event") == "fault":
            found.append(msgspec.convert(said["fault"], Fault))
    return found
