"""An interactive invocation in a slot: links are appended, then the caller's gateway is answered.

The chain on OUTCOME is the truth; a reply is only its echo. Whoever comes second to a link takes what
is there, so a caller sees one outcome per input whatever ran twice. One exception saves a round trip: the only
attempt there ever was of a call, sent here by the gateway that waits for it, is answered while its link is being
stored, and the answer says so. No other outcome can exist; the gateway drops the answer if it has begun another
attempt meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from glowplug_contracts.errors import (
    ConflictError,
    OverloadedError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.messages.dispatch import AttemptRefused, RunInvocation
from glowplug_contracts.messages.invocation import (
    PLATFORM_RETRIES_MAX,
    AttemptLost,
    InputOutcome,
    InvocationRequested,
    Outcome,
    RemoteError,
    Reply,
    State,
    StreamFrame,
)
from glowplug_contracts.subjects import OUTCOME, REFUSED, REPLY, Address

from glowplug_worker.attempts import WINDOW_AHEAD, Attempt, trim_error
from glowplug_worker.chains import Chain
from glowplug_worker.frames import Credit, FrameError, Item
from glowplug_worker.inflight import InFlight, check_format

if TYPE_CHECKING:
    from glowplug_worker.supervisor import Supervisor

log = structlog.get_logger()

STREAM_AHEAD: Final = 64
# A result is given up when nobody can be waiting for it any more.
WRITE_TRIES_S: Final = 300.0
TRY_AGAIN_S: Final = 0.1


class InteractiveFlight(InFlight):
    """See the module."""

    def __init__(
        self, supervisor: Supervisor, run: RunInvocation, process: int, *, direct: bool = False
    ) -> None:
        request = run.request
        assert request is not None  # noqa: S101
        spec = supervisor.binding.spec
        super().__init__(
            supervisor,
            Attempt(
                request.invocation_id,
                request.inputs,
                attempt=request.attempt,
                timeout_s=spec.timeout_s,
                window=WINDOW_AHEAD if spec.concurrency == 1 and not request.stream else 1,
                retry=request.retry,
            ),
            process=process,
            shard=run.shard,
            workspace=request.workspace,
            trace=request.trace,
            stream=request.stream,
            method=request.method,
        )
        self.direct = direct
        self.request = request
        self._segments = supervisor.segments
        self._chain = Chain(each.index for each in request.inputs)
        self._until = STREAM_AHEAD

    def start(self) -> None:
        """Run it; a repeated attempt first looks what the earlier ones have finished."""
        if self.request.attempt == 1:
            self.begin()
        else:
            self.supervisor.workshop.spawn(self._start_again(), "read outcomes")

    async def _start_again(self) -> None:
        try:
            links = await self._read_chain()
        except UnavailableError:
            await self._hand_back("broker_away")
            self.forget()
            return
        except PlatformError as error:
            log.warning("chain.unreadable", invocation_id=self.invocation_id, error=str(error))
            await self._report_lost(None)
            await self.end()
            return
        for link in links:
            await self._answer(link)
        left = self._chain.unwritten(
            InputOutcome(index=each.index, state=State.SUCCEEDED) for each in self.request.inputs
        )
        indexes = {each.index for each in left}
        inputs = [each for each in self.request.inputs if each.index in indexes]
        self.inputs = len(inputs)
        self.attempt = Attempt(
            self.request.invocation_id,
            inputs,
            attempt=self.request.attempt,
            timeout_s=self.attempt.timeout_s,
            window=self.attempt.window,
            retry=self.attempt.retry,
        )
        if self.cancelled_at is not None:
            self.cancel()
        elif inputs:
            self.begin()
        else:
            await self.end()

    def adopt(self, request: InvocationRequested) -> None:
        """The gateway asked again for what runs here: answer that attempt."""
        if request.attempt >= self.request.attempt:
            self.request = msgspec.structs.replace(
                self.request, attempt=request.attempt, reply_to=request.reply_to
            )

    # -- streams --------------------------------------------------------------------------------

    def grant(self, until: int) -> None:
        """The gateway has room for items below `until`."""
        if self.stream and until > self._until:
            self._until = until
            index = self.request.inputs[0].index
            self.supervisor.send(
                self.process, Credit(id=self.request.invocation_id, index=index, until=until)
            )

    def on_item(self, item: Item, body: bytes) -> None:
        """Take the next item."""
        if not self.stream or not self.attempt.holds(item.index):
            raise FrameError(f"an item of {item.id[:64]!r}, which is no stream")
        if item.number != self._items_taken or item.number >= self._until:
            raise FrameError(f"item {item.number} where {self._items_taken} was allowed")
        check_format(item.format)
        self._items_taken += 1
        self.attempt.retry = None  # what a reader has seen can't be begun again behind its back
        self._items.append((item, body))
        self.supervisor.hold_bytes(len(body))
        self.wake()

    async def write_item(self, item: Item, body: bytes) -> None:
        """Send one frame."""
        payload = await self.store_payload(check_format(item.format), body)
        frame = StreamFrame(
            invocation_id=self.request.invocation_id,
            attempt=self.request.attempt,
            number=item.number,
            item=payload,
        )
        await self._reply(Reply(frame=frame))

    # -- outcomes -------------------------------------------------------------------------------

    async def write_outcomes(self, outcomes: tuple[InputOutcome, ...]) -> None:
        """Append the next link and answer with it."""
        if self._may_tell_first():
            await self._tell_first(self._link(outcomes))
            return
        while outcomes:
            link = self._link(outcomes)
            try:
                sequence = await self._append(link)
            except ConflictError:
                for other in await self._read_chain():
                    await self._answer(other)
                outcomes = self._chain.unwritten(outcomes)
            else:
                self._chain.wrote(sequence, link)
                await self._answer(link)
                return

    def _link(self, outcomes: tuple[InputOutcome, ...]) -> Outcome:
        return self._chain.compose(
            self.request,
            outcomes,
            container_id=self.supervisor.container_id,
            worker_id=self.supervisor.workshop.worker_id,
            frames=self._items_taken if self.stream else -1,
        )

    async def _append(self, link: Outcome) -> int:
        """Append a link, patiently. Raises: ConflictError; UnavailableError in the end."""
        workshop = self.supervisor.workshop
        give_up_at = workshop.clock.now() + WRITE_TRIES_S
        while workshop.clock.now() < give_up_at:
            try:
                return await workshop.bus.append(
                    self._address(), link, expect_last=self._chain.last_sequence
                )
            except (UnavailableError, OverloadedError):
                await asyncio.sleep(TRY_AGAIN_S)
        raise UnavailableError(
            "platform.unavailable", f"the outcome of {self.invocation_id} can't be stored"
        )

    def _may_tell_first(self) -> bool:
        """Tell whether this is surely the only attempt, so that what it ends in is the outcome."""
        request = self.request
        return (
            self.direct
            and request.first
            and request.attempt == 1
            and not self.stream
            and len(request.inputs) == 1
            and self.supervisor.workshop.outbox.has_room
        )

    async def _tell_first(self, link: Outcome) -> None:
        """Answer, with the slot already free, and store in the background."""
        self.supervisor.release(self)
        await self._reply(Reply(outcome=link, stored=False), room=self.supervisor)
        self.supervisor.workshop.outbox.put(functools.partial(self._store, link), _size(link))

    async def _store(self, link: Outcome) -> None:
        try:
            await self._append(link)
        except ConflictError:
            # Another attempt of it was begun after all, and its outcome is the one that counts: the gateway that
            # began it does not take ours.
            log.info("outcome.second", invocation_id=self.invocation_id)

    async def lose(self, error: RemoteError | None, *, alone: bool) -> None:
        """Tell the gateway, which tries again; blame the input only when its tries are used up."""
        if self._ended:
            return
        running = self.attempt.running
        if self.attempt.cancelled:
            for each in self.attempt.unfinished():
                self._end_cancelled(each.index)
        elif error is not None and alone and running is not None and self._blames(error):
            self.end_input(
                InputOutcome(index=running.index, state=State.FAILED, error=trim_error(error))
            )
            error = None
        async with self.writer:
            await self.write_due()
            while self.attempt.pending:
                await self.write_outcomes(self.attempt.take_pending())
            if self.attempt.done:
                await self.end()
            elif error is None and self.inputs > len(self.attempt.unfinished()) and not self.stream:
                await self._hand_back("container_ended")
                self.forget()
            else:
                await self._report_lost(error)
                await self.end()

    def _blames(self, error: RemoteError) -> bool:
        out_of_memory = error.code == "function.out_of_memory"
        return out_of_memory or self.request.attempt > PLATFORM_RETRIES_MAX

    def _end_cancelled(self, index: int) -> None:
        if self.attempt.holds(index):
            error = RemoteError(
                code="invocation.cancelled",
                type="CancelledError",
                message="the call was cancelled and its container ended",
            )
            self.end_input(InputOutcome(index=index, state=State.CANCELLED, error=error))

    async def _hand_back(self, reason: str) -> None:
        """Give what is left back to the shard: it costs no attempt."""
        left = self.attempt.unfinished()
        await self.supervisor.workshop.bus.send(
            REFUSED.at(shard=self.shard),
            AttemptRefused(
                container_id=self.supervisor.container_id,
                invocation_id=self.request.invocation_id,
                reason=reason,
                request=msgspec.structs.replace(self.request, inputs=left),
            ),
        )

    async def _report_lost(self, error: RemoteError | None) -> None:
        lost = AttemptLost(
            invocation_id=self.request.invocation_id,
            attempt=self.request.attempt,
            cause="container",
            error=None if error is None else trim_error(error),
        )
        self._state = State.RETRY_WAIT
        await self._reply(Reply(lost=lost))

    async def _read_chain(self) -> list[Outcome]:
        found = await self.supervisor.workshop.bus.all(self._address())
        return self._chain.read(
            [(each.sequence, each.message) for each in found if each.message is not None]
        )

    async def _answer(self, link: Outcome) -> None:
        await self._reply(Reply(outcome=link))

    async def _reply(self, reply: Reply, room: Supervisor | None = None) -> None:
        """Answer by the short way, unless what came before must not be overtaken: items, and output."""
        request, workshop = self.request, self.supervisor.workshop
        follows = self.stream or self.supervisor.segments != self._segments
        if not follows and await workshop.answers.answer(request.reply_to, reply, room):
            return
        await workshop.bus.send(
            REPLY.at(instance=request.reply_to, invocation_id=request.invocation_id), reply
        )

    def _address(self) -> Address[Outcome]:
        request = self.request
        return OUTCOME.at(
            shard=self.shard, workspace=request.workspace, invocation_id=request.invocation_id
        )


def _size(link: Outcome) -> int:
    """Return about how many bytes a link of one outcome keeps in memory."""
    result, error = link.outcomes[0].result, link.outcomes[0].error
    size = len(result.data or b"") if result is not None else 0
    return size + (len(error.traceback) + len(error.pickled or b"") if error is not None else 0)
