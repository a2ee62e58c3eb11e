"""Whether the dispatcher knows all that its records' stream holds. Pure.

A reader of a stream can leave messages out, whosever mistake it is; what a takeover does not hear of would wait
for the next takeover. So the records are read a second time soon after a takeover and after each reconnect, and
now and then after that. What the second reading has and we have not is read once more by itself, and then
believed.

An audit that finds nothing to mend proves something: below a floor stands nothing that is still to be done. A
record that ended is never written again where it stands, so that stays true for ever, and is kept for the next
owner: it reads from there on, however many ended records are retained.
"""

from __future__ import annotations

import heapq

from glowplug_contracts.messages.invocation import is_terminal

from glowplug_scheduler.auditing import (
    AUDIT_EVERY_S,
    AUDIT_REST_MAX_S,
    AUDIT_SHARE,
    BELOW_MAX,
    DEEP_EVERY_S,
    DOUBTS_MAX,
    ENDED_LATELY_S,
    STUCK_S,
)
from glowplug_scheduler.dispatch_records import believe, pin_start, tell_waiters
from glowplug_scheduler.dispatch_state import ShardState
from glowplug_scheduler.dispatch_types import (
    AuditEnded,
    AuditRecords,
    Decision,
    KeepFloor,
    RecordAudited,
    RecordSeen,
    RecordVerified,
    ScanRecords,
    VerifyRecord,
)


def pass_audit(state: ShardState, now: float, out: list[Decision]) -> None:
    """Begin an audit that is due; notice a reader that stands still."""
    audit = state.audit
    if audit.overdue_at <= now:
        audit.overdue_at = float("inf")
        if state.records_high < audit.overdue:
            rescan(state, out)
    if audit.due_at > now or audit.running or not state.records_read:
        return
    audit.due_at = float("inf")
    audit.running = True
    audit.started_at, audit.seen = now, 0
    # Below the floor our own reader never comes: what stands there is ours to know already.
    audit.high = max(state.records_high, audit.floor - 1)
    audit.doubts.clear()
    deep = audit.deep_at <= now
    if deep:
        audit.deep_at = now + DEEP_EVERY_S
    out.append(AuditRecords(1 if deep else audit.floor))


def see_audited(state: ShardState, event: RecordAudited, now: float, out: list[Decision]) -> None:
    """Compare a record that the audit has read with what we know of it."""
    audit, record = state.audit, event.record
    audit.seen = max(audit.seen, record.sequence)
    if record.sequence > audit.high:
        return  # our own reader comes to it
    tell_waiters(state, record, now, out)
    pin_start(state, record, now)
    item = state.items.get(record.invocation_id)
    if item is None:  # beyond our bound, ScanRecords brings it
        unknown = not is_terminal(record.state) and not _ended_lately(state, record, now)
        missing = unknown and not state.overflowed
    else:
        missing = item.durable and item.sequence < record.sequence
    if missing:
        audit.doubts[record.invocation_id] = record.workspace, record.sequence


def end_audit(state: ShardState, event: AuditEnded, now: float, out: list[Decision]) -> None:
    """All is read: have the doubts settled, or keep what is proved."""
    audit = state.audit
    audit.running = False
    rest_s = min(max(AUDIT_EVERY_S, AUDIT_SHARE * (now - audit.started_at)), AUDIT_REST_MAX_S)
    audit.due_at = min(audit.due_at, now + rest_s)
    doubts, audit.doubts = audit.doubts, {}
    if not state.records_read:
        return
    if audit.seen > audit.high:
        audit.overdue, audit.overdue_at = audit.seen, now + STUCK_S
    if len(doubts) > DOUBTS_MAX:
        audit.mended += len(doubts)
        rescan(state, out)
    elif doubts:
        audit.soon(now)
        out.extend(VerifyRecord(name, *doubt) for name, doubt in doubts.items())
    elif event.whole and audit.seen >= audit.high and not state.overflowed:
        floor, below = _floor(state, now)
        if floor > audit.floor:
            audit.floor = floor
            out.append(KeepFloor(floor, below))


def see_verified(state: ShardState, event: RecordVerified, now: float, out: list[Decision]) -> None:
    """Believe a record that was left out, unless its news came meanwhile."""
    record = event.record
    item = state.items.get(record.invocation_id)
    if item is None:
        if is_terminal(record.state) or _ended_lately(state, record, now):
            return
    elif not item.durable or record.sequence <= item.sequence:
        return
    state.audit.mended += 1
    believe(state, record, now, out)


def rescan(state: ShardState, out: list[Decision]) -> None:
    """Read everything again; what must know of others waits until that is done."""
    state.records_high = 0
    state.keys.close()
    state.records_read = False
    out.append(ScanRecords(state.audit.floor))


def _ended_lately(state: ShardState, record: RecordSeen, now: float) -> bool:
    return state.gone.within(record.invocation_id, now, ENDED_LATELY_S)


def _floor(state: ShardState, now: float) -> tuple[int, tuple[int, ...]]:
    """Return the lowest sequence that the next owner has to read from, and what it needs below."""
    audit = state.audit
    while audit.rated and audit.rated[0][1] <= now:
        audit.rated.popleft()
    durable = (item.sequence for item in state.items.values() if item.durable)
    live = heapq.nsmallest(BELOW_MAX + 1, durable)
    floor = live[BELOW_MAX] if len(live) > BELOW_MAX else audit.high + 1  # as far as was read twice
    # Ended ones that the next owner must hear of: others wait for them, they count for a rate, or their
    # code may still run.
    floor = min(
        [
            floor,
            audit.high + 1,
            *state.followups.lowest(),
            *(sequence for sequence, _ in audit.rated),
            *(sequence for _, sequence in state.leaving.values()),
        ]
    )
    return floor, tuple(sequence for sequence in live if sequence < floor)
