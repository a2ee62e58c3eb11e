"""Sandbox sessions as the gateway drives them: commands to the sandbox service, output to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from glowplug_contracts.errors import NotFoundError, UnavailableError
from glowplug_contracts.ids import ImageDigest, SandboxId, WorkspaceId, check_id
from glowplug_contracts.messages.container import ExecEvent
from glowplug_contracts.messages.deployment import SecretRef
from glowplug_contracts.messages.image import BuildProgress
from glowplug_contracts.messages.sandbox import (
    CreateSandbox,
    SandboxCommand,
    SandboxRecord,
    SandboxReply,
    SandboxSpec,
    SandboxState,
)
from glowplug_contracts.streams import SANDBOXES
from glowplug_contracts.subjects import EXEC_REPLY, SANDBOX_COMMAND, SANDBOX_CREATE
from glowplug_runtime.bus import Delivery

from glowplug_gateway.blobs import Blobs
from glowplug_gateway.images import ImageReady, Images
from glowplug_gateway.ports import Platform
from glowplug_gateway.work import platform_error

CREATE_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 15.0
SILENCE_S = 5.0
EVENTS_WAITING_MAX = 10_000
LIVE = (SandboxState.STARTING, SandboxState.RUNNING)


class ExecAsked(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants run in a sandbox (the body of the exec route)."""

    mode: str = "code"
    code: str = ""
    argv: tuple[str, ...] = ()
    context: str = "default"
    cwd: str = ""
    env: dict[str, str] = {}
    timeout_s: float = 0.0


class Sandboxes:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        images: Images,
        blobs: Blobs,
        prepare: Callable[[WorkspaceId, SandboxSpec], Awaitable[None]],
    ) -> None:
        self._platform = platform
        self._images = images
        self._blobs = blobs
        self._prepare = prepare

    async def create(
        self, workspace: WorkspaceId, spec: SandboxSpec, trace: str
    ) -> AsyncIterator[BuildProgress | SandboxRecord]:
        """Yield what happens to the image, and at last the running session. Raises: PlatformError."""
        await self._prepare(workspace, spec)
        await self._blobs.of(workspace).keep_all(spec.image.blobs())
        image = ImageReady()
        async for one in self._images.ensure(spec.image, workspace):
            if isinstance(one, ImageReady):
                image = one
            else:
                yield one
        request = CreateSandbox(
            sandbox_id=SandboxId(self._platform.clock.id("sandbox")),
            workspace=workspace,
            spec=spec,
            image_digest=ImageDigest(image.image_digest),
            base_python=image.base_python,
            trace=trace,
        )
        reply = await self._platform.bus.request(
            SANDBOX_CREATE.at(), request, SandboxReply, timeout_s=CREATE_TIMEOUT_S
        )
        yield _record(reply)

    async def list(self, workspace: WorkspaceId) -> list[SandboxRecord]:
        """Return the workspace's sessions, oldest first."""
        entries = await self._platform.bus.bucket(SANDBOXES).entries(workspace)
        found = [entry.value for entry in entries if entry.value is not None]
        return sorted(found, key=lambda one: (one.created_at, one.sandbox_id))

    async def secrets_of(self, workspace: WorkspaceId, container_id: str) -> tuple[SecretRef, ...]:
        """Return which secrets the session in a container names. Raises: NotFoundError."""
        for record in await self.list(workspace):
            if record.container_id == container_id and record.state in LIVE:
                return record.spec.secrets
        raise NotFoundError("sandbox.not_found", f"no sandbox runs in {container_id}")

    async def command(self, workspace: WorkspaceId, sandbox_id: str, verb: str) -> SandboxRecord:
        """Do "status" or "terminate". Raises: NotFoundError, UnavailableError."""
        message = SandboxCommand(
            sandbox_id=SandboxId(check_id("sandbox", sandbox_id)), workspace=workspace, verb=verb
        )
        reply = await self._platform.bus.request(
            SANDBOX_COMMAND.at(), message, SandboxReply, timeout_s=COMMAND_TIMEOUT_S
        )
        return _record(reply)

    async def run(
        self, workspace: WorkspaceId, sandbox_id: str, asked: ExecAsked
    ) -> AsyncIterator[ExecEvent]:
        """Yield what an exec writes, and at last its end. Raises: NotFoundError, UnavailableError."""
        exec_id = self._platform.clock.id("exec")
        heard: asyncio.Queue[ExecEvent] = asyncio.Queue(EVENTS_WAITING_MAX)

        async def on_event(delivery: Delivery[ExecEvent]) -> None:
            if delivery.message is not None:
                await heard.put(delivery.message)

        listening = await self._platform.bus.listen(
            EXEC_REPLY.pattern(instance=self._platform.instance, exec_id=exec_id), on_event
        )
        try:
            message = SandboxCommand(
                sandbox_id=SandboxId(check_id("sandbox", sandbox_id)),
                workspace=workspace,
                verb="exec",
                exec_id=exec_id,
                reply_to=self._platform.instance,
                mode=asked.mode,
                code=asked.code,
                argv=asked.argv,
                context=asked.context,
                cwd=asked.cwd,
                env=asked.env,
                timeout_s=asked.timeout_s,
            )
            reply = await self._platform.bus.request(
                SANDBOX_COMMAND.at(), message, SandboxReply, timeout_s=COMMAND_TIMEOUT_S
            )
            _record(reply)
            async for event in self._events(workspace, sandbox_id, heard):
                yield event
        finally:
            await listening.close()

    async def _events(
        self, workspace: WorkspaceId, sandbox_id: str, heard: asyncio.Queue[ExecEvent]
    ) -> AsyncIterator[ExecEvent]:
        expected: int | None = None
        while True:
            try:
                event = await asyncio.wait_for(heard.get(), SILENCE_S)
            except TimeoutError:
                await self._check_alive(workspace, sandbox_id)
                continue
            if expected is not None and event.number > expected:
                raise UnavailableError("platform.unavailable", "some of the output was lost")
            if expected is None or event.number == expected:
                expected = event.number + 1
                yield event
            if event.kind == "ended":
                return

    async def _check_alive(self, workspace: WorkspaceId, sandbox_id: str) -> None:
        record = await self.command(workspace, sandbox_id, "status")
        if record.state in (SandboxState.TERMINATED, SandboxState.FAILED):
            if record.error is not None:
                raise platform_error(record.error)
            raise NotFoundError("sandbox.not_found", f"sandbox {sandbox_id} has ended")


def _record(reply: SandboxReply) -> SandboxRecord:
    if reply.error is not None:
        raise platform_error(reply.error)
    if reply.record is None:
        raise UnavailableError("platform.unavailable", "the sandbox service answered nothing")
    return reply.record
