"""One session's life, decided.

Pure: `step(record, event, now)` returns the record after the event; the same record means that nothing
changes. The table below is the whole life. What follows from a record needs no memory of events: its
container is wanted exactly while the session lives (`is_live`), so any replica can repair that at any
time. Times are Unix seconds and for people only.

Invariants: S1 the ends are final; S2 a running session knows its worker; S3 a session that failed says
why; S4 a running session's container is the one that it started in: what was in it is never replaced
silently by an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import ContainerId, ImageDigest, WorkerId
from glowplug_contracts.messages.container import ContainerKind, ContainerSpec, ContainerWanted
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.sandbox import CreateSandbox, SandboxRecord, SandboxState

OWNER = "sandbox"
LIVE = frozenset({SandboxState.STARTING, SandboxState.RUNNING})


class ContainerReady(msgspec.Struct, frozen=True):
    """The container runs on this worker and takes execs."""

    worker_id: WorkerId


class ContainerEnded(msgspec.Struct, frozen=True):
    """The container is gone. `failed`: by itself; else somebody ended it."""

    failed: bool
    reason: str
    error: RemoteError | None = None


class ContainerLost(msgspec.Struct, frozen=True):
    """Its worker lives and does not know it, or is unheard for long."""

    why: str


class StartTimedOut(msgspec.Struct, frozen=True):
    """It did not start within the bound. `reasons` says why no worker took it, as far as known."""

    after_s: float
    reasons: Mapping[str, str] = {}


class Used(msgspec.Struct, frozen=True):
    """Its user did something."""


class Terminate(msgspec.Struct, frozen=True):
    """It is to end: "asked", or "idle" for its time to live."""

    reason: str


Event = ContainerReady | ContainerEnded | ContainerLost | StartTimedOut | Used | Terminate
Rule = Callable[[SandboxRecord, Event, float], SandboxRecord]


def open_session(ask: CreateSandbox, container_id: ContainerId, now: float) -> SandboxRecord:
    """Return the record of a new session."""
    return SandboxRecord(
        sandbox_id=ask.sandbox_id,
        workspace=ask.workspace,
        spec=ask.spec,
        container_id=container_id,
        state=SandboxState.STARTING,
        created_at=now,
        used_at=now,
        image_digest=ask.image_digest,
        base_python=ask.base_python,
        trace=ask.trace,
    )


def is_live(record: SandboxRecord) -> bool:
    """Return whether the session's container is wanted."""
    return record.state in LIVE


def wanted_of(record: SandboxRecord) -> ContainerWanted:
    """Return the wish for the session's container."""
    return ContainerWanted(
        container_id=record.container_id,
        spec=ContainerSpec(
            kind=ContainerKind.SANDBOX,
            workspace=record.workspace,
            name=record.sandbox_id,
            image_digest=ImageDigest(record.image_digest),
            # An image of a registry brings its own.
            base_python=record.base_python if record.spec.image.on_host else "",
            env={**record.spec.image.env, **record.spec.env},
            resources=record.spec.resources,
            timeout_s=0.0,
            network=record.spec.network,
            has_secrets=bool(record.spec.secrets),
            volumes=record.spec.volumes,
            models=record.spec.models,
        ),
        requested_at=record.created_at,
        owner=OWNER,
        trace=record.trace,
    )


def step(record: SandboxRecord, event: Event, now: float) -> SandboxRecord:
    """Return the record after the event."""
    rule = TRANSITIONS.get((record.state, type(event)))
    return rule(record, event, now) if rule else record


def check(record: SandboxRecord) -> None:
    """Raise InvariantError unless the invariants of one record hold."""
    if record.state is SandboxState.RUNNING and not record.worker_id:
        raise InvariantError("platform.bug", f"sandbox S2: {record}")
    if record.state is SandboxState.FAILED and record.error is None:
        raise InvariantError("platform.bug", f"sandbox S3: {record}")


def _run(record: SandboxRecord, event: Event, now: float) -> SandboxRecord:
    worker_id = event.worker_id if isinstance(event, ContainerReady) else WorkerId("")
    return msgspec.structs.replace(
        record, state=SandboxState.RUNNING, worker_id=worker_id, used_at=now
    )


def _stay(record: SandboxRecord, event: Event, _now: float) -> SandboxRecord:
    """READY again: a repeated event, or another worker was given an empty container."""
    if isinstance(event, ContainerReady) and event.worker_id != record.worker_id:
        return _failed(record, "lost", f"its worker {record.worker_id} was lost")
    return record


def _end(record: SandboxRecord, event: Event, _now: float) -> SandboxRecord:
    if not isinstance(event, ContainerEnded):
        return record
    if event.failed:
        why = f"the container failed ({event.reason or 'no reason given'})"
        return _failed(record, event.reason, why, event.error)
    return msgspec.structs.replace(
        record, state=SandboxState.TERMINATED, reason=event.reason, error=event.error
    )


def _lose(record: SandboxRecord, event: Event, _now: float) -> SandboxRecord:
    return _failed(record, "lost", event.why if isinstance(event, ContainerLost) else "")


def _give_up(record: SandboxRecord, event: Event, _now: float) -> SandboxRecord:
    if not isinstance(event, StartTimedOut):
        return record
    message = f"the sandbox did not start within {event.after_s:g} s"
    if event.reasons:
        parked = "; ".join(f"{worker}: {why}" for worker, why in sorted(event.reasons.items()))
        message = f"{message}: no worker takes it ({parked})"
        error = RemoteError(
            code="scheduler.no_worker_fits",
            type="NoCapacityError",
            message=message,
            details={"reasons": dict(event.reasons)},
        )
        return _failed(record, "start_timeout", message, error)
    return _failed(record, "start_timeout", message)


def _use(record: SandboxRecord, _event: Event, now: float) -> SandboxRecord:
    return msgspec.structs.replace(record, used_at=max(now, record.used_at))


def _terminate(record: SandboxRecord, event: Event, _now: float) -> SandboxRecord:
    reason = event.reason if isinstance(event, Terminate) else ""
    return msgspec.structs.replace(record, state=SandboxState.TERMINATED, reason=reason)


def _failed(
    record: SandboxRecord, reason: str, message: str, error: RemoteError | None = None
) -> SandboxRecord:
    failure = error or RemoteError(code="sandbox.failed", type="SandboxError", message=message)
    return msgspec.structs.replace(
        record, state=SandboxState.FAILED, reason=reason or "failed", error=failure
    )


# What is not here changes nothing: the ends are final; a starting session has nothing yet that could
# be lost or idle, so placement may still give its container to another worker.
TRANSITIONS: Mapping[tuple[SandboxState, type[Event]], Rule] = {
    (SandboxState.STARTING, ContainerReady): _run,
    (SandboxState.STARTING, ContainerEnded): _end,
    (SandboxState.STARTING, StartTimedOut): _give_up,
    (SandboxState.STARTING, Terminate): _terminate,
    (SandboxState.RUNNING, ContainerReady): _stay,
    (SandboxState.RUNNING, ContainerEnded): _end,
    (SandboxState.RUNNING, ContainerLost): _lose,
    (SandboxState.RUNNING, Used): _use,
    (SandboxState.RUNNING, Terminate): _terminate,
}
