"""What runs in a sandbox or build container: execs, their numbered events, and their ends.

Events go to whoever asked, in order. Output that nobody drains makes the runner wait, never our memory
grow: its socket is not read while too much is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from glowplug_contracts.messages.container import ExecEvent as ExecEventMessage
from glowplug_contracts.messages.container import ExecInContainer
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.subjects import EXEC_REPLY

from glowplug_worker.attempts import trim_error
from glowplug_worker.frames import BODY_BYTES_MAX, Exec, ExecEvent, FrameError, KillExec
from glowplug_worker.masking import Mask

if TYPE_CHECKING:
    from glowplug_worker.supervisor import Supervisor

EXECS_MAX: Final = 64
WAITING_MAX: Final = 64
PIECE_BYTES: Final = 512 * 1024
STREAMS: Final = ("stdout", "stderr")
# The runner enforces an exec's time-out; so long after it, the worker does.
OVERTIME_S: Final = 5.0


class _Running(msgspec.Struct):
    reply_to: str
    kill_at: float
    number: int = 0
    told: bool = False
    # By stream, where the command has secrets.
    masks: dict[str, Mask] = {}


class Execs:
    """The execs of one container, which has exactly one runner process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._running: dict[str, _Running] = {}
        self._events: deque[tuple[str, ExecEventMessage]] = deque()
        self._writer = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._running)

    def ids(self) -> tuple[str, ...]:
        """Return the ids of the execs that run."""
        return tuple(self._running)

    def start(self, message: ExecInContainer, now: float, secret_env: Mapping[str, str]) -> str:
        """Hand it to the runner; return "" or why not. What it writes has no value of `secret_env`."""
        if message.exec_id in self._running:
            return ""
        if len(self._running) >= EXECS_MAX:
            return f"{EXECS_MAX} execs run already"
        if message.mode not in ("code", "command"):
            return f"mode {message.mode[:32]!r} is not known"
        code = message.code.encode()
        if len(code) > BODY_BYTES_MAX:
            return f"the code has more than {BODY_BYTES_MAX} bytes; send it as a file"
        kill_at = now + message.timeout_s + OVERTIME_S if message.timeout_s > 0 else 0.0
        masks = {stream: Mask(secret_env.values()) for stream in STREAMS if secret_env}
        self._running[message.exec_id] = _Running(message.reply_to, kill_at, masks=masks)
        seen = self._supervisor.places.seen
        self._supervisor.send(
            0,
            Exec(
                exec_id=message.exec_id,
                mode="code" if message.mode == "code" else "command",
                context=message.context,
                argv=tuple(seen(each) for each in message.argv),
                env={name: seen(value) for name, value in message.env.items()} | dict(secret_env),
                cwd=seen(message.cwd),
                timeout_s=message.timeout_s,
            ),
            code,
        )
        return ""

    def on_event(self, event: ExecEvent, body: bytes) -> None:
        """Take what an exec did. Raises: FrameError for one that does not run."""
        running = self._running.get(event.exec_id)
        if running is None:
            raise FrameError(f"an event of exec {event.exec_id[:64]!r}, which does not run")
        if event.kind == "ended":
            error = None if event.error is None else trim_error(event.error)
            self._end(event.exec_id, event.exit_code, error)
            return
        mask = running.masks.get(event.kind)
        self._write_out(event.exec_id, running, event.kind, mask.feed(body) if mask else body)

    def overdue(self, now: float) -> bool:
        """Ask execs that are over time to end; return whether one did not listen."""
        deaf = False
        for exec_id, running in self._running.items():
            if not running.kill_at or now < running.kill_at:
                continue
            if running.told:
                deaf = True
            else:
                running.told, running.kill_at = True, now + OVERTIME_S
                self._supervisor.send(0, KillExec(exec_id=exec_id))
        return deaf

    async def lose(self, error: RemoteError | None) -> None:
        """The container is gone: every exec ends with what is known about why."""
        error = error or RemoteError(
            code="sandbox.not_found",
            type="ContainerEnded",
            message="the container was stopped while this ran",
        )
        for exec_id in list(self._running):
            self._end(exec_id, None, error)
        await self._write()

    def _end(self, exec_id: str, exit_code: int | None, error: RemoteError | None) -> None:
        running = self._running[exec_id]
        for stream, mask in running.masks.items():
            self._write_out(exec_id, running, stream, mask.end())
        self._add(exec_id, running, "ended", b"", exit_code, error)
        del self._running[exec_id]
        self._supervisor.after_release()

    def _write_out(self, exec_id: str, running: _Running, kind: str, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self._add(exec_id, running, kind, data[start : start + PIECE_BYTES])

    def _add(
        self,
        exec_id: str,
        running: _Running,
        kind: str,
        data: bytes,
        exit_code: int | None = None,
        error: RemoteError | None = None,
    ) -> None:
        event = ExecEventMessage(
            exec_id=exec_id,
            number=running.number,
            kind=kind,
            data=data,
            exit_code=exit_code,
            error=error,
        )
        running.number += 1
        self._events.append((running.reply_to, event))
        if len(self._events) >= WAITING_MAX:
            self._supervisor.pause()
        if not self._writer.locked():
            self._supervisor.workshop.spawn(self._write(), "send exec events")

    async def _write(self) -> None:
        async with self._writer:
            while self._events:
                while self._events:
                    await self._send_next()
                # What was sent has left this process before more is read.
                await self._supervisor.workshop.bus.flush()
        self._supervisor.resume()

    async def _send_next(self) -> None:
        reply_to, event = self._events.popleft()
        await self._supervisor.workshop.bus.send(
            EXEC_REPLY.at(instance=reply_to, exec_id=event.exec_id), event
        )
