"""The shell around one shard's dispatcher: the bus becomes events, decisions become messages.

Journey step 3. Entered when the shard's lease is held; everything the machine must know it learns
from the streams and from the workers, who are asked to beat at once. There is no await between the
arrival of a call and its hand-off except the sending itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from glowplug_contracts.errors import PlatformError, TransientError
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.dispatch import (
    AttemptEnded,
    AttemptRefused,
    AttemptsBegan,
    BacklogChanged,
    CallsProbed,
    CancelInvocation,
    RunInvocation,
    ShardOwned,
)
from glowplug_contracts.messages.invocation import AttemptLost, InvocationRequested, Reply
from glowplug_contracts.subjects import (
    BACKLOG,
    BEGAN,
    CALL,
    CANCEL,
    ENDED,
    PROBE,
    REFUSED,
    REPLY,
    SHARD_OWNED,
    Address,
)
from glowplug_runtime.bus import Bus, Delivery
from glowplug_runtime.clock import Clock
from glowplug_runtime.tracing import record_span

from glowplug_scheduler.dispatch import (
    Ack,
    AnnounceBacklog,
    AnswerProbe,
    AskWorker,
    AuditRecords,
    Began,
    CancelAsked,
    Decision,
    DeploymentMoved,
    Dispatcher,
    Ended,
    Event,
    ForwardCancel,
    Hand,
    KeepFloor,
    PayloadGone,
    Probed,
    Refused,
    RequestArrived,
    ScanRecords,
    SendLost,
    ShardTaken,
    Tick,
    VerifyRecord,
    WriteRecord,
)
from glowplug_scheduler.hearing import Heard, Hearing, Spawn
from glowplug_scheduler.ports import Records, Workers
from glowplug_scheduler.record_reading import RecordReading

log = structlog.get_logger()

TICK_S = 0.05
WRITES_AT_ONCE = 64
BREATH_EVERY = 256
TAKE_AGAIN_S = 0.2


class ShardOwner:
    """One generation of one shard's ownership."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        hearing: Hearing,
        workers: Workers,
        records: Records,
        machine: Dispatcher,
        spawn: Spawn,
        instance: str,
    ) -> None:
        self.machine = machine
        self.shard = machine.state.shard
        self.generation = 0
        self._bus = bus
        self._clock = clock
        self._hearing = hearing
        self._workers = workers
        self._records = records
        self._spawn = spawn
        self._instance = instance
        self._acks: dict[int, Callable[[], Awaitable[None]]] = {}
        self._writes: deque[WriteRecord] = deque()
        self._to_write = asyncio.Event()
        self._reading = RecordReading(bus, clock, self.shard, spawn, self._step)
        self._backlog_at: dict[DeploymentId, Address[BacklogChanged]] = {}
        self._broken: Exception | None = None

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[None]:
        """Own the shard until the context is left."""
        self.generation = generation
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            await self._step(ShardTaken(generation))
            self._hearing.add(self)
            stack.callback(self._hearing.remove, self)
            await self._hearing.add_dispatcher(self)
            stack.callback(self._hearing.remove_dispatcher, self)
            # In the background: the lease is renewed only once this context is entered.
            loops = [
                tasks.create_task(self._take_over(stack), name="take over"),
                tasks.create_task(self._keep_time(), name="keep time"),
                tasks.create_task(self._keep_writing(), name="keep writing"),
            ]
            yield
            for loop in loops:
                loop.cancel()

    async def _take_over(self, stack: AsyncExitStack) -> None:
        """Listen, have the workers tell what they hold, read what waits; tried until it works."""
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    await self._listen(attempt)
                except TransientError as error:
                    log.warning("takeover.failed", shard=self.shard, error=str(error))
                    await asyncio.sleep(TAKE_AGAIN_S)
                    continue
                stack.push_async_exit(attempt.pop_all())
                log.info("shard.taken", shard=self.shard, generation=self.generation)
                return

    async def _listen(self, stack: AsyncExitStack) -> None:
        bus, shard = self._bus, self.shard
        for subscription in (
            await bus.listen(BEGAN.pattern(shard=shard), self.on_attempts_began),
            await bus.listen(ENDED.pattern(shard=shard), self.on_attempt_ended),
            await bus.listen(REFUSED.pattern(shard=shard), self.on_attempt_refused),
            await bus.listen(CANCEL.pattern(shard=shard), self.on_cancel_invocation),
            await bus.listen(PROBE.pattern(shard=shard), self.on_calls_probed),
        ):
            stack.push_async_callback(subscription.close)
        owned = ShardOwned(shard=shard, generation=self.generation, instance=self._instance)
        await bus.send(SHARD_OWNED.at(shard=shard), owned)
        await self._reading.begin()
        stack.push_async_callback(self._reading.close)
        taking = await bus.take_work(
            CALL.pattern(shard=shard), self.on_invocation_requested, generation=self.generation
        )
        stack.push_async_callback(taking.close)

    # -- Hearing --------------------------------------------------------------------------------

    async def on_invocation_requested(self, delivery: Delivery[InvocationRequested]) -> None:
        """A gateway accepted an interactive call."""
        request = delivery.message
        if delivery.ack is not None:
            self._acks[delivery.sequence] = delivery.ack
        if request is None:
            await self._ack(delivery.sequence)
            return
        await self._step(RequestArrived(request, delivery.sequence, delivery.size))

    async def on_attempts_began(self, delivery: Delivery[AttemptsBegan]) -> None:
        """A worker took calls that did not come this way."""
        if delivery.message is not None:
            await self._step(Began(delivery.message))

    async def on_attempt_ended(self, delivery: Delivery[AttemptEnded]) -> None:
        """A worker has free slots again."""
        if delivery.message is not None:
            await self._step(Ended(delivery.message))

    async def on_attempt_refused(self, delivery: Delivery[AttemptRefused]) -> None:
        """A worker gives work back."""
        if delivery.message is not None:
            await self._step(Refused(delivery.message, delivery.size))

    async def on_cancel_invocation(self, delivery: Delivery[CancelInvocation]) -> None:
        """A gateway's caller went away."""
        if delivery.message is not None:
            await self._step(CancelAsked(delivery.message.invocation_id))

    async def on_calls_probed(self, delivery: Delivery[CallsProbed]) -> None:
        """A gateway wants to know what became of its calls."""
        if delivery.message is None or delivery.answer is None:
            return
        for decision in self._decide(Probed(0, delivery.message.invocation_ids)):
            if isinstance(decision, AnswerProbe):
                await delivery.answer(decision.known)

    async def hear(self, event: Heard) -> None:
        """Workers and containers, from the process's ears."""
        await self._step(event)

    async def hear_deployment(self, event: DeploymentMoved) -> None:
        """A deployment was deleted, or serves again."""
        await self._step(event)

    # -- Doing ----------------------------------------------------------------------------------

    def _decide(self, event: Event) -> Sequence[Decision]:
        if self._broken is not None:
            return ()
        try:
            return self.machine.step(event, self._clock.now())
        except Exception as error:
            # Our bug, and the state can't be trusted any more: the process ends and starts afresh.
            log.exception("dispatcher.broken", shard=self.shard, dispatch_event=repr(event)[:500])
            self._broken = error
            return ()

    async def _step(self, event: Event) -> None:
        for done, decision in enumerate(self._decide(event), 1):
            try:
                await self._perform(decision)
            except PlatformError as error:
                # What did not reach anybody is noticed by beats, probes and repeats.
                log.warning("decision.failed", decision=type(decision).__name__, error=str(error))
            if done % BREATH_EVERY == 0:
                await asyncio.sleep(0)

    async def _perform(self, decision: Decision) -> None:
        match decision:
            case Hand():
                await self._hand(decision)
            case AnnounceBacklog(backlog):
                at = self._backlog_at.get(backlog.deployment_id)
                if at is None:
                    at = BACKLOG.at(deployment_id=backlog.deployment_id)
                    self._backlog_at[backlog.deployment_id] = at
                await self._bus.send(at, backlog)
            case Ack(sequence):
                await self._ack(sequence)
            case _:
                await self._perform_rare(decision)

    async def _perform_rare(self, decision: Decision) -> None:
        match decision:
            case SendLost():
                await self._send_lost(decision)
            case ForwardCancel(worker_id, container_id, invocation_id):
                await self._workers.cancel(worker_id, container_id, invocation_id)
            case WriteRecord():
                self._writes.append(decision)
                self._to_write.set()
            case AskWorker(worker_id):
                self._hearing.ask(worker_id)
            case ScanRecords() | AuditRecords() | VerifyRecord() | KeepFloor():
                self._reading.do(decision)

    async def _hand(self, hand: Hand) -> None:
        if hand.durable:
            await self._send_run(hand, None)
        elif hand.request is not None:
            await self._send_run(hand, hand.request)
            await self._ack(hand.sequence)
        else:
            self._spawn(self._hand_stored(hand), "hand stored call")

    async def _hand_stored(self, hand: Hand) -> None:
        """The cache was full: read the call again. Another under its sequence is none of ours."""
        found = await self._bus.read(CALL, hand.sequence, shard=self.shard)
        request = None if found is None else found.message
        if request is None or request.invocation_id != hand.invocation_id:
            await self._step(PayloadGone(hand.invocation_id, hand.sequence))
            return
        await self._send_run(hand, request)
        await self._ack(hand.sequence)

    async def _send_run(self, hand: Hand, request: InvocationRequested | None) -> None:
        await self._workers.hand(
            hand.worker_id,
            RunInvocation(
                shard=self.shard,
                generation=self.generation,
                container_id=hand.container_id,
                deployment_id=hand.deployment_id,
                request=request,
                record=hand.invocation_id if hand.durable else None,
                record_sequence=hand.sequence if hand.durable else 0,
                workspace=hand.workspace,
            ),
        )
        if hand.trace:
            unix = self._clock.unix()
            first = hand.attempt <= (0 if hand.durable else 1) and 0 < hand.accepted_at < unix
            record_span(
                "queue",
                hand.trace,
                hand.accepted_at if first else unix - hand.waited_s,
                unix,
                invocation_id=hand.invocation_id,
                container_id=hand.container_id,
                attempt=hand.attempt,
            )

    async def _ack(self, sequence: int) -> None:
        ack = self._acks.pop(sequence, None)
        if ack is not None:
            await ack()

    async def _send_lost(self, lost: SendLost) -> None:
        message = AttemptLost(
            invocation_id=lost.invocation_id,
            attempt=lost.attempt,
            cause=lost.cause,
            error=lost.error,
        )
        log.info(
            "attempt.lost",
            invocation_id=lost.invocation_id,
            attempt=lost.attempt,
            cause=lost.cause,
        )
        at = REPLY.at(instance=lost.reply_to, invocation_id=lost.invocation_id)
        await self._bus.send(at, Reply(lost=message))

    # -- Loops ----------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while self._broken is None:
            await asyncio.sleep(TICK_S)
            if self.machine.needs_tick(self._clock.now()):
                await self._step(Tick())
        raise self._broken

    async def _keep_writing(self) -> None:
        """Change records, some at a time. What fails is asked for again by the machine."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._writes:
                some = [
                    self._writes.popleft() for _ in range(min(WRITES_AT_ONCE, len(self._writes)))
                ]
                async with asyncio.TaskGroup() as writes:
                    for write in some:
                        writes.create_task(self._write(write), name="write record")

    async def _write(self, write: WriteRecord) -> None:
        try:
            await self._records.change(self.shard, write)
        except PlatformError as error:
            log.warning("record.unchanged", invocation_id=write.invocation_id, error=str(error))
