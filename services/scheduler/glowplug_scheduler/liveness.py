"""Which workers live, judged by their beats on our own clock.

Used by both machines. A worker beats once a second. Silent for `SILENT_S` it gets no new work and is
asked directly; if nobody listens under its name it is dead, otherwise it is dead after `DEAD_S`. While
we ourselves have no broker, silence proves nothing. A dead worker that beats again is simply alive.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from glowplug_contracts.ids import WorkerId
from glowplug_contracts.messages.worker import WorkerBeat

# Half a beat late is enough to ask: the question costs nothing, and only "nobody listens" ends a worker early.
SILENT_S = 1.5
DEAD_S = 6.0
ASK_EVERY_S = 0.5
NEVER_BEAT = -1


class Heard(Enum):
    """What a beat is worth."""

    STALE = "stale"
    FRESH = "fresh"
    RESTARTED = "restarted"


class Sight(msgspec.Struct, eq=False):
    """A worker as last heard. `heard_at` and `asked_at` are on our clock."""

    started_at: float
    beat: int
    heard_at: float
    asked_at: float = 0.0
    silent: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What the passing of time means: newly silent workers, whom to ask, and who is dead."""

    silent: tuple[WorkerId, ...] = ()
    ask: tuple[WorkerId, ...] = ()
    dead: tuple[WorkerId, ...] = ()


NOTHING = Verdict()


class Liveness:
    """All workers heard of and not yet dead."""

    def __init__(self) -> None:
        self.sights: dict[WorkerId, Sight] = {}
        self._connected = True

    def heard(self, beat: WorkerBeat, now: float) -> Heard:
        """Take in a beat. STALE: older than one we know; the caller ignores it."""
        sight = self.sights.get(beat.worker_id)
        if sight is None:
            self.sights[beat.worker_id] = Sight(beat.started_at, beat.beat, now)
            return Heard.FRESH
        if (beat.started_at, beat.beat) <= (sight.started_at, sight.beat):
            return Heard.STALE
        restarted = beat.started_at > sight.started_at and sight.beat != NEVER_BEAT
        sight.started_at, sight.beat = beat.started_at, beat.beat
        self._alive(sight, now)
        return Heard.RESTARTED if restarted else Heard.FRESH

    def touched(self, worker_id: WorkerId, now: float) -> None:
        """Take another sign of life. A worker that has not beaten yet is watched from now on."""
        sight = self.sights.get(worker_id)
        if sight is None:
            self.sights[worker_id] = Sight(float("-inf"), NEVER_BEAT, now)
        else:
            self._alive(sight, now)

    def usable(self, worker_id: WorkerId) -> bool:
        """Return whether new work may go there. A worker not yet heard of is given the benefit."""
        sight = self.sights.get(worker_id)
        return sight is None or not sight.silent

    def unreachable(self, worker_id: WorkerId, now: float) -> bool:
        """Nobody listens under this name: return whether that makes it dead (it was silent, too)."""
        sight = self.sights.get(worker_id)
        if sight is None or not self._connected or now - sight.heard_at < SILENT_S:
            return False
        del self.sights[worker_id]
        return True

    def reached(self, now: float, *, connected: bool) -> None:
        """Our own connection went or came; when it comes, everybody gets a fresh start."""
        if connected and not self._connected:
            for sight in self.sights.values():
                self._alive(sight, now)
        self._connected = connected

    def passed(self, now: float) -> Verdict:
        """Judge silence. Dead workers are forgotten."""
        if not self._connected:
            return NOTHING
        late = [(w, s) for w, s in self.sights.items() if now - s.heard_at >= SILENT_S]
        if not late:
            return NOTHING
        silent: list[WorkerId] = []
        ask: list[WorkerId] = []
        dead: list[WorkerId] = []
        for worker_id, sight in late:
            if now - sight.heard_at >= DEAD_S:
                dead.append(worker_id)
                del self.sights[worker_id]
                continue
            if not sight.silent:
                sight.silent = True
                silent.append(worker_id)
            if now - sight.asked_at >= ASK_EVERY_S:
                sight.asked_at = now
                ask.append(worker_id)
        return Verdict(tuple(silent), tuple(ask), tuple(dead))

    @staticmethod
    def _alive(sight: Sight, now: float) -> None:
        sight.heard_at = now
        sight.silent = False
