"""The results that an invocation gets of those it waited for, read when it starts.

They stand in the others' records, which are kept while anybody may wait for them. They are never decoded
here: their bytes go to the runner as they are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from glowplug_contracts.errors import NotFoundError
from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.invocation import Payload, State, is_terminal
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.subjects import RECORD

if TYPE_CHECKING:
    from glowplug_worker.workshop import Workshop

PASSED_BYTES_MAX: Final = 64 * 1024 * 1024
AT_ONCE: Final = 32


class PredecessorGoneError(Exception):
    """A result that is needed can't be had any more; the message says which."""


async def gather(
    workshop: Workshop, record: InvocationRecord, shard: int
) -> list[tuple[str, bytes]]:
    """Return what a record is to get: (format, bytes) for each of those it waited for, in order.

    Raises: PredecessorGoneError; UnavailableError.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def read(member: InvocationId) -> InvocationRecord:
        async with room:
            at = RECORD.at(shard=shard, workspace=record.workspace, invocation_id=member)
            found = await workshop.bus.last(at)
        if found is None or found.message is None:
            raise PredecessorGoneError(f"the record of {member} is not kept any more")
        return found.message

    members = await asyncio.gather(*(read(member) for member in record.after))
    if record.pass_as == "error":  # noqa: S105 - a way of passing, no password
        return [("json", failure_of(members))]
    passed: list[tuple[str, bytes]] = []
    left = PASSED_BYTES_MAX
    for member in members:
        result = member.outcome.result if member.outcome is not None else None
        if result is None:
            passed.append(("json", b"null"))  # it did not succeed, and that was allowed
            continue
        left -= result.size
        if left < 0:
            raise PredecessorGoneError(f"the results together exceed {PASSED_BYTES_MAX} bytes")
        passed.append((result.format.value, await _bytes(workshop, member, result)))
    return passed


async def _bytes(workshop: Workshop, member: InvocationRecord, result: Payload) -> bytes:
    if result.blob is None:
        return result.data or b""
    try:
        return await workshop.blobs.get(result.blob, member.workspace)
    except NotFoundError as err:
        raise PredecessorGoneError(
            f"the result of {member.invocation_id} is not kept any more"
        ) from err


def failure_of(members: list[InvocationRecord]) -> bytes:
    """Return what is known of the first that ended without success, as JSON."""
    for one in members:
        if is_terminal(one.state) and one.state is not State.SUCCEEDED:
            error = one.outcome.error if one.outcome is not None else None
            return msgspec.json.encode(
                {
                    "task_id": one.invocation_id,
                    "state": one.state,
                    "type": error.type if error else "",
                    "message": error.message if error else "",
                    "traceback": error.traceback if error else "",
                }
            )
    return b"null"
