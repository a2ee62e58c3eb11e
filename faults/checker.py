"""Is everything as promised? Pure: evidence in, violations out. It imports nothing of the platform.

Evidence: what was acknowledged (accepted, answers), what user code says that it did (effects), every write of
the records that was seen (history), the records as they lie in the stream (records), and workers' beats.

Invariants:
    F1  nothing acknowledged is lost: each accepted id has a record, and it is terminal at the end
    F2  one outcome: no record changes after it was terminal, as the sequence of its writes shows
    F3  a success names a run that user code really finished, and its arguments' key
    F4  no try beyond the policy: runs ≤ attempts, user tries ≤ retries + 1, losses ≤ the platform's bound
    F5  the end is one that the kind may have (a short task succeeds, a poison one is DEAD …)
    F6  every answer of an interactive call is a run of it; the same id has the same answer, for as long as
        the broker lives (outcomes of calls are kept in its memory: architecture, "interactive")
    F7  at no beat a GPU belongs to two containers, or more memory or CPU is promised than is there
    F8  nothing is left: processes, cgroups, mounts, namespaces, sockets
    F13 nothing runs that nobody asked for
    F14 at the end every replica of a stream has all of it
    F9 to F12 are those of `checks.py`: compositions, events, schedules, maps
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from faults.checks import check_others

TERMINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "expired", "dead"})
LOST_MAX = 3
USER_RETRIES = {"flaky": 2, "failing": 2}
ENDS: dict[str, frozenset[str]] = {
    "short": frozenset({"succeeded"}),
    "flaky": frozenset({"succeeded"}),
    "failing": frozenset({"failed"}),
    "slow": frozenset({"succeeded", "cancelled"}),
    "crash": frozenset({"succeeded"}),
    "poison": frozenset({"dead"}),
    "late": frozenset({"timed_out"}),
    "greedy": frozenset({"succeeded"}),
}


class Evidence(msgspec.Struct, kw_only=True):
    """What the campaign saw; see the module."""

    accepted: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    effects: list[dict[str, Any]] = []
    history: list[list[Any]] = []
    records: dict[str, dict[str, Any]] = {}
    beats: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    left: list[str] = []
    behind: list[str] = []


class Verdict(msgspec.Struct, kw_only=True):
    """What was found: a list of violations, and figures."""

    violations: list[str] = []
    figures: dict[str, Any] = {}


def check(evidence: Evidence) -> Verdict:
    """Return every violation, and what was counted."""
    verdict = Verdict(violations=[], figures={})
    runs = _runs(evidence.effects)
    _durable(evidence, runs, verdict)
    _history(evidence, verdict)
    _answers(evidence, runs, verdict)
    _strangers(evidence, runs, verdict)
    _capacity(evidence.beats, verdict)
    violations, figures = check_others(evidence.others, evidence.effects, evidence.records)
    verdict.violations += violations
    verdict.figures |= figures
    verdict.violations += [f"F8 left behind: {what}" for what in evidence.left]
    verdict.figures["left behind"] = len(evidence.left)
    verdict.violations += [f"F14 {replica}" for replica in evidence.behind]
    return verdict


def _runs(effects: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, set[str]]]:
    """Return id -> effect -> run names."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for effect in effects:
        found[effect["id"]][effect["effect"]].add(effect["run"])
    return found


def _durable(evidence: Evidence, runs: Mapping[str, Any], verdict: Verdict) -> None:
    ends: Counter[str] = Counter()
    lost: list[str] = []
    dead: list[str] = []
    again = 0
    for task in evidence.accepted:
        name, kind = task["id"], task["kind"]
        record = evidence.records.get(name)
        if record is None or record.get("state", "accepted") not in TERMINAL:
            lost.append(name)
            state = "no record" if record is None else record.get("state", "accepted")
            verdict.violations.append(f"F1 {name} ({kind}) was accepted and is lost: {state}")
            continue
        state = record["state"]
        ends[state] += 1
        mine = runs.get(name, {})
        again += len(mine.get("start", ())) > 1
        if state == "succeeded":
            _success(name, task, record, mine, verdict)
        _policy(name, kind, record, mine, verdict)
        allowed = ENDS[kind]
        if kind == "slow" and not task.get("cancelled"):
            allowed = allowed - {"cancelled"}
        if state == "dead" and "dead" not in allowed:
            # Killed with its container more often than the platform tries: an end, and said so, but
            # one that a campaign should hardly ever reach.
            dead.append(name)
            if record.get("lost_attempts", 0) <= LOST_MAX:
                verdict.violations.append(f"F5 {name} ({kind}) is dead after too few losses")
        elif state not in allowed:
            verdict.violations.append(f"F5 {name} ({kind}) ended {state}")
    verdict.figures |= {
        "accepted": len(evidence.accepted),
        "lost": len(lost),
        "ends": dict(ends),
        "run more than once": again,
        "dead by losses": len(dead),
    }


