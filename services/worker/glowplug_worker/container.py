"""One container's life, as a pure machine: events in, decisions out.

Sixth step of the journey: the supervisor feeds it what happened to a container and performs what it
decides. It never waits, never reads a clock, and knows neither processes nor sockets.

    BOUND → PULLING → STARTING → READY → DRAINING → STOPPED | FAILED

Invariants: C1 a state changes only as `TRANSITIONS` allows; C2 an end is announced exactly once and
nothing is decided after it; C3 every path into DRAINING has a moment at which the tree is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from signal import Signals
from typing import Final, assert_never

import msgspec
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.invocation import RemoteError

from glowplug_worker.evidence import explain
from glowplug_worker.ports import Evidence

# After one runner's socket closed: so long may the tree take to end by itself, with its own exit code.
EXIT_GRACE_S: Final = 0.5
# After a polite stop of an idle container.
STOP_GRACE_S: Final = 2.0
# The same for one that has something to do at its end (`on_exit`).
EXIT_HOOK_S: Final = 30.0
# Importing and on_start may load models; a start that never ends must not hold capacity for ever.
START_S_MAX: Final = 900.0


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Bound(_Event, frozen=True, kw_only=True):
    """Placement's binding was accepted."""


class Pulled(_Event, frozen=True, kw_only=True):
    """Image and source are on this host."""


class StartFailed(_Event, frozen=True, kw_only=True):
    """Pulling, starting, importing or on_start failed for good."""

    error: RemoteError


class RunnerReady(_Event, frozen=True, kw_only=True):
    """One runner process takes work."""

    process: int


class RunnerGone(_Event, frozen=True, kw_only=True):
    """One runner's socket closed; `violation` says what it did that no runner may do."""

    process: int
    violation: str = ""


class Exited(_Event, frozen=True, kw_only=True):
    """The whole process tree is gone (or never came to be)."""

    code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    busy: bool = False
    evidence: Evidence = Evidence()


class StopAsked(_Event, frozen=True, kw_only=True):
    """Placement, the worker's own end or nobody's need asks for the end; 0 s = at once."""

    grace_s: float
    reason: str
    busy: bool


class Emptied(_Event, frozen=True, kw_only=True):
    """The last invocation or exec in flight ended."""


class Overran(_Event, frozen=True, kw_only=True):
    """An invocation ran longer than it may; only killing stops C code."""


class Overgrown(_Event, frozen=True, kw_only=True):
    """The process tree uses more memory than its limit."""

    limit_bytes: int
    peak_bytes: int


class DeviceLost(_Event, frozen=True, kw_only=True):
    """A GPU that it has broke; `why` in the driver's words."""

    gpu_id: str
    why: str


class ImageLost(_Event, frozen=True, kw_only=True):
    """What its root is read from has ended: what is not in memory yet can't be read any more."""


class Passed(_Event, frozen=True, kw_only=True):
    """Time passed; `busy` as in StopAsked."""

    busy: bool


Event = (
    Bound
    | Pulled
    | StartFailed
    | RunnerReady
    | RunnerGone
    | Exited
    | StopAsked
    | Emptied
    | Overran
    | Overgrown
    | DeviceLost
    | ImageLost
    | Passed
)


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Pull(_Decision, frozen=True, kw_only=True):
    """Bring image and source here, then say Pulled or StartFailed."""


class Start(_Decision, frozen=True, kw_only=True):
    """Start the process tree and send every runner its init."""


class OpenSlots(_Decision, frozen=True, kw_only=True):
    """This runner process takes invocations from now on."""

    process: int


class Drain(_Decision, frozen=True, kw_only=True):
    """Take no more work."""


class AskStop(_Decision, frozen=True, kw_only=True):
    """Ask every runner to end by itself."""

    grace_s: float


class Kill(_Decision, frozen=True, kw_only=True):
    """End the tree (or the pull or start that is under way) now, then say Exited."""


class Lose(_Decision, frozen=True, kw_only=True):
    """Everything in flight is lost with the container; `error` is what callers may be told."""

    error: RemoteError | None = None


class Announce(_Decision, frozen=True, kw_only=True):
    """Tell the world the state."""

    state: ContainerState
    reason: str = ""
    error: RemoteError | None = None


Decision = Pull | Start | OpenSlots | Drain | AskStop | Kill | Lose | Announce

_S = ContainerState
LIVE: Final = (_S.BOUND, _S.PULLING, _S.STARTING, _S.READY, _S.DRAINING)
ENDS: Final = frozenset({_S.STOPPED, _S.FAILED})


def _to(*states: ContainerState) -> frozenset[ContainerState]:
    return frozenset(states)


