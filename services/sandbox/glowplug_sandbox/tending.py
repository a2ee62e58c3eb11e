"""What one replica does for all sessions: end idle ones, notice lost containers, forget ended sessions.

Pure: `Tender.step(event, now) -> decisions`, held by the holder of the lease `sandbox` and made fresh at
every takeover. It measures idleness on its own monotonic clock, from when it last saw the record change:
no clock of another machine decides when a sandbox ends. So a takeover gives every session a fresh time
to live, and never a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.ids import ContainerId, WorkerId
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.sandbox import SandboxRecord, SandboxState
from glowplug_contracts.messages.worker import ContainerView, WorkerBeat

from glowplug_sandbox.session import (
    ContainerLost,
    ContainerReady,
    Event,
    StartTimedOut,
    Terminate,
    is_live,
)

# Beats of its worker in a row that do not list a running container before it counts as lost.
BEATS_MISSED_MAX = 3
# A worker cut off from the broker keeps what it runs; only after so long is it given up here.
WORKER_SILENT_S = 60.0
ENDED_KEPT_S = 3600.0


class SessionSeen(msgspec.Struct, frozen=True):
    """Event: a record at a revision."""

    key: str
    record: SandboxRecord
    revision: int


class SessionGone(msgspec.Struct, frozen=True):
    """Event: a record was removed."""

    key: str


class Ticked(msgspec.Struct, frozen=True):
    """Event: time passed."""


class Apply(msgspec.Struct, frozen=True):
    """Decision: let the session take this event."""

    key: str
    event: Event


class Forget(msgspec.Struct, frozen=True):
    """Decision: remove the record, if it is still at the revision."""

    key: str
    revision: int


class Watched(msgspec.Struct, kw_only=True):
    """A session as the tender sees it. `changed_at`: when it last saw it change or be busy."""

    record: SandboxRecord
    revision: int
    changed_at: float
    beats_missed: int = 0
    heard_at: float = 0.0


class Tender:
    """The machine."""

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._sessions: dict[str, Watched] = {}
        self._of_container: dict[ContainerId, str] = {}
        # Running sessions by worker: what a beat has to be compared with.
        self._on: dict[WorkerId, set[str]] = {}

    def step(
        self, event: SessionSeen | SessionGone | WorkerBeat | Ticked, now: float
    ) -> Sequence[Apply | Forget]:
        """Take one event; return what must be done."""
        match event:
            case SessionSeen():
                self._see(event, now)
                return ()
            case SessionGone():
                self._drop(event.key)
                return ()
            case WorkerBeat():
                return self._hear(event, now)
            case Ticked():
                decisions = (self._look(key, each, now) for key, each in self._sessions.items())
                return tuple(decision for decision in decisions if decision is not None)

    def _see(self, event: SessionSeen, now: float) -> None:
        known = self._sessions.get(event.key)
        if known is not None and known.revision == event.revision:
            return
        self._drop(event.key)
        record = event.record
        self._sessions[event.key] = Watched(
            record=record, revision=event.revision, changed_at=now, heard_at=now
        )
        self._of_container[record.container_id] = event.key
        if record.state is SandboxState.RUNNING:
            self._on.setdefault(record.worker_id, set()).add(event.key)

    def _drop(self, key: str) -> None:
        known = self._sessions.pop(key, None)
        if known is not None:
            self._of_container.pop(known.record.container_id, None)
            self._on.get(known.record.worker_id, set()).discard(key)

    def _hear(self, beat: WorkerBeat, now: float) -> Sequence[Apply]:
        decisions = []
        listed = {v.container_id: v for v in beat.containers if v.kind is ContainerKind.SANDBOX}
        for view in listed.values():
            key = self._of_container.get(view.container_id)
            if key is not None and self._missed_ready(key, view, beat):
                decisions.append(Apply(key, ContainerReady(beat.worker_id)))
        for key in sorted(self._on.get(beat.worker_id, ())):
            session = self._sessions[key]
            session.heard_at = now
            if (found := listed.get(session.record.container_id)) is not None:
                session.beats_missed = 0
                if found.in_flight:  # what its user started still runs: that is no idleness
                    session.changed_at = now
            else:
                session.beats_missed += 1
                if session.beats_missed >= BEATS_MISSED_MAX:
                    why = f"worker {beat.worker_id} no longer has its container"
                    decisions.append(Apply(key, ContainerLost(why)))
        return decisions

    def _missed_ready(self, key: str, view: ContainerView, beat: WorkerBeat) -> bool:
        """Return whether a worker runs it and the session does not know (or knows another)."""
        record = self._sessions[key].record
        stale = not (record.state is SandboxState.RUNNING and record.worker_id == beat.worker_id)
        return view.state is ContainerState.READY and is_live(record) and stale

    def _look(self, key: str, session: Watched, now: float) -> Apply | Forget | None:
        record, quiet_s = session.record, now - session.changed_at
        if record.state is SandboxState.STARTING:
            # Its creator waits as long and says more; this is for when the creator is gone.
            late = quiet_s > self._start_s + 1.0
            return Apply(key, StartTimedOut(self._start_s)) if late else None
        if not is_live(record):
            return Forget(key, session.revision) if quiet_s > ENDED_KEPT_S else None
        if now - session.heard_at > WORKER_SILENT_S:
            return Apply(key, ContainerLost(f"worker {record.worker_id} is silent"))
        if 0 <= record.spec.ttl_s < quiet_s:
            return Apply(key, Terminate("idle"))
        return None
