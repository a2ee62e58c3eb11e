"""How a call reaches a slot: one port, two ways behind it.

The shard's stream is the way that always works: its dispatcher orders, queues and scales. The direct way skips it
where a linked worker has told of room and nothing waits in the deployment's queue, so nobody is overtaken.
"""

from __future__ import annotations

from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.dispatch import CancelInvocation
from glowplug_contracts.messages.invocation import InvocationRequested
from glowplug_contracts.subjects import CALL, CANCEL, shard_of
from glowplug_runtime.bus import Bus

from glowplug_gateway.links import Links

APPEND_TIMEOUT_S = 10.0


class Dispatch:
    """See the module."""

    def __init__(self, bus: Bus, links: Links, shards: int) -> None:
        self._bus = bus
        self._links = links
        self._shards = shards

    async def send(self, request: InvocationRequested, *, warm: bool) -> None:
        """Have the call run. `warm`: straight to a warm slot, where there is one.

        Raises: PlatformError; whether the request was stored is unknown then, except OverloadedError: it was not.
        """
        shard = shard_of(request.workspace, self._shards)
        if warm and fits_a_link(request) and await self._links.send(request, shard):
            return
        to = CALL.at(shard=shard, workspace=request.workspace, invocation_id=request.invocation_id)
        await self._bus.append(to, request, timeout_s=APPEND_TIMEOUT_S)

    async def cancel(self, invocation_id: InvocationId, shard: int) -> None:
        """Have the call stopped, wherever it is."""
        if not await self._links.cancel(invocation_id):
            message = CancelInvocation(invocation_id=invocation_id)
            await self._bus.send(CANCEL.at(shard=shard), message)

    def ended(self, invocation_id: InvocationId) -> None:
        """The call was answered over the broker, whichever way it went out."""
        self._links.forget(invocation_id)


def fits_a_link(request: InvocationRequested) -> bool:
    """Return whether a call may skip the stream: alone, first, and of no special rank.

    Batches of a map are spread over containers by the dispatcher, and what was lost once is reconciled there.
    """
    return request.attempt == 1 and request.priority == 0 and len(request.inputs) == 1