def _success(
    name: str,
    task: Mapping[str, Any],
    record: Mapping[str, Any],
    mine: Mapping[str, set[str]],
    verdict: Verdict,
) -> None:
    outcome = record.get("outcome") or {}
    data = (outcome.get("result") or {}).get("data")
    try:
        key, run = msgspec.json.decode(data)
    except (msgspec.MsgspecError, TypeError, ValueError):
        verdict.violations.append(f"F3 {name} succeeded with no result of its own: {data!r}")
        return
    if key != task["key"]:
        verdict.violations.append(f"F3 {name} has the result of {key}, not of {task['key']}")
    if run not in mine.get("end", ()):
        verdict.violations.append(f"F3 {name}: its result is of no run that ended ({run})")


def _policy(
    name: str,
    kind: str,
    record: Mapping[str, Any],
    mine: Mapping[str, set[str]],
    verdict: Verdict,
) -> None:
    attempts = record.get("attempt", 0)
    started = len(mine.get("start", ()))
    if started > attempts:
        verdict.violations.append(f"F4 {name} ran {started} times in {attempts} attempts")
    tries, most = record.get("user_attempts", 0), USER_RETRIES.get(kind, 0) + 1
    if tries > most:
        verdict.violations.append(f"F4 {name} ({kind}) had {tries} user tries of {most}")
    if record.get("lost_attempts", 0) > LOST_MAX + 1:
        verdict.violations.append(f"F4 {name} was lost {record['lost_attempts']} times")


def _history(evidence: Evidence, verdict: Verdict) -> None:
    """Follow the writes of each record: a terminal one must be the last."""
    states: dict[tuple[int, int], str] = {}
    writes: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for shard, sequence, name, state, _attempt, _lost, expected, _at in evidence.history:
        states[shard, sequence] = state
        writes[name].append((sequence, state, expected))
    twice = unseen = 0
    for name, made in writes.items():
        made.sort()
        for (sequence, state, _), (after, then, _) in zip(made, made[1:], strict=False):
            # "" is the marker of a record whose time to live has ended.
            if state in TERMINAL and then:
                twice += 1
                verdict.violations.append(
                    f"F2 {name} was {state} at {sequence} and {then} at {after}: two outcomes"
                )
    for name, record in evidence.records.items():
        if "invocation_id" not in record:
            continue  # a poison message of ours under a subject of records: it is nobody's
        shard, sequence = record.get("shard", 0), record.get("sequence", 0)
        seen = [one for one in writes.get(name, ()) if one[0] <= sequence]
        if record.get("state", "accepted") in TERMINAL:
            before = record.get("expected", -1)
            if before > 0 and (shard, before) not in states:
                unseen += 1  # replaced before it was sent to the watcher
            elif before > 0 and states[shard, before] in TERMINAL:
                twice += 1
                verdict.violations.append(f"F2 {name} was terminal at {before}: two outcomes")
        if seen and seen[-1][0] == sequence and seen[-1][1] != record.get("state", "accepted"):
            verdict.violations.append(f"F2 {name}: the stored record is not the one announced")
    verdict.figures |= {
        "two outcomes": twice,
        "writes seen": len(evidence.history),
        "accepted at once": sum(one[3] == "running" and one[6] == 0 for one in evidence.history),
        "predecessors not seen": unseen,
    }


def _answers(evidence: Evidence, runs: Mapping[str, Any], verdict: Verdict) -> None:
    first: dict[str, tuple[object, int]] = {}
    for answer in evidence.answers:
        name, said = answer["id"], answer["answer"]
        good = isinstance(said, list) and len(said) == 2 and said[0] == answer["key"]
        if answer["state"] != "succeeded" or not good:
            verdict.violations.append(f"F6 call {name} was answered {answer['state']}: {said!r}")
            continue
        if said[1] not in runs.get(name, {}).get("end", ()):
            verdict.violations.append(f"F6 call {name}: its answer is of no run that ended")
        before, after = answer["epochs"]
        known, since = first.setdefault(name, (said, before))
        if known != said and since == after:
            verdict.violations.append(f"F6 call {name} had two answers: {known}, {said}")
    verdict.figures["calls answered"] = len(first)


def _strangers(evidence: Evidence, runs: Mapping[str, Any], verdict: Verdict) -> None:
    asked = {one["id"] for one in (*evidence.accepted, *evidence.answers)}
    for name, mine in runs.items():
        if "start" in mine and name not in asked:
            verdict.violations.append(f"F13 {name} ran, and nobody was told that it was accepted")


def _capacity(beats: Sequence[Mapping[str, Any]], verdict: Verdict) -> None:
    most = 0
    for beat in beats:
        holders: Counter[str] = Counter()
        memory = cpu = 0
        for container in beat.get("containers", ()):
            if container.get("state") in ("stopped", "failed"):
                continue
            needs = container.get("resources", {})
            memory += needs.get("memory_bytes", 128 * 1024 * 1024)
            cpu += needs.get("cpu_millis", 125)
            holders.update(container.get("gpu_ids", ()))
        most = max(most, len(holders))
        worker = beat["worker_id"]
        for gpu, count in holders.items():
            if count > 1:
                verdict.violations.append(f"F7 {worker}: {gpu} belongs to {count} containers")
        if memory > beat["memory_bytes"]:
            verdict.violations.append(f"F7 {worker}: {memory} bytes of {beat['memory_bytes']}")
        if cpu > beat["cpu_millis"]:
            verdict.violations.append(f"F7 {worker}: {cpu} milli-CPU of {beat['cpu_millis']}")
    verdict.figures |= {"beats": len(beats), "most GPUs in use": most}
