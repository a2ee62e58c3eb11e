"""The decision for one deployment: what it needs now, what it needed lately, what its failures forbid.

Pure functions. Source: vote counting over a window as in dask's adaptive scaling.
"""

from __future__ import annotations

import msgspec
from glowplug_contracts.messages.scale import Failing

from glowplug_autoscaler.policy import Policy, Reason
from glowplug_autoscaler.signals import Peak

START_PAUSE_S_MAX = 60.0
# From nothing, so many containers may start at once; then as many again as are ready. A queue that the
# first few drain at once would otherwise start one for each of its inputs, and drown the host in starts.
FIRST_STEP = 4
# Where a worker forks a deployment's containers from a template, a start costs about a quarter of a plain one: steps
# are so many times as large.
FORKED_STEP = 4
# While inputs wait, a container that crashed soon after it was ready is replaced after this time at most.
CRASH_PAUSE_S = 2.0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What is there now: inputs waiting and running; containers live or on their way, and ready ones.

    `decided` is the target that stands: a step is taken from there. `forked`: a worker has a template of it.
    """

    queued: int = 0
    in_flight: int = 0
    live: int = 0
    ready: int = 0
    decided: int = 0
    forked: bool = False


class History(msgspec.Struct, kw_only=True):
    """What was: recent needs, starts that failed, and containers that crashed soon after.

    Attributes:
        failures: failed starts since a container last got ready.
        blocked_until: monotonic seconds; no new container before, but for a trial.
        trial: a new invocation arrived during the pause and may try one container.
        crashes: quick deaths since a container last lived for long. One alone makes no pause: such a
            container is replaced at once.
        crashed_at: when the last of them was heard.
    """

    peak: Peak
    failures: int = 0
    blocked_until: float = 0.0
    trial: bool = False
    crashes: int = 0
    crashed_at: float = float("-inf")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one deployment."""

    target: int
    reason: Reason


def needed(policy: Policy, observed: Observed) -> int:
    """Return how many containers the waiting and running inputs justify, 0 … maximum.

    While there are any, `buffer` more are ready for the next ones.
    """
    inputs = observed.queued + observed.in_flight
    if inputs == 0:
        return 0
    return min(-(-inputs // policy.tasks_per_container) + policy.buffer, policy.maximum)


def allowed(policy: Policy, observed: Observed, history: History, now: float) -> int:
    """Return how many containers there may be: a step more than are ready, less after failures."""
    if now < history.blocked_until:
        return min(max(observed.live, int(history.trial)), policy.maximum)
    if now < history.crashed_at + crash_pause_s(observed, history):
        return min(observed.live, policy.maximum)
    times = FORKED_STEP if observed.forked else 1
    first = max(FIRST_STEP * times + policy.buffer, policy.minimum)
    step = max(first, observed.ready * (1 + times), observed.decided)
    return min(step, policy.maximum)


def crash_pause_s(observed: Observed, history: History) -> float:
    """Return how long after the last quick death no container is started: 0, 2, 4, 8 … seconds."""
    if history.crashes <= 1:
        return 0.0
    pause_s = min(START_PAUSE_S_MAX, 2.0 ** min(history.crashes - 1, 10))
    return min(pause_s, CRASH_PAUSE_S) if observed.queued > 0 else pause_s


def failing(policy: Policy, observed: Observed, history: History, now: float) -> Failing | None:
    """Return what is to be said of containers that fail one after the other."""
    if policy.deleted:
        return None
    if history.failures > 0:
        held_s = max(0.0, history.blocked_until - now)
        return Failing(why=Reason.START_FAILED, in_a_row=history.failures, held_s=held_s)
    if history.crashes > 1:
        held_s = max(0.0, history.crashed_at + crash_pause_s(observed, history) - now)
        return Failing(why=Reason.CRASHED, in_a_row=history.crashes, held_s=held_s)
    return None


def decide(policy: Policy, observed: Observed, history: History, now: float) -> Plan:
    """Return the target of one deployment.

    Args:
        policy: its bounds.
        observed: what waits, runs and lives now.
        history: what was needed within the keep-warm window, and which starts failed.
        now: monotonic seconds.
    """
    if policy.deleted:
        return Plan(target=0, reason=Reason.DELETED)
    need = needed(policy, observed)
    warm = min(max(need, history.peak.highest(now)), policy.maximum)
    wanted = max(warm, policy.minimum)
    target = min(wanted, allowed(policy, observed, history, now))
    if now < history.blocked_until and history.trial and target > observed.live:
        reason = Reason.TRIAL
    elif target < wanted and now < history.blocked_until:
        reason = Reason.START_FAILED
    elif target < wanted and now < history.crashed_at + crash_pause_s(observed, history):
        reason = Reason.CRASHED
    elif target < wanted:
        reason = Reason.BACKLOG  # a step on the way there
    elif target == warm and need > 0:
        reason = Reason.BACKLOG
    elif target == policy.minimum > 0:
        reason = Reason.MINIMUM
    else:
        reason = Reason.IDLE
    return Plan(target=target, reason=reason)
