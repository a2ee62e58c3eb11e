"""Decide targets: the machine that keeps all deployments.

`Autoscaler.step(event, now)` feeds `plan.decide`: every event changes what is known of some deployments,
and each of those is decided anew at once, so scaling out waits for no tick. Ticks only let time pass:
the keep-warm window, the pause after a failed start, silence.

Invariants: A1 a target is never negative nor above the maximum; A2 a deleted deployment's is 0; A3 it
is at least the minimum unless starts failed or containers crashed lately; A4 nothing is decided before all that the
previous leader left was read.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.container import ContainerChanged, ContainerState
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.dispatch import BacklogChanged
from glowplug_contracts.messages.scale import Failing, ScaleDecided
from glowplug_contracts.messages.worker import WorkerBeat

from glowplug_autoscaler.plan import (
    START_PAUSE_S_MAX,
    History,
    Observed,
    Plan,
    allowed,
    decide,
    failing,
    needed,
)
from glowplug_autoscaler.policy import Policy, Reason, policy_of
from glowplug_autoscaler.signals import End, Fleet, Peak

# The dispatcher repeats a non-empty backlog each second. Unheard for so long it is as good as empty,
# except for what workers say they run.
BACKLOG_KEPT_S = 5.0
# What is heard of a deployment before the deployment itself; then it counts as deleted.
UNKNOWN_KEPT_S = 10.0
# The stream drops its oldest decisions when it is full: targets above zero are written again.
REAFFIRM_S = 600.0


class DeploymentGone(msgspec.Struct, frozen=True):
    """Event: the deployment's key is no more."""

    deployment_id: DeploymentId


class CaughtUp(msgspec.Struct, frozen=True):
    """Event: deployments and last decisions have all been heard; deciding may begin."""


class Ticked(msgspec.Struct, frozen=True):
    """Event: time passed."""


Event = (
    Deployment
    | DeploymentGone
    | BacklogChanged
    | ContainerChanged
    | WorkerBeat
    | ScaleDecided
    | CaughtUp
    | Ticked
)


class Entry(msgspec.Struct, kw_only=True):
    """All that is known of one deployment.

    `target` is what was last decided, by whomever, and `failing` what was said with it; `say_again`
    means that it must be written once more though it stays, because a previous leader's word may stand
    in the stream.
    """

    deployment_id: DeploymentId
    history: History
    first_heard_at: float
    deployment: Deployment | None = None
    policy: Policy | None = None
    backlog: BacklogChanged | None = None
    heard_at: float = 0.0
    target: int = 0
    failing: Failing | None = None
    decided_at: float = 0.0
    say_again: bool = False


