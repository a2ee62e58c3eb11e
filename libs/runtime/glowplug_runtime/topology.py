"""Make the broker match the declared streams and buckets: create what lacks, update what may change.

Runs in the scheduler service only, under a lease where there are replicas; it is idempotent, and runs
again after every reconnect because a restarted broker has forgotten its memory streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import structlog
from glowplug_contracts.errors import ConflictError, ContractError
from glowplug_contracts.messages.worker import Platform
from glowplug_contracts.streams import BUCKETS, CONTRACT_VERSION, PLATFORM, STREAMS, Bucket, Stream

from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.follower import NS

log = structlog.get_logger()

PLATFORM_KEY = "platform"
MADE_AT_ONCE = 8
NO_AGES: Final[Mapping[str, float]] = MappingProxyType({})
# What the broker lets change on a living stream; anything else that differs is an error to be seen.
MUTABLE = (
    "subjects",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "discard",
    "metadata",
    "allow_atomic",
)


# "synced": what is accepted is on disk before the answer. "memory": nothing outlives the broker.
Durability = Literal["synced", "memory"]
# A stream that is kept in memory only may take so much of it; on disk its own bound counts.
MEMORY_STREAM_BYTES = 512 * 1024 * 1024


def stream_config(
    stream: Stream, shard: int, replicas: int, durability: Durability = "synced", shards: int = 1
) -> dict[str, Any]:
    """Return the broker's configuration of one stream (of one shard).

    Shards share what the broker has of memory: it refuses streams whose bounds together exceed that.
    """
    storage = "memory" if durability == "memory" else stream.storage
    config: dict[str, Any] = {
        "name": stream.name.format(shard=shard),
        "subjects": [subject.format(shard=shard) for subject in stream.subjects],
        "retention": "workqueue" if stream.work else "limits",
        "storage": storage,
        "num_replicas": replicas if stream.synced else 1,
        "max_msgs_per_subject": stream.per_subject or -1,
        "max_age": int(stream.max_age_s * NS),
        "max_bytes": stream.max_bytes or -1,
        "max_msgs": stream.max_msgs or -1,
        "max_msg_size": stream.message_bytes_max or -1,
        "discard": "new" if stream.refuse_when_full else "old",
        "allow_direct": True,
        "duplicate_window": int(min(120.0, stream.max_age_s or 120.0) * NS),
        "metadata": {"glowplug-contract": str(CONTRACT_VERSION)},
    }
    if durability == "memory":
        bound = stream.max_bytes or MEMORY_STREAM_BYTES
        config["max_bytes"] = min(bound, MEMORY_STREAM_BYTES)
    if storage == "memory" and stream.sharded and config["max_bytes"] > 0:
        config["max_bytes"] //= shards
    if stream.ttl:
        config["allow_msg_ttl"] = True
    if stream.timers:
        config["allow_msg_schedules"] = True
    if stream.batches:
        config["allow_atomic"] = True
    if not stream.synced and storage == "file":
        config["persist_mode"] = "async"
    return config


def bucket_config(
    bucket: Bucket[Any], replicas: int, durability: Durability = "synced"
) -> dict[str, Any]:
    """Return the broker's configuration of one bucket's stream."""
    return {
        "name": f"KV_{bucket.name}",
        "subjects": [f"$KV.{bucket.name}.>"],
        "retention": "limits",
        "storage": "memory" if durability == "memory" else bucket.storage,
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_age": int(bucket.ttl_s * NS),
        "duplicate_window": int(min(120.0, bucket.ttl_s or 120.0) * NS),
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "metadata": {"glowplug-contract": str(CONTRACT_VERSION)},
    }


async def ensure_topology(
    bus: NatsBus,
    *,
    shards: int,
    replicas: int = 1,
    durability: Durability = "synced",
    ages: Mapping[str, float] = NO_AGES,
) -> None:
    """Make streams and buckets be as declared, then say so under the key `platform`.

    `ages`: seconds that streams keep messages, by name, where it is not as declared.

    Raises: ContractError if a newer platform, or another number of shards, is written there.
    """
    have = await _existing(bus)
    changes = [
        change
        for config in _wanted(shards, replicas, durability, ages)
        if (change := _change(have.get(config["name"]), config)) is not None
    ]
    for start in range(0, len(changes), MADE_AT_ONCE):  # each waits for the disk some times
        await asyncio.gather(*(_make(bus, *one) for one in changes[start : start + MADE_AT_ONCE]))
    await _say_so(bus, shards)


def _change(
    old: dict[str, Any] | None, config: dict[str, Any]
) -> tuple[str, str, dict[str, Any]] | None:
    """Return what is to be done: a verb, the event that tells of it, and the configuration."""
    if old is None:
        return "CREATE", "topology.created", config
    if any(old.get(k) != config[k] for k in MUTABLE if k in config and k != "metadata"):
        return "UPDATE", "topology.updated", old | config
    return None


async def _make(bus: NatsBus, verb: str, done: str, config: dict[str, Any]) -> None:
    await bus.api(f"STREAM.{verb}.{config['name']}", config)
    log.info(done, stream=config["name"])


def _wanted(
    shards: int, replicas: int, durability: Durability, ages: Mapping[str, float]
) -> list[dict[str, Any]]:
    declared = [
        msgspec.structs.replace(stream, max_age_s=ages.get(stream.name, stream.max_age_s))
        for stream in STREAMS
    ]
    streams = [
        stream_config(stream, shard, replicas, durability, shards)
        for stream in declared
        for shard in range(shards if stream.sharded else 1)
    ]
    return streams + [bucket_config(bucket, replicas, durability) for bucket in BUCKETS]


async def _existing(bus: NatsBus) -> dict[str, dict[str, Any]]:
    have: dict[str, dict[str, Any]] = {}
    while True:
        page = await bus.api("STREAM.LIST", {"offset": len(have)})
        for stream in page.get("streams") or ():
            have[stream["config"]["name"]] = stream["config"]
        if len(have) >= page["total"] or not page.get("streams"):
            return have


async def _say_so(bus: NatsBus, shards: int) -> None:
    bucket = bus.bucket(PLATFORM)
    mine = Platform(contract_version=CONTRACT_VERSION, shards=shards)
    found = await bucket.get(PLATFORM_KEY)
    if found is None:
        try:
            await bucket.create(PLATFORM_KEY, mine)
        except ConflictError:
            found = await bucket.get(PLATFORM_KEY)
    if found is not None and found.value is not None:
        check_platform(found.value, shards)


def check_platform(platform: Platform, shards: int) -> None:
    """Refuse a platform that a newer version, or another number of shards, has made."""
    if platform.contract_version > CONTRACT_VERSION:
        raise ContractError(
            "platform.contract",
            f"the broker's contract is version {platform.contract_version}, this service speaks "
            f"{CONTRACT_VERSION}: upgrade it",
        )
    if shards and platform.shards != shards:
        raise ContractError(
            "platform.contract",
            f"the platform has {platform.shards} shards, this service is set to {shards}",
        )
