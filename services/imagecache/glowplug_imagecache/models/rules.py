"""What becomes of a model's record: a pull is asked for, taken, told of, ends well or not. Pure.

The record is written by compare-and-set, by gateways and by the imagecache that has the pull. So each change says
here what it needs to be true, and does nothing where it is not: somebody asked for something else meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.model import ModelPull, ModelRecord, ModelVersion, PullState
from glowplug_contracts.weights import VERSIONS_MAX


def choose(
    records: Iterable[ModelRecord], alive: Collection[str], own: str, running: Collection[str]
) -> list[ModelRecord]:
    """Return the records whose pulls nobody does, the longest asked for first.

    Args:
        alive: instances that live.
        own: the one that asks.
        running: pulls that it does.
    """
    free = [
        record
        for record in records
        if record.pull is not None
        and record.pull.state is not PullState.FAILED
        and record.pull.pull_id not in running
        and (record.pull.owner not in alive or record.pull.owner == own)
    ]
    return sorted(free, key=lambda record: (_asked_at(record), record.workspace, record.name))


def is_pulling(record: ModelRecord | None, pull_id: str, owner: str) -> bool:
    """Return whether a pull is still wanted, and still done by `owner`."""
    pull = record.pull if record is not None else None
    return (
        pull is not None
        and pull.pull_id == pull_id
        and pull.owner == owner
        and pull.state is PullState.PULLING
    )


def take(record: ModelRecord, owner: str) -> ModelRecord:
    """Return the record whose pull `owner` does from now on."""
    return _with(record, state=PullState.PULLING, owner=owner)


def tell(record: ModelRecord, text: str, bytes_done: int, bytes_total: int) -> ModelRecord:
    """Return the record that says how far its pull is."""
    return _with(record, text=text, bytes_done=bytes_done, bytes_total=bytes_total)


def finish(record: ModelRecord, version: ModelVersion) -> ModelRecord:
    """Return the record with the version that was pulled, which is the latest now."""
    others = [one for one in record.versions if one.tree != version.tree]
    return msgspec.structs.replace(record, versions=(version, *others)[:VERSIONS_MAX], pull=None)


def fail(record: ModelRecord, error: RemoteError) -> ModelRecord:
    """Return the record whose pull has failed; what it had before stays."""
    return _with(record, state=PullState.FAILED, error=error, text="")


def _with(record: ModelRecord, **changes: object) -> ModelRecord:
    assert record.pull is not None, record.name  # noqa: S101 - whoever asks looked
    return msgspec.structs.replace(record, pull=msgspec.structs.replace(record.pull, **changes))


def _asked_at(record: ModelRecord) -> float:
    return record.pull.asked_at if isinstance(record.pull, ModelPull) else 0.0
