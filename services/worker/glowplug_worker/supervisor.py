"""Supervises one container: performs what its machine decides, tells the machine what happened.

Sixth and seventh step of the journey. Owns the container's process tree, sockets, directory, log and
what is in flight inside. It never decides a state: `ContainerLife` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from glowplug_contracts.errors import InvariantError, PlatformError, RejectedError
from glowplug_contracts.ids import ContainerId, DeploymentId, Digest, InvocationId
from glowplug_contracts.inside import INSIDE_DEPLOYMENT, NO_DEPLOYMENT
from glowplug_contracts.messages.container import (
    BindContainer,
    ContainerChanged,
    ContainerKind,
    ContainerSpec,
    ContainerState,
    ExecInContainer,
)
from glowplug_contracts.messages.dispatch import RunInvocation
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.link import TaskSent
from glowplug_contracts.messages.worker import ContainerView
from glowplug_contracts.subjects import CONTAINER, LOG
from glowplug_runtime.tracing import record_span

from glowplug_worker import container as life
from glowplug_worker.attempts import trim_error
from glowplug_worker.bringing import bring, patiently, remove_directory
from glowplug_worker.door import ContainerDoor, trusted_headers
from glowplug_worker.durable import DurableFlight
from glowplug_worker.evidence import explain, refusal, unheld
from glowplug_worker.execs import Execs
from glowplug_worker.frames import (
    Ask,
    AskCredit,
    AskDrop,
    ExecEvent,
    FrameError,
    FromRunner,
    Hello,
    Item,
    Log,
    Progress,
    Ready,
    Result,
    StartFailed,
    Stop,
    ToRunner,
)
from glowplug_worker.inflight import InFlight
from glowplug_worker.interactive import InteractiveFlight
from glowplug_worker.launch import Places, limits_of
from glowplug_worker.logbook import Logbook
from glowplug_worker.opening import open_secrets
from glowplug_worker.ports import Evidence, Exit, RunningContainer
from glowplug_worker.runners import RunnerLink
from glowplug_worker.sent import SentFlight
from glowplug_worker.slots import Refusal, Slots
from glowplug_worker.starting import Started, Way, start
from glowplug_worker.workshop import Workshop

log = structlog.get_logger()

# What else runs beside one that is deaf to its cancel ends by its own time-outs.
DEAF_DRAIN_S: Final = 86_400.0
LAST_WORDS_S: Final = 1.0
# What an ended container has printed waits so long for a broker that is away.
BROKER_AWAY_S: Final = 30.0
BROKER_LOOK_S: Final = 0.1
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
PHASES_MAX: Final = 16


class Supervisor:
    """One container, from its binding to its end."""

    def __init__(
        self, workshop: Workshop, binding: BindContainer, on_ended: Callable[[Supervisor], None]
    ) -> None:
        spec, now = binding.spec, workshop.clock.now()
        self.workshop = workshop
        self.binding = binding
        self.container_id = ContainerId(binding.container_id)
        self.life = life.ContainerLife(
            processes=spec.processes,
            concurrency=spec.concurrency,
            expires_at=now + spec.expires_s if spec.expires_s > 0 else 0.0,
            stop_grace_s=life.EXIT_HOOK_S if _has_exit_hook(spec) else life.STOP_GRACE_S,
        )
        self.slots = Slots(concurrency=spec.concurrency)
        self.logbook = Logbook(
            container_id=self.container_id,
            deployment_id=spec.deployment_id,
            workspace=spec.workspace,
            name=spec.name,
            now=now,
        )
        self.flights: dict[str, InFlight] = {}
        self.execs = Execs(self)
        self.door = ContainerDoor(self, workshop.gateways, workshop.spawn)
        self.directory = workshop.directory / "containers" / binding.container_id
        self.places = Places(binds=(), mounts=True, tmp="")
        self.running: RunningContainer | None = None
        self._trees: tuple[Digest, ...] = ()
        self.peak_bytes = 0
        self.segments = 0  # of output, published so far
        self._on_ended = on_ended
        self._started: Started | None = None
        self.way: Way = "plain"
        self._links: list[RunnerLink] = []
        self._under_way: asyncio.Task[None] | None = None
        self._announcements: list[ContainerChanged] = []
        self._announcing = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._phases: dict[str, float] = {}
        self._began_unix = workshop.clock.unix()
        self._killed = False
        self._held_bytes = 0
        self._told = Evidence()

    # -- what the service asks ------------------------------------------------------------------

    def begin(self) -> None:
        """Bring it up."""
        self.step(life.Bound())

    def stop(self, grace_s: float, reason: str) -> None:
        """End it, after what runs has had `grace_s`."""
        if self.life.state is not ContainerState.BOUND:
            self.step(life.StopAsked(grace_s=grace_s, reason=reason, busy=self.busy))

    @property
    def deployment_id(self) -> DeploymentId:
        """Return whose invocations it takes."""
        return self.binding.spec.deployment_id

    def run(
        self, message: RunInvocation, invocation_id: InvocationId, *, direct: bool = False
    ) -> InFlight | Refusal:
        """Take an invocation if there is a slot for it; `direct`: from its gateway, past the shard."""

        def seated(process: int) -> InteractiveFlight | DurableFlight:
            if message.request is not None:
                return InteractiveFlight(self, message, process, direct=direct)
            return DurableFlight(self, message, process)

        return self._seat(invocation_id, seated)

    def run_sent(self, sent: TaskSent, gateway: str) -> InFlight | Refusal:
        """Take durable work that `gateway` has stored as running here, if there is a slot for it."""
        return self._seat(
            sent.record.invocation_id, lambda process: SentFlight(self, sent, gateway, process)
        )

    def _seat(
        self,
        invocation_id: InvocationId,
        seated: Callable[[int], InteractiveFlight | DurableFlight],
    ) -> InFlight | Refusal:
        process = self.slots.take(invocation_id)
        if isinstance(process, Refusal):
            return process
        flight = self.flights[invocation_id] = seated(process)
        flight.start()
        return flight

    def exec(self, message: ExecInContainer, secret_env: Mapping[str, str]) -> str:
        """Run something inside; return "" or why not."""
        if self.life.state is not ContainerState.READY:
            return f"the container is {self.life.state.value}"
        if self.binding.spec.kind is ContainerKind.FUNCTION:
            return "functions take invocations only"
        if message.secrets and self.binding.spec.kind is not ContainerKind.BUILD:
            return "commands of builds get secrets of their own, no others"
        return self.execs.start(message, self.workshop.clock.now(), secret_env)

    def view(self) -> ContainerView:
        """Return what beats say about it."""
        spec = self.binding.spec
        # Until its end was announced, with what was inside settled, it counts as on its way there.
        state = ContainerState.DRAINING if self.life.ended else self.life.state
        return ContainerView(
            name=spec.name,
            container_id=self.container_id,
            deployment_id=spec.deployment_id,
            workspace=spec.workspace,
            kind=spec.kind,
            state=state,
            resources=spec.resources,
            slots=self._slots_told,
            gpu_ids=self.binding.gpu_ids,
            in_flight=tuple(InvocationId(each) for each in (*self.flights, *self.execs.ids())),
            image_digest=spec.image_digest,
            trees=self._trees,
        )

    @property
    def _slots_told(self) -> int:
        """Sessions take execs, not invocations."""
        return self.life.slots if self.binding.spec.kind is ContainerKind.FUNCTION else 0

    @property
    def busy(self) -> bool:
        """Return whether anything runs inside."""
        return bool(self.flights) or len(self.execs) > 0

    def tick(self, now: float) -> None:
        """Look at the clock: time-outs, cancels that are not heard, expiry, logs. Never waits."""
        for flight in list(self.flights.values()):
            self._tick_flight(flight, now)
        if self.execs.overdue(now):
            self.step(life.Overran())
        self.step(life.Passed(busy=self.busy))
        self._publish_soon()

    def overgrown(self, limit_bytes: int, peak_bytes: int) -> None:
        """The tree uses more memory than it may."""
        if self.life.state in (ContainerState.STARTING, ContainerState.READY):
            self.step(life.Overgrown(limit_bytes=limit_bytes, peak_bytes=peak_bytes))

    def gpu_lost(self, gpu_id: str, why: str) -> None:
        """A GPU that it has is out of service."""
        if self.life.state in (ContainerState.STARTING, ContainerState.READY):
            self.step(life.DeviceLost(gpu_id=gpu_id, why=why))

    def image_lost(self) -> None:
        """What its root is read from has ended."""
        if self.life.state in (
            ContainerState.PULLING,
            ContainerState.STARTING,
            ContainerState.READY,
        ):
            self.step(life.ImageLost())

    # -- what flights and execs ask -------------------------------------------------------------

    def send(self, process: int, header: ToRunner, body: bytes = b"") -> None:
        """Send to a runner process, if it is there."""
        if process < len(self._links):
            self._links[process].send(header, body)

    def who_asks(self, process: int, invocation_id: str) -> tuple[dict[str, str], str]:
        """Return headers that say who asks, and the traceparent; the runner's word is checked."""
        spec = self.binding.spec
        flight = self.flights.get(invocation_id)
        if flight is None or flight.process != process:
            flight = None
        headers = trusted_headers(
            workspace=spec.workspace,
            container_id=self.container_id,
            deployment_id=spec.deployment_id,
            parent=flight.invocation_id if flight is not None else "",
        )
        return headers, flight.trace if flight is not None else ""

    def pause(self) -> None:
        """Read nothing from the runners for a while."""
        for link in self._links:
            link.pause()

    def resume(self) -> None:
        """Read again."""
        for link in self._links:
            link.resume()

    def release(self, flight: InFlight) -> None:
        """Free the flight's slot. Of the same invocation another attempt may be here by now."""
        if self.flights.get(flight.invocation_id) is flight:
            self.slots.release(flight.invocation_id)
            del self.flights[flight.invocation_id]

    def after_release(self) -> None:
        """Tell gateways of the room, and the machine if nothing runs inside any more."""
        self.workshop.answers.changed((self,))
        if not self.busy and self.life.state in (ContainerState.READY, ContainerState.DRAINING):
            self.step(life.Emptied())

    def hold_bytes(self, size: int) -> None:
        """What runners sent lies in memory until it is stored or sent on; read less beyond a bound."""
        self._held_bytes += size
        if self._held_bytes > HELD_BYTES_MAX:
            self.pause()

    def let_go_bytes(self, size: int) -> None:
        """It is stored or sent."""
        self._held_bytes -= size
        if self._held_bytes <= HELD_BYTES_MAX:
            self.resume()

    def _publish_soon(self) -> None:
        if self.logbook.pending and not self._publishing.locked():
            self.workshop.spawn(self.publish_logs(), "publish logs")

    async def publish_logs(self, *, last: bool = False) -> None:
        """Send what was printed so far; returns when it is on its way, in order.

        While the broker is away it stays in the logbook, whose bound says what is dropped; only the `last`
        words wait for it here, for a while.
        """
        spec, bus = self.binding.spec, self.workshop.bus
        at = LOG.at(
            workspace=spec.workspace,
            deployment_id=spec.deployment_id or "-",
            container_id=self.container_id,
        )
        async with self._publishing:
            give_up_at = self.workshop.clock.now() + BROKER_AWAY_S
            while last and not bus.connected and self.workshop.clock.now() < give_up_at:  # noqa: ASYNC110
                await asyncio.sleep(BROKER_LOOK_S)
            while self.logbook.pending and bus.connected:
                self.segments += 1
                await bus.send(at, self.logbook.take(self.workshop.clock.unix()))

    # -- the machine ----------------------------------------------------------------------------

    def step(self, event: life.Event) -> None:
        """Feed the machine and perform what it decides."""
        decisions = self.life.step(event, self.workshop.clock.now())
        losing: life.Lose | None = None
        for decision in decisions:
            match decision:
                case life.Lose():
                    losing = decision
                case life.Announce():
                    self._announce(decision, losing)
                case _:
                    self._perform(decision)

    def _perform(
        self,
        decision: life.Pull | life.Start | life.OpenSlots | life.Drain | life.AskStop | life.Kill,
    ) -> None:
        match decision:
            case life.Pull():
                self._under_way = self.workshop.spawn(self._bring_up(), "bring up container")
            case life.Start():
                pass  # `_bring_up` goes on by itself; the decision marks the moment
            case life.OpenSlots():
                self.slots.open(decision.process)
            case life.Drain():
                self.slots.drain()
            case life.AskStop():
                for link in self._links:
                    link.send(Stop(grace_s=decision.grace_s))
            case life.Kill():
                self._kill()

    def _kill(self) -> None:
        self._killed = True
        if self.running is not None:
            self.running.kill()
        elif self._under_way is not None and self._under_way is not asyncio.current_task():
            self._under_way.cancel()

    # -- coming up ------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Pull, then start. However it ends, the machine hears of it exactly once."""
        try:
            await self._pull_and_start()
        except asyncio.CancelledError:
            if not self._killed:
                raise
        except PlatformError as error:
            self._fail_start(error)
        except OSError as error:
            self._fail_start(
                PlatformError("platform.unavailable", f"starting the container: {error}")
            )
        except (
            Exception
        ) as error:  # our bug must fail this container, not leave it starting for ever
            log.exception("container.start_failed", container_id=self.container_id)
            self._fail_start(InvariantError("platform.bug", f"starting the container: {error!r}"))
        if self.running is None and not self.life.ended:
            self.step(life.Exited(busy=self.busy))

    async def _pull_and_start(self) -> None:
        workshop, clock = self.workshop, self.workshop.clock
        began = clock.unix()
        self._check_limits()
        brought = await bring(workshop, self.binding, self.directory)
        self._trees = brought.trees
        secret_env = await self._open_secrets()
        self._note_phase("pull", began, clock.unix())
        self.step(life.Pulled())
        if self.life.state is not ContainerState.STARTING:
            return
        self._began_unix = clock.unix()
        started = await start(
            workshop,
            self.binding,
            brought,
            self.directory,
            self._on_frame,
            self._on_gone,
            secret_env=secret_env,
        )
        self.places, self._links, self.running = started.places, started.links, started.running
        self._started, self.way = started, started.way
        workshop.spawn(self._watch(started.running), "watch container")

    def _check_limits(self) -> None:
        """Raise RejectedError for a limit that can't be held, where that matters."""
        backend = self.workshop.backend
        names = unheld(limits_of(self.binding.spec, io=self.workshop.io), backend.enforces)
        if names and self.workshop.refuses_unenforced:
            raise RejectedError("worker.limit_not_held", refusal(names, backend.name))

    def explained(self, error: RemoteError) -> RemoteError:
        """Return the error with what the kernel says of limits that were reached since the last one."""
        if self.running is None:
            return error
        told, self._told = self._told, self.running.evidence()
        return explain(error, self._told, told)

    async def _open_secrets(self) -> dict[str, str]:
        if not self.binding.spec.has_secrets:
            return {}
        who, _ = self.who_asks(0, "")
        who[INSIDE_DEPLOYMENT] = who[INSIDE_DEPLOYMENT] or NO_DEPLOYMENT
        gateways = self.workshop.gateways
        return await patiently(self.workshop, lambda: open_secrets(gateways, who))

    def _fail_start(self, error: PlatformError) -> None:
        log.warning("container.start_failed", container_id=self.container_id, error=str(error))
        self.step(
            life.StartFailed(
                error=RemoteError(
                    code=error.code,
                    type=type(error).__name__,
                    message=error.message,
                    details=error.details,
                )
            )
        )

    async def _watch(self, running: RunningContainer) -> None:
        exit_ = await running.wait()
        await running.close()
        # What the runners wrote before they ended is still in their sockets: read it first.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                for link in self._links:
                    await link.gone.wait()
        self._on_exit(exit_)

    def _on_exit(self, exit_: Exit) -> None:
        for link in self._links:
            link.close()
        if exit_.unmade and not self.life.ended:
            why = exit_.stderr_tail.strip() or f"exit {exit_.code or exit_.signal}"
            self._fail_start(
                PlatformError("platform.unavailable", f"the container can't be made: {why}")
            )
        lines = [*self.logbook.last_lines, *exit_.stderr_tail.splitlines()]
        self.step(
            life.Exited(
                code=exit_.code,
                signal=exit_.signal,
                last_lines=tuple(lines[-20:]),
                busy=self.busy,
                evidence=exit_.evidence,
            )
        )

    # -- what runners say -----------------------------------------------------------------------

    def _on_frame(self, process: int, header: FromRunner, body: bytes) -> None:  # noqa: C901
        if self.life.ended or self._killed:
            return
        match header:
            case Result():
                self._flight(header.id, process).on_result(header, body)
            case Item():
                self._flight(header.id, process).on_item(header, body)
            case Log():
                self._on_log(header, body)
            case Progress():
                self._on_progress(process, header)
            case ExecEvent():
                self.execs.on_event(header, body)
            case Ask() | AskCredit() | AskDrop():
                self._on_ask(process, header, body)
            case Hello():
                self._note_phase("boot", self._began_unix, self.workshop.clock.unix())
            case Ready():
                self._on_ready(process, header)
            case StartFailed():
                self.step(life.StartFailed(error=trim_error(header.error)))

    def _on_ask(self, process: int, header: Ask | AskCredit | AskDrop, body: bytes) -> None:
        if self.binding.spec.kind is not ContainerKind.FUNCTION:
            raise FrameError("a request to a gateway, which only functions may make")
        match header:
            case Ask():
                self.door.on_ask(process, header, body)
            case AskCredit():
                self.door.on_credit(process, header)
            case AskDrop():
                self.door.on_drop(process, header)

    def _flight(self, invocation_id: str, process: int) -> InFlight:
        flight = self.flights.get(invocation_id)
        if flight is None or flight.process != process:
            raise FrameError(f"news of {invocation_id[:64]!r}, which it does not run")
        return flight

    def _on_progress(self, process: int, header: Progress) -> None:
        # A thread that the user's code left behind may still talk of what has ended: no harm.
        flight = self.flights.get(header.id)
        if flight is not None and flight.process == process:
            flight.on_progress(header)

    def _on_log(self, header: Log, body: bytes) -> None:
        clock = self.workshop.clock
        self.logbook.write(
            body,
            stream="stderr" if header.stream == "stderr" else "stdout",
            invocation_id=header.id if header.id in self.flights else "",
            at=clock.unix(),
            now=clock.now(),
            dropped=max(0, header.dropped),
        )
        if self.logbook.full:
            self._publish_soon()

    def _on_ready(self, process: int, header: Ready) -> None:
        at = self.workshop.clock.unix()
        phases = {
            name.removesuffix("_s")[:32]: seconds
            for name, seconds in list(header.phases.items())[:PHASES_MAX]
            if math.isfinite(seconds) and seconds >= 0
        }
        for name, seconds in reversed(phases.items()):
            self._note_phase(name, at - seconds, at)
            at -= seconds
        if self.life.state is ContainerState.STARTING:
            self.workshop.images.started(self.container_id)
        self.step(life.RunnerReady(process=process))
        self._tell_templates(phases.get("import", 0.0))

    def _tell_templates(self, import_s: float) -> None:
        """A template pays if this one had to import its code."""
        templates, started = self.workshop.templates, self._started
        self._started = None  # its secrets are not needed any more
        if templates is not None and started is not None and started.way != "template":
            templates.served(started.start, import_s, forked=started.way == "warm")

    def _on_gone(self, process: int, violation: str) -> None:
        if violation:
            log.warning("runner.broke_protocol", container_id=self.container_id, why=violation)
        if self.life.ended or self._killed:
            return
        if self.running is None:
            # The tree ended before the backend's start returned; its exit tells the rest.
            return
        self.step(life.RunnerGone(process=process, violation=violation))

    # -- time -----------------------------------------------------------------------------------

    def _tick_flight(self, flight: InFlight, now: float) -> None:
        overdue = flight.attempt.overdue(now)
        if overdue is not None and not self._killed:
            flight.end_overdue(overdue)
            self.step(life.Overran())
            flight.wake()
        elif self._deaf(flight, now) and flight.attempt.running is not None and not self._killed:
            self._end_deaf(now)

    def _deaf(self, flight: InFlight, now: float) -> bool:
        grace_s = self.workshop.cancel_grace_s
        return flight.cancelled_at is not None and now - flight.cancelled_at >= grace_s

    def _end_deaf(self, now: float) -> None:
        """One does not listen to its cancel: its container is killed when nobody else is inside.

        Until then it takes no more work, so that this comes as soon as the others' own limits allow.
        """
        if all(self._deaf(flight, now) for flight in self.flights.values()):
            self.stop(0.0, "cancelled")
        elif self.life.state is ContainerState.READY:
            self.stop(DEAF_DRAIN_S, "cancelled")

    # -- telling --------------------------------------------------------------------------------

    def _note_phase(self, name: str, start_unix: float, end_unix: float) -> None:
        key = f"{name}_s"
        self._phases[key] = max(self._phases.get(key, 0.0), end_unix - start_unix)
        if self.binding.trace:
            record_span(
                name,
                self.binding.trace,
                start_unix,
                end_unix,
                container_id=self.container_id,
                worker_id=self.workshop.worker_id,
            )

    def _announce(self, decision: life.Announce, losing: life.Lose | None) -> None:
        spec = self.binding.spec
        log.info(
            "container.changed",
            container_id=self.container_id,
            state=decision.state.value,
            reason=decision.reason,
            code=decision.error.code if decision.error else "",
        )
        self._announcements.append(
            ContainerChanged(
                container_id=self.container_id,
                deployment_id=spec.deployment_id,
                worker_id=self.workshop.worker_id,
                workspace=spec.workspace,
                kind=spec.kind,
                state=decision.state,
                slots=self._slots_told,
                at=self.workshop.clock.unix(),
                reason=decision.reason,
                error=decision.error,
                phases=dict(self._phases),
                trace=self.binding.trace,
            )
        )
        if decision.state in life.ENDS:
            self.slots.drain()
            error = losing.error if losing is not None else decision.error
            self.workshop.spawn(self._conclude(error), "conclude container")
        else:
            self.workshop.spawn(self._send_announcements(), "announce container")

    async def _send_announcements(self) -> None:
        at = CONTAINER.at(
            deployment_id=self.binding.spec.deployment_id or "-", container_id=self.container_id
        )
        async with self._announcing:
            while self._announcements:
                await self.workshop.bus.append(at, self._announcements.pop(0))
        self.workshop.changes.tell(self)

    async def _conclude(self, error: RemoteError | None) -> None:
        """After the end: settle what was inside, then tell the world, then clean up."""
        self.door.close()
        try:
            await self.publish_logs(last=True)
            alone = len(self.flights) == 1
            settling = [each.lose(error, alone=alone) for each in self.flights.values()]
            for failure in await asyncio.gather(
                *settling, self.execs.lose(error), return_exceptions=True
            ):
                if failure is not None:
                    log.error(
                        "settling.failed", container_id=self.container_id, error=repr(failure)
                    )
            await self._send_announcements()
        finally:
            self.workshop.images.end_build(self.container_id)
            await self.workshop.images.release(self.container_id)
            await asyncio.to_thread(remove_directory, self.directory)
            self._on_ended(self)
            self.workshop.changes.tell(self)


def _has_exit_hook(spec: ContainerSpec) -> bool:
    source = spec.source
    return source is not None and bool(source.on_exit or source.on_exit_pickled)
