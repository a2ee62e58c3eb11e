"""The shell around sessions: answers creations and commands, and hears what becomes of containers.

Any replica answers for any session. A creation is answered once the session runs or has failed; it
waits in a task of its own, so that the next message is heard meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import structlog
from glowplug_contracts.errors import (
    InvalidRequestError,
    NotFoundError,
    PlatformError,
    UnavailableError,
)
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.container import (
    ContainerChanged,
    ContainerKind,
    ContainerState,
    ExecInContainer,
    PlacementDecided,
)
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.sandbox import (
    CreateSandbox,
    SandboxCommand,
    SandboxRecord,
    SandboxReply,
    SandboxState,
)
from glowplug_contracts.streams import SANDBOXES, WANTED
from glowplug_contracts.subjects import CONTAINER, PLACEMENT, SANDBOX_COMMAND, SANDBOX_CREATE
from glowplug_runtime import tracing
from glowplug_runtime.bus import Delivery, Entry
from glowplug_runtime.lease import Lease
from glowplug_runtime.service import Shell, spawn

from glowplug_sandbox.ports import Workers
from glowplug_sandbox.session import (
    ContainerEnded,
    ContainerReady,
    Event,
    StartTimedOut,
    Terminate,
    Used,
    is_live,
    open_session,
)
from glowplug_sandbox.sessions import Sessions, key_of
from glowplug_sandbox.settings import SandboxSettings
from glowplug_sandbox.starting import Starting
from glowplug_sandbox.tend import LEASE, Tending
from glowplug_sandbox.workers import BusWorkers

log = structlog.get_logger()

QUEUE = "sandbox"
NO_DEPLOYMENT = "-"


@asynccontextmanager
async def open_service(shell: Shell[SandboxSettings]) -> AsyncIterator[None]:
    """Serve sessions, and contend for the lease of the one who tends them."""
    bus = shell.bus
    sessions = Sessions(bus.bucket(SANDBOXES), bus.bucket(WANTED), shell.clock)
    service = SandboxService(shell, sessions, BusWorkers(bus))

    @asynccontextmanager
    async def tend(_lease: Lease) -> AsyncIterator[None]:
        async with Tending(bus, shell.clock, sessions, shell.settings.start_s).open():
            yield

    shell.hold(LEASE, tend)
    async with service.open():
        yield


class SandboxService:
    """Routes and what answers them."""

    def __init__(self, shell: Shell[SandboxSettings], sessions: Sessions, workers: Workers) -> None:
        self._shell = shell
        self._sessions = sessions
        self._workers = workers
        self._starting = Starting(shell.settings.creates_max)
        self._keys: dict[ContainerId, str] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear the bus until the context is left; then let those who wait go."""
        bus = self._shell.bus
        async with AsyncExitStack() as stack:
            ours = CONTAINER.pattern(deployment_id=NO_DEPLOYMENT)
            for subscription in (
                await bus.bucket(SANDBOXES).watch(self.on_session_entry),
                await bus.follow(ours, self.on_container_changed, start="new"),
                await bus.follow(PLACEMENT.pattern(), self.on_placement_decided, start="new"),
                await bus.listen(SANDBOX_CREATE.pattern(), self.on_create_sandbox, queue=QUEUE),
                await bus.listen(SANDBOX_COMMAND.pattern(), self.on_sandbox_command, queue=QUEUE),
            ):
                stack.push_async_callback(subscription.close)
            stack.callback(self._starting.close)
            await bus.flush()  # ready means that the broker knows where to send
            yield

    # -- Heard ----------------------------------------------------------------------------------

    async def on_create_sandbox(self, delivery: Delivery[CreateSandbox]) -> None:
        """A gateway wants a session."""
        if delivery.message is not None:
            spawn(self._shell, _answer(delivery, self.create(delivery.message)), "create sandbox")

    async def on_sandbox_command(self, delivery: Delivery[SandboxCommand]) -> None:
        """A gateway passes on what a user wants of a session."""
        if delivery.message is not None:
            spawn(self._shell, _answer(delivery, self.obey(delivery.message)), "sandbox command")

    async def on_container_changed(self, delivery: Delivery[ContainerChanged]) -> None:
        """A sandbox's or build's container reached a state."""
        change = delivery.message
        if change is None or change.kind is not ContainerKind.SANDBOX:
            return
        key, event = self._keys.get(change.container_id), _event_of(change)
        if key is not None and event is not None:
            with contextlib.suppress(NotFoundError):
                await self._sessions.change(key, event)

    async def on_placement_decided(self, delivery: Delivery[PlacementDecided]) -> None:
        """Placement placed or parked something; only what belongs to no deployment is ours."""
        decided = delivery.message
        if decided is not None and decided.deployment_id in {"", NO_DEPLOYMENT}:
            self._starting.note_placement(decided)

    async def on_session_entry(self, entry: Entry[SandboxRecord]) -> None:
        """A session's record changed, by whichever replica."""
        record = entry.value
        if record is not None and is_live(record):
            self._keys[record.container_id] = entry.key
        elif record is not None:
            self._keys.pop(record.container_id, None)
        self._starting.note_change(entry.key)

    # -- Done -----------------------------------------------------------------------------------

    async def create(self, ask: CreateSandbox) -> SandboxRecord:
        """Return the session once it runs or has failed. The same id again joins the first try."""
        key = key_of(ask.workspace, ask.sandbox_id)
        clock = self._shell.clock
        with (
            self._starting.expect(key) as changed,
            tracing.span("sandbox.create", ask.trace, sandbox_id=ask.sandbox_id) as span,
        ):
            record = open_session(ask, ContainerId(clock.id("container")), clock.unix())
            # Its container's spans belong below this one.
            record = msgspec.structs.replace(record, trace=span.traceparent)
            # Known before it is wanted: its first events may be heard before the record is.
            self._keys[record.container_id] = key
            ours, record = record, await self._sessions.create(record)
            if record.container_id != ours.container_id:
                del self._keys[ours.container_id]  # an earlier try of the same id was first
            try:
                async with asyncio.timeout(self._shell.settings.start_s):
                    return await self._started(key, changed)
            except TimeoutError:
                reasons = self._starting.parked(record.container_id)
                event = StartTimedOut(self._shell.settings.start_s, reasons)
                return await self._sessions.change(key, event)

    async def obey(self, command: SandboxCommand) -> SandboxRecord:
        """Do what a command says; return the session after it."""
        key = key_of(command.workspace, command.sandbox_id)
        match command.verb:
            case "status":
                return await self._sessions.get(key)
            case "terminate":
                return await self._sessions.change(key, Terminate("asked"))
            case "exec":
                return await self._exec(key, command)
            case _:
                raise InvalidRequestError(
                    "request.invalid", f"{command.verb!r} is nothing that a sandbox can do"
                )

    async def _started(self, key: str, changed: asyncio.Event) -> SandboxRecord:
        while True:
            changed.clear()
            record = await self._sessions.get(key)
            if record.state is not SandboxState.STARTING:
                return record
            self._starting.check_open()
            await changed.wait()

    async def _exec(self, key: str, command: SandboxCommand) -> SandboxRecord:
        record = await self._sessions.get(key)
        if record.state is SandboxState.STARTING:
            raise UnavailableError(
                "platform.unavailable", "the sandbox is still starting", retry_after_s=0.5
            )
        if not is_live(record):
            raise NotFoundError(
                "sandbox.not_found",
                f"sandbox {record.sandbox_id} has ended ({record.reason})",
                details={"state": record.state.value, "reason": record.reason},
            )
        # Using it and noting the use go side by side: the note must not delay the user.
        after, _ = await asyncio.gather(
            self._sessions.change(key, Used()), self._hand_over(record, command)
        )
        return after

    async def _hand_over(self, record: SandboxRecord, command: SandboxCommand) -> None:
        reply = await self._workers.run(
            record.worker_id,
            ExecInContainer(
                container_id=record.container_id,
                exec_id=command.exec_id,
                reply_to=command.reply_to,
                mode=command.mode,
                code=command.code,
                context=command.context,
                argv=command.argv,
                env=command.env,
                cwd=command.cwd,
                timeout_s=command.timeout_s,
            ),
        )
        if not reply.accepted:
            raise UnavailableError(
                "worker.refused", f"the sandbox's worker refused: {reply.reason}", retry_after_s=1
            )


def _event_of(change: ContainerChanged) -> Event | None:
    """Return what a container's change means for its session; None where nothing."""
    match change.state:
        case ContainerState.READY:
            return ContainerReady(change.worker_id)
        case ContainerState.FAILED:
            return ContainerEnded(failed=True, reason=change.reason, error=change.error)
        case ContainerState.STOPPED:
            return ContainerEnded(failed=False, reason=change.reason, error=change.error)
        case _:
            return None


async def _answer(delivery: Delivery[Any], work: Awaitable[SandboxRecord]) -> None:
    """Answer a request with the session, or with why not."""
    try:
        record = await work
        reply = SandboxReply(record=record, error=record.error)
    except PlatformError as error:
        reply = SandboxReply(
            error=RemoteError(
                code=error.code,
                type=type(error).__name__,
                message=str(error),
                details=error.details,
            )
        )
    if delivery.answer is not None:
        await delivery.answer(reply)