# (state, event) -> the states it may lead to. What is in neither table is a bug of the shell.
_LIVING: Final[Mapping[tuple[ContainerState, type[Event]], frozenset[ContainerState]]] = {
    (_S.BOUND, Bound): _to(_S.PULLING),
    (_S.PULLING, Pulled): _to(_S.STARTING),
    (_S.PULLING, StartFailed): _to(_S.FAILED),
    (_S.PULLING, StopAsked): _to(_S.DRAINING),
    (_S.PULLING, ImageLost): _to(_S.DRAINING),
    (_S.PULLING, Passed): _to(_S.PULLING, _S.DRAINING),
    (_S.STARTING, StartFailed): _to(_S.DRAINING),
    (_S.STARTING, RunnerReady): _to(_S.READY),
    (_S.STARTING, RunnerGone): _to(_S.DRAINING),
    (_S.STARTING, Exited): _to(_S.FAILED),
    (_S.STARTING, StopAsked): _to(_S.DRAINING),
    (_S.STARTING, Overgrown): _to(_S.DRAINING),
    (_S.STARTING, DeviceLost): _to(_S.DRAINING),
    (_S.STARTING, ImageLost): _to(_S.DRAINING),
    (_S.STARTING, Passed): _to(_S.STARTING, _S.DRAINING),
    (_S.READY, RunnerReady): _to(_S.READY),
    # Another process of a container that serves already could not import: the container is broken.
    (_S.READY, StartFailed): _to(_S.DRAINING),
    (_S.READY, RunnerGone): _to(_S.DRAINING),
    (_S.READY, Exited): _to(_S.FAILED),
    (_S.READY, StopAsked): _to(_S.DRAINING),
    (_S.READY, Emptied): _to(_S.READY),
    (_S.READY, Overran): _to(_S.DRAINING),
    (_S.READY, Overgrown): _to(_S.DRAINING),
    (_S.READY, DeviceLost): _to(_S.DRAINING),
    (_S.READY, ImageLost): _to(_S.DRAINING),
    (_S.READY, Passed): _to(_S.READY, _S.DRAINING),
    (_S.DRAINING, Pulled): _to(_S.DRAINING),
    (_S.DRAINING, StartFailed): _to(_S.DRAINING),
    (_S.DRAINING, RunnerReady): _to(_S.DRAINING),
    (_S.DRAINING, RunnerGone): _to(_S.DRAINING),
    (_S.DRAINING, Exited): _to(_S.STOPPED, _S.FAILED),
    (_S.DRAINING, StopAsked): _to(_S.DRAINING),
    (_S.DRAINING, Emptied): _to(_S.DRAINING),
    (_S.DRAINING, Overran): _to(_S.DRAINING),
    (_S.DRAINING, Overgrown): _to(_S.DRAINING),
    (_S.DRAINING, DeviceLost): _to(_S.DRAINING),
    (_S.DRAINING, ImageLost): _to(_S.DRAINING),
    (_S.DRAINING, Passed): _to(_S.DRAINING),
}
# Late news about a container that has ended is dropped.
TRANSITIONS: Final[Mapping[tuple[ContainerState, type[Event]], frozenset[ContainerState]]] = {
    **_LIVING,
    **{(end, event): _to(end) for end in ENDS for event in Event.__args__ if event is not Bound},
}
IMPOSSIBLE: Final[frozenset[tuple[ContainerState, type[Event]]]] = frozenset(
    {(_S.BOUND, event) for event in Event.__args__ if event is not Bound}
    | {(state, Bound) for state in ContainerState if state is not _S.BOUND}
    | {
        # Nothing runs yet: no runner, no tree, nothing in flight.
        (_S.PULLING, RunnerReady),
        (_S.PULLING, RunnerGone),
        (_S.PULLING, Exited),
        (_S.PULLING, Emptied),
        (_S.PULLING, Overran),
        (_S.PULLING, Overgrown),
        (_S.PULLING, DeviceLost),
        (_S.STARTING, Pulled),
        (_S.STARTING, Emptied),
        (_S.STARTING, Overran),
        (_S.READY, Pulled),
    }
)


