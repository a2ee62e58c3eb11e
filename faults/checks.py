"""What must have become of compositions, events, schedules and maps. Pure, and without a line of the platform.

The order of things is the order in which the recorder heard of them: it is one process with one file.

Invariants:
    F9  what waits for others begins only when each of them has ended, in the run that its record names
    F10 every accepted event was handled by each of its triggers, and by one invocation of each only
    F11 every due time between the first and the last that fired has fired, each as one invocation
    F12 a number in a map is the sum of what was added; of those who may write a key first, one did, it
        was told so, and its value is there
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

HANDLED_BY = ("event", "batched")
EVERY_S = 2.0
Lines = Sequence[Mapping[str, Any]]


def check_others(
    others: Lines, effects: Lines, records: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], dict[str, Any]]:
    """Return the violations, and what was counted."""
    said: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in others:
        said[line["what"]].append(line)
    violations: list[str] = []
    figures = {
        "composed": _compositions(said["composed"], effects, records, violations),
        "events": _events(said["event"], effects, violations),
        "due times": _due_times(effects, violations),
        "map writes": _maps(said, violations),
    }
    return violations, figures


def _compositions(
    composed: Lines,
    effects: Lines,
    records: Mapping[str, Mapping[str, Any]],
    violations: list[str],
) -> int:
    began: dict[str, int] = {}
    ended: dict[tuple[str, str], int] = {}
    for place, effect in enumerate(effects):
        if effect["effect"] == "start":
            began.setdefault(effect["id"], place)
        elif effect["effect"] == "end":
            ended[effect["id"], effect["run"]] = place
    for one in composed:
        name = one["id"]
        for member in one["after"]:
            end = ended.get((member, _run_of(records.get(member, {}))))
            begin = began.get(name)
            if begin is not None and (end is None or begin < end):
                violations.append(f"F9 {name} began before {member}, which it waits for, had ended")
    return len(composed)


def _run_of(record: Mapping[str, Any]) -> str:
    try:
        _, run = msgspec.json.decode(record["outcome"]["result"]["data"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return ""
    return str(run)


def _events(events: Lines, effects: Lines, violations: list[str]) -> int:
    for way in HANDLED_BY:
        by: dict[str, set[str]] = defaultdict(set)
        for effect in effects:
            if effect["effect"] == way:
                by[effect["event"]].add(effect["id"])
        for line in events:
            handlers = by.get(line["event"], set())
            if not handlers:
                violations.append(f"F10 {line['event']} was accepted and never handled ({way})")
            elif len(handlers) > 1:
                violations.append(f"F10 {line['event']} was handled by {sorted(handlers)} ({way})")
    return len(events)


def _due_times(effects: Lines, violations: list[str]) -> int:
    fired: dict[float, set[str]] = defaultdict(set)
    for effect in effects:
        if effect["effect"] == "tick":
            fired[effect["due"]].add(effect["id"])
    for due, names in fired.items():
        if len(names) > 1:
            violations.append(f"F11 {due} fired as {sorted(names)}")
    if fired:
        first, last = min(fired), max(fired)
        slots = round((last - first) / EVERY_S) + 1
        missing = [n for n in range(slots) if first + n * EVERY_S not in fired]
        violations += [f"F11 {first + n * EVERY_S} was due and did not fire" for n in missing]
    return len(fired)


def _maps(said: Mapping[str, Lines], violations: list[str]) -> int:
    sums: dict[str, int] = defaultdict(int)
    for line in said.get("added", ()):
        sums[line["key"]] += line["by"]
    held = {line["key"]: line["held"] for line in said.get("count", ())}
    for key, total in sums.items():
        if held.get(key) != total:
            violations.append(f"F12 {key} holds {held.get(key)}, and {total} was added")
    winners: dict[str, list[str]] = defaultdict(list)
    for line in said.get("race", ()):
        winners[line["key"]] += [line["value"]] if line["stored"] else []
    holds = {line["key"]: line["holds"] for line in said.get("holds", ())}
    for key, values in winners.items():
        if len(values) != 1:
            violations.append(f"F12 {len(values)} were told that they wrote {key} first")
        elif holds.get(key) != values[0]:
            violations.append(f"F12 {key} holds {holds.get(key)!r}, and {values[0]!r} wrote it")
    return len(said.get("added", ())) + len(said.get("race", ()))
