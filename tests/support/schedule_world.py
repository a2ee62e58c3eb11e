"""Schedules in a made-up world: a store, a broker with timers, owners that die between any two steps.

The world does what the real shell does, one decision at a time, and may stop doing it anywhere: an owner
is dropped with its decision undone, half done (stored, never answered) or done. Times are the world's own.
"""

from __future__ import annotations

from glowplug_contracts.ids import DeploymentId, WorkspaceId
from glowplug_contracts.messages.schedule import CatchUp, ScheduleSpec, ScheduleState
from glowplug_runtime.due_times import due_times
from glowplug_scheduler import schedule_types as t
from glowplug_scheduler.schedules import LATE_S, Schedules

KEY = t.Key(WorkspaceId("default"), "tidy")
VERSION = DeploymentId("dep_1")


def after(when: str, timezone: str, unix: float) -> float:
    return due_times(when, timezone).after(unix)


class Owner:
    """One machine and what it has decided and not done yet."""

    def __init__(self, world: ScheduleWorld) -> None:
        self.machine = Schedules(after, late_s=world.late_s)
        self.world = world
        self.decided: list[t.Decision] = []

    def take_over(self) -> None:
        world = self.world
        if world.state is not None:
            self.hear(t.StateSeen(KEY, world.state, world.revision))
        if world.version is not None:
            self.hear(world.version)
        if world.went_off:
            self.hear(t.WentOff(KEY, world.went_off))
        self.hear(t.Loaded())

    def hear(self, event: t.Event) -> None:
        self.decided += self.machine.step(event, self.world.now)
        self.machine.check()

    def do_one(self, *, answered: bool = True) -> bool:
        """Do the first thing that was decided; unanswered: it is done, and nobody comes to know."""
        if not self.decided:
            return False
        answer = self.world.do(self.decided.pop(0))
        if answered:
            self.hear(answer)
        return True


class ScheduleWorld:
    def __init__(
        self, when: str = "every 10s", catch_up: CatchUp = CatchUp.ALL, late_s: float = LATE_S
    ) -> None:
        self.now = 1_000_000.5
        self.late_s = late_s
        self.version: t.VersionSeen | None = t.VersionSeen(
            KEY, VERSION, 1, ScheduleSpec(when=when, catch_up=catch_up)
        )
        self.state: ScheduleState | None = None
        self.revision = 0
        self.records: dict[str, float] = {}
        self.fired: list[float] = []
        self.timer = 0.0
        self.went_off = 0.0
        self.owners: list[Owner] = []
        self.told: list[tuple[int, t.Event]] = []

    def own(self) -> Owner:
        owner = Owner(self)
        self.owners.append(owner)
        owner.take_over()
        return owner

    def kill(self, owner: Owner) -> None:
        self.owners.remove(owner)

    def do(self, decision: t.Decision) -> t.Event:  # noqa: PLR0911 - one answer for each decision
        match decision:
            case t.ReadState():
                return t.StateRead(KEY, self.state, self.revision)
            case t.WriteState(_, state, revision):
                there = self.revision if self.state is not None else 0
                if there != revision:
                    return t.Failed(KEY, conflict=True)
                self.write(state)
                return t.Written(KEY, self.revision)
            case t.Fire(_, due, invocation_id, _, only_look):
                if invocation_id in self.records:
                    return t.Fired(KEY, due)
                if only_look:
                    return t.NotThere(KEY, due)
                self.records[invocation_id] = self.now
                self.fired.append(due)
                return t.Fired(KEY, due)
            case t.SetTimer(_, due):
                self.timer = due
                return t.TimerStands(KEY, due)
            case t.ForgetState(_, revision):
                if self.revision != revision:
                    return t.Failed(KEY, conflict=True)
                self.write(None)
                return t.Forgotten(KEY)
        raise AssertionError(decision)

    def write(self, state: ScheduleState | None) -> None:
        if state is not None and self.state is not None:
            assert state.decided_until >= self.state.decided_until
        self.state, self.revision = state, self.revision + 1
        for owner in list(self.owners):
            owner.hear(t.StateSeen(KEY, state, self.revision))

    def pass_time(self, seconds: float, *, broker: bool = True) -> None:
        """Let time pass; the broker calls if it is up."""
        self.now += seconds
        if broker and self.timer and self.timer <= self.now:
            self.went_off, self.timer = self.timer, 0.0
            for owner in list(self.owners):
                owner.hear(t.WentOff(KEY, self.went_off))
        for owner in list(self.owners):
            owner.hear(t.Tick())

    def run(self, until: float, *, step_s: float = 0.5) -> None:
        """Let time pass with everything done at once."""
        while self.now < until:
            self.pass_time(step_s)
            self.work()

    def work(self) -> None:
        for owner in list(self.owners):
            while owner.do_one():
                pass


def all_due(first_after: float, until: float, when: str = "every 10s") -> list[float]:
    times, found = due_times(when), []
    at = times.after(first_after)
    while at <= until:
        found.append(at)
        at = times.after(at)
    return found