class _Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Why the container ends: decided before the tree is gone, announced after."""

    reason: str
    failed: bool = False
    error: RemoteError | None = None


class ContainerLife:
    """The machine. `expires_at` and every `now` are monotonic seconds; 0 = never expires.

    `stop_grace_s` is what an idle container has for its end once it was asked for it.
    """

    def __init__(
        self,
        *,
        processes: int,
        concurrency: int,
        expires_at: float = 0.0,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self.state = ContainerState.BOUND
        self.processes = processes
        self.concurrency = concurrency
        self.expires_at = expires_at
        self.stop_grace_s = stop_grace_s
        self.ready: set[int] = set()
        self._start_by = 0.0
        self._kill_at: float | None = None
        self._ending: _Ending | None = None

    @property
    def slots(self) -> int:
        """Return how many invocations it takes at once now."""
        return len(self.ready) * self.concurrency if self.state is ContainerState.READY else 0

    @property
    def ended(self) -> bool:
        """Return whether this is one of the two ends."""
        return self.state in ENDS

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take one event; return what to do, in order."""
        allowed = TRANSITIONS.get((self.state, type(event)))
        assert allowed is not None, f"{event!r} can't happen while {self.state}"  # noqa: S101
        if self.ended:
            return ()
        decisions = self._decide(event, now)
        assert self.state in allowed, f"{event!r} led to {self.state}"  # noqa: S101
        return decisions

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert len(self.ready) <= self.processes  # noqa: S101
        if self.state is ContainerState.DRAINING:
            assert self._ending is not None or self._kill_at is not None, "C3"  # noqa: S101
            assert self._kill_at is not None, "C3"  # noqa: S101

    def _decide(self, event: Event, now: float) -> list[Decision]:  # noqa: PLR0911, PLR0912, C901
        match event:
            case Bound():
                return self._become(ContainerState.PULLING, Pull())
            case Pulled():
                return self._on_pulled(now)
            case StartFailed():
                return self._on_start_failed(event, now)
            case RunnerReady():
                return self._on_ready(event)
            case RunnerGone():
                return self._on_gone(event, now)
            case Exited():
                return self._on_exited(event)
            case StopAsked():
                return self._on_stop(event, now)
            case Emptied():
                return self._on_emptied(now)
            case Overran():
                return self._end(_Ending(reason="timeout"), now)
            case Overgrown():
                error = out_of_memory(event.limit_bytes, event.peak_bytes)
                return self._end(_Ending(reason=self._broken, failed=True, error=error), now)
            case DeviceLost():
                error = gpu_lost(event.gpu_id, event.why)
                return self._end(_Ending(reason="gpu_lost", failed=True, error=error), now)
            case ImageLost():
                return self._end(_Ending(reason="image_lost", failed=True, error=image_lost()), now)
            case Passed():
                return self._on_passed(event, now)
            case _:
                assert_never(event)

    # -- one method per event -------------------------------------------------------------------

    def _on_pulled(self, now: float) -> list[Decision]:
        if self.state is ContainerState.DRAINING:
            return []
        self._start_by = now + START_S_MAX
        return self._become(ContainerState.STARTING, Start())

    def _on_start_failed(self, event: StartFailed, now: float) -> list[Decision]:
        ending = _Ending(reason="start_failed", failed=True, error=event.error)
        if self.state is not ContainerState.PULLING:
            return self._end(ending, now)
        self.state = ContainerState.FAILED
        return [Announce(state=self.state, reason=ending.reason, error=ending.error)]

    def _on_ready(self, event: RunnerReady) -> list[Decision]:
        if self.state is ContainerState.DRAINING or event.process in self.ready:
            return []
        self.ready.add(event.process)
        return self._become(ContainerState.READY, OpenSlots(process=event.process))

    def _on_gone(self, event: RunnerGone, now: float) -> list[Decision]:
        if event.violation:
            error = broken_runner(event.violation)
            return self._end(_Ending(reason=self._broken, failed=True, error=error), now)
        if self.state is ContainerState.DRAINING:
            return []
        # The tree is about to end by itself; its own exit code says more than our SIGKILL would.
        self._start_draining(now + EXIT_GRACE_S)
        return [Drain(), Announce(state=self.state)]

    def _on_exited(self, event: Exited) -> list[Decision]:
        ending = self._ending or _Ending(
            reason=self._broken, failed=True, error=self._why_exited(event)
        )
        self.state = ContainerState.FAILED if ending.failed else ContainerState.STOPPED
        lost = [Lose(error=ending.error or _oom(event))] if event.busy else []
        return [*lost, Announce(state=self.state, reason=ending.reason, error=ending.error)]

    def _on_stop(self, event: StopAsked, now: float) -> list[Decision]:
        kill_at = now + event.grace_s
        if self.state is ContainerState.DRAINING:
            self._kill_at = min(kill_at, self._kill_at or kill_at)
            return [Kill()] if event.grace_s <= 0 else []
        was_ready = self.state is ContainerState.READY
        if event.grace_s <= 0 or not was_ready:
            return self._end(_Ending(reason=event.reason), now)
        self._ending = _Ending(reason=event.reason)
        self._start_draining(kill_at)
        return [Drain(), Announce(state=self.state), *([] if event.busy else self._say_stop(now))]

    def _on_emptied(self, now: float) -> list[Decision]:
        return self._say_stop(now) if self.state is ContainerState.DRAINING else []

    def _on_passed(self, event: Passed, now: float) -> list[Decision]:
        if self.state is ContainerState.DRAINING:
            return self._kill_when_due(now)
        if self.expires_at and now >= self.expires_at:
            grace_s = self.stop_grace_s if self.state is ContainerState.READY else 0.0
            return self._on_stop(StopAsked(grace_s=grace_s, reason="expired", busy=event.busy), now)
        if self.state is ContainerState.STARTING and now >= self._start_by:
            return self._end(_Ending(reason="start_failed", failed=True, error=too_slow()), now)
        return []

    def _why_exited(self, event: Exited) -> RemoteError:
        starting = self._broken == "start_failed"
        error = _oom(event) or crashed(
            event.code, event.signal, event.last_lines, starting=starting
        )
        return explain(error, event.evidence, Evidence())

    # -- shared pieces --------------------------------------------------------------------------

    @property
    def _broken(self) -> str:
        return "crashed" if self.ready else "start_failed"

    def _become(self, state: ContainerState, then: Decision) -> list[Decision]:
        self.state = state
        return [then, Announce(state=state)]

    def _start_draining(self, kill_at: float) -> None:
        self.state = ContainerState.DRAINING
        self._kill_at = kill_at

    def _end(self, ending: _Ending, now: float) -> list[Decision]:
        """Kill now. The first reason stands: what follows from a kill explains nothing."""
        was_draining = self.state is ContainerState.DRAINING
        self._ending = self._ending or ending
        self._start_draining(now)
        return [Kill()] if was_draining else [Drain(), Kill(), Announce(state=self.state)]

    def _say_stop(self, now: float) -> list[Decision]:
        kill_at = now + self.stop_grace_s
        self._kill_at = min(kill_at, self._kill_at or kill_at)
        return [AskStop(grace_s=max(0.0, self._kill_at - now))]

    def _kill_when_due(self, now: float) -> list[Decision]:
        if self._kill_at is None or now < self._kill_at:
            return []
        self._kill_at = now + STOP_GRACE_S  # repeated until the tree is gone
        return [Kill()]