class Autoscaler:
    """The machine. One per lease generation; made fresh at every takeover."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.caught_up = False
        self.fleet = Fleet()
        self.entries: dict[DeploymentId, Entry] = {}
        # Those that time alone may change; the rest is not looked at by ticks.
        self._awake: set[DeploymentId] = set()

    def step(self, event: Event, now: float) -> Sequence[ScaleDecided]:
        """Take one event; return the targets that changed."""
        touched = self._take(event, now)
        if not self.caught_up:
            return ()
        decisions = (
            self._decide(self.entries[one], now) for one in sorted(touched & self.entries.keys())
        )
        return tuple(decision for decision in decisions if decision is not None)

    def check(self) -> None:
        """Raise InvariantError unless the invariants hold."""
        for entry in self.entries.values():
            if entry.policy is None or not self.caught_up:
                continue
            history = entry.history
            held = entry.policy.deleted or history.failures > 0 or history.crashes > 1
            _must(0 <= entry.target <= entry.policy.maximum, "A1", entry)
            _must(not (entry.policy.deleted and entry.target), "A2", entry)
            _must(held or entry.target >= entry.policy.minimum, "A3", entry)

    def _take(self, event: Event, now: float) -> set[DeploymentId]:  # noqa: PLR0911 - a table
        match event:
            case Deployment():
                return self._take_deployment(event, now)
            case DeploymentGone():
                return self._take_gone(event)
            case BacklogChanged():
                return self._take_backlog(event, now)
            case ContainerChanged():
                return self._take_container(event, now)
            case WorkerBeat():
                return self.fleet.hear_beat(event, now)
            case ScaleDecided():
                return self._take_decided(event, now)
            case CaughtUp():
                self.caught_up = True
                return set(self.entries)
            case Ticked():
                return self.fleet.forget_silent(now) | self._awake

    def _entry(self, deployment_id: DeploymentId, now: float) -> Entry:
        entry = self.entries.get(deployment_id)
        if entry is None:
            history = History(peak=Peak(window_s=0.0))
            entry = Entry(deployment_id=deployment_id, history=history, first_heard_at=now)
            self.entries[deployment_id] = entry
        return entry

    def _take_deployment(self, deployment: Deployment, now: float) -> set[DeploymentId]:
        entry = self._entry(deployment.deployment_id, now)
        entry.deployment = deployment
        entry.policy = policy_of(deployment)
        entry.history.peak.window_s = entry.policy.keep_warm_s
        return {entry.deployment_id}

    def _take_gone(self, event: DeploymentGone) -> set[DeploymentId]:
        entry = self.entries.get(event.deployment_id)
        if entry is None:
            return set()
        entry.deployment = None
        entry.policy = Policy(maximum=0, deleted=True)
        return {entry.deployment_id}

    def _take_backlog(self, backlog: BacklogChanged, now: float) -> set[DeploymentId]:
        entry = self._entry(backlog.deployment_id, now)
        fresh = now - entry.heard_at <= BACKLOG_KEPT_S
        if entry.backlog is not None and fresh and backlog.is_older_than(entry.backlog):
            return set()  # late, or of a dispatcher that has lost its shard
        before = entry.backlog.arrivals if entry.backlog else 0
        if backlog.queued > 0 and backlog.arrivals != before and now < entry.history.blocked_until:
            entry.history.trial = True
        entry.backlog = backlog
        entry.heard_at = now
        return {entry.deployment_id}

    def _take_container(self, event: ContainerChanged, now: float) -> set[DeploymentId]:
        end = self.fleet.hear_event(event, now)
        entry = self.entries.get(event.deployment_id)
        if entry is None:
            return set()
        history = entry.history
        if end is End.DIED_QUICKLY:
            if self.fleet.lasting(event.deployment_id, history.crashed_at, now):
                history.crashes = 0
            history.crashes += 1
            history.crashed_at = now
        elif end is End.LIVED:
            history.crashes = 0
        elif end is End.START_FAILED:
            history.failures += 1
            history.blocked_until = now + min(START_PAUSE_S_MAX, 2.0**history.failures)
            history.trial = False
            # What never got warm is not kept warm: only those that live count as the past.
            history.peak.restart(self.fleet.live(event.deployment_id), now)
        elif event.state is ContainerState.READY:
            history.failures = 0
            history.blocked_until = 0.0
            history.trial = False
        return {entry.deployment_id}

    def _take_decided(self, decided: ScaleDecided, now: float) -> set[DeploymentId]:
        """Take over what a previous leader decided, or overrule what it decides too late."""
        if decided.generation >= self.generation:
            return set()
        entry = self._entry(decided.deployment_id, now)
        if not self.caught_up:
            entry.target, entry.failing = decided.target, decided.failing
            entry.history.peak.restart(decided.target, now)
            entry.say_again = decided.target > 0
        elif decided.target != entry.target:
            entry.say_again = True
        return {entry.deployment_id}

    def _decide(self, entry: Entry, now: float) -> ScaleDecided | None:
        observed = self._observe(entry, now)
        policy = entry.policy or self._policy_of_unknown(entry, now)
        if policy is None:
            self._awake.add(entry.deployment_id)
            return None
        if entry.history.crashes and self.fleet.lasting(
            entry.deployment_id, entry.history.crashed_at, now
        ):
            entry.history.crashes = 0
        # What may not be started is never warm: it must not count as needed later either.
        served = min(needed(policy, observed), allowed(policy, observed, entry.history, now))
        entry.history.peak.observe(served, now)
        plan = decide(policy, observed, entry.history, now)
        self._keep_awake(entry, plan)
        failed = failing(policy, observed, entry.history, now)
        told = _count(failed) != _count(entry.failing)
        previous, entry.target = entry.target, plan.target
        again = entry.say_again or (plan.target > 0 and now - entry.decided_at >= REAFFIRM_S)
        if plan.target == previous and not again and not told:
            return None
        same = told and plan.target == previous
        reason = plan.reason if same else _why(plan, previous, takeover=entry.say_again)
        entry.decided_at, entry.say_again, entry.failing = now, False, failed
        return ScaleDecided(
            deployment_id=entry.deployment_id,
            target=plan.target,
            previous=previous,
            reason=reason,
            generation=self.generation,
            queued=observed.queued,
            in_flight=observed.in_flight,
            trace=entry.backlog.trace if entry.backlog and observed.queued else "",
            failing=failed,
        )

    def _observe(self, entry: Entry, now: float) -> Observed:
        fleet, deployment_id = self.fleet, entry.deployment_id
        queued, in_flight = 0, fleet.in_flight(deployment_id)
        if entry.backlog is not None and now - entry.heard_at <= BACKLOG_KEPT_S:
            queued, in_flight = entry.backlog.queued, entry.backlog.in_flight
        return Observed(
            queued=queued,
            in_flight=in_flight,
            live=fleet.live(deployment_id),
            ready=fleet.ready(deployment_id),
            decided=entry.target,
            forked=fleet.forked(deployment_id),
        )

    def _policy_of_unknown(self, entry: Entry, now: float) -> Policy | None:
        """Return None while a deployment may still be heard of; after that it counts as deleted."""
        if now - entry.first_heard_at < UNKNOWN_KEPT_S:
            return None
        return Policy(maximum=0, deleted=True)

    def _keep_awake(self, entry: Entry, plan: Plan) -> None:
        """Let ticks look at what may change by time alone; drop what is gone and at zero."""
        at_rest = plan.target == 0 and plan.reason is Reason.IDLE
        if not at_rest:
            self._awake.add(entry.deployment_id)
        else:
            self._awake.discard(entry.deployment_id)
        if plan.reason is Reason.DELETED:
            self._awake.discard(entry.deployment_id)
        if entry.deployment is None and plan.reason is Reason.DELETED:
            del self.entries[entry.deployment_id]


def _must(holds: bool, invariant: str, entry: Entry) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise InvariantError("platform.bug", f"autoscaler {invariant}: {entry}")


def _count(failed: Failing | None) -> tuple[str, int]:
    """Return what of it is news: not the time that passes."""
    return (failed.why, failed.in_a_row) if failed is not None else ("", 0)


def _why(plan: Plan, previous: int, *, takeover: bool) -> Reason:
    """Return the word for a change (or for saying the same again)."""
    if plan.target == previous:
        return Reason.TAKEOVER if takeover else Reason.REAFFIRMED
    if plan.reason in {Reason.BACKLOG, Reason.MINIMUM} and plan.target < previous:
        return Reason.IDLE
    return plan.reason
