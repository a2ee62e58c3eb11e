"""Batches of events of which some failed: only these stay in the record. Pure.

A batch's record starts with all its events and loses those that were done, attempt by attempt. So the
attempts of the record are the attempts of each event still in it, and what is a dead letter at last are
exactly the events that never worked. What the runner says about it is a stranger's word.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.cloudevents import arguments_of_many
from glowplug_contracts.messages.invocation import Input, Payload, RemoteError
from glowplug_contracts.messages.record import InvocationRecord

ITEMS_FAILED = "function.items_failed"


class _Arguments(msgspec.Struct):
    args: tuple[list[msgspec.Raw]]


def failed_items(record: InvocationRecord, error: RemoteError | None) -> tuple[int, ...]:
    """Return which events of a batch failed, () where that is not the question or not to be read."""
    if not record.events or error is None or error.code != ITEMS_FAILED:
        return ()
    named = error.details.get("failed_items")
    if not isinstance(named, list) or not 0 < len(named) <= record.events:
        return ()
    found = sorted({at for at in named if isinstance(at, int) and 0 <= at < record.events})
    return tuple(found) if len(found) == len(named) else ()


def keep_items(record: InvocationRecord, kept: tuple[int, ...]) -> InvocationRecord:
    """Return the record with only these events in its input."""
    args = record.input.args
    if args.data is None or len(kept) == record.events:
        return record
    (events,) = msgspec.json.decode(args.data, type=_Arguments).args
    data = arguments_of_many(bytes(events[at]) for at in kept)
    return msgspec.structs.replace(
        record,
        input=Input(
            index=record.input.index, args=Payload(format=args.format, data=data, size=len(data))
        ),
        events=len(kept),
    )