# -- errors that only the worker can tell ----------------------------------------------------------


def _oom(event: Exited) -> RemoteError | None:
    """Return the error if the kernel says that it was killed for memory."""
    evidence = event.evidence
    if not evidence.oom_kills or event.signal != Signals.SIGKILL:
        return None
    return out_of_memory(evidence.limits.memory_bytes, evidence.memory_peak_bytes)


def crashed(
    code: int | None, signal: int | None, last_lines: tuple[str, ...], *, starting: bool
) -> RemoteError:
    """Return the error for a tree that ended by itself."""
    how = f"by {_name_of(signal)}" if signal is not None else f"with exit code {code}"
    when = "before it was ready" if starting else "while it served"
    details: dict[str, object] = {
        "exit_code": code,
        "signal": signal,
        "last_lines": list(last_lines),
    }
    return RemoteError(
        code="function.start_failed" if starting else "function.crashed",
        type="StartupError" if starting else "ContainerCrashedError",
        message=f"the container's process ended {how} {when}",
        details=details,
    )


def _name_of(signal: int) -> str:
    """Return a signal's name; those in the middle of the real-time ones have none."""
    try:
        return Signals(signal).name
    except ValueError:
        return f"signal {signal}"


def out_of_memory(limit_bytes: int, peak_bytes: int) -> RemoteError:
    """Return the error for a tree that outgrew its limit."""
    return RemoteError(
        code="function.out_of_memory",
        type="OutOfMemoryError",
        message=f"the container used {peak_bytes} bytes of memory; its limit is {limit_bytes}",
        details={"limit_bytes": limit_bytes, "peak_bytes": peak_bytes},
    )


def broken_runner(violation: str) -> RemoteError:
    """Return the error for a runner that broke the rules of its socket."""
    return RemoteError(
        code="function.crashed",
        type="ContainerCrashedError",
        message=f"the container was ended because its runner broke the protocol: {violation}",
        details={"violation": violation},
    )


def gpu_lost(gpu_id: str, why: str) -> RemoteError:
    """Return the error for a container whose GPU broke."""
    return RemoteError(
        code="container.gpu_lost",
        type="ContainerCrashedError",
        message=f"the container was ended because its GPU {gpu_id} is out of service: {why}",
        details={"gpu_id": gpu_id, "why": why},
    )


def image_lost() -> RemoteError:
    """Return the error for a container whose image can't be read any more."""
    return RemoteError(
        code="container.image_lost",
        type="ContainerCrashedError",
        message="the container was ended because the process that its image is read from has ended",
    )


def too_slow() -> RemoteError:
    """Return the error for a start that never ended."""
    return RemoteError(
        code="function.start_failed",
        type="StartupError",
        message=f"importing the code and on_start took longer than {START_S_MAX:.0f} s",
    )
