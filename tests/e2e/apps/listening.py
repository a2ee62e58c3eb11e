"""Functions that events call."""

from __future__ import annotations

from glowplug import BatchFailedError, Event, on_event, send_event

SMALL = {"cpu": 0.01, "memory": 64, "keep_warm_seconds": 30}


@on_event("com.tests.singly.*", filter={"suffix": {"subject": ".txt"}}, **SMALL)
def singly(event: Event, context):
    print("singly", event.id, event.subject)
    return {
        "id": event.id,
        "data": list(event.data) if isinstance(event.data, bytes) else event.data,
        "extensions": event.extensions,
        "attempt": context.attempt,
    }


@on_event("com.tests.batch", batch=5, window=1.0, retries=2, **SMALL)
def batched(events: list[Event], context):
    """Fails what its data says, in the way that it says."""
    failed = [event for event in events if event.data["works_at"] > context.attempt]
    print("batched", context.attempt, sorted(event.data["number"] for event in events))
    if not failed:
        return len(events)
    if failed[0].data.get("way") == "raise":
        raise BatchFailedError(failed, "not these")
    return {"batchItemFailures": [{"itemIdentifier": event.id} for event in failed]}


@on_event("com.tests.chain", **SMALL)
def chained(event: Event):
    """Sends an event itself; its id makes a second attempt say the same."""
    return send_event(
        "com.tests.singly.chained",
        {"because_of": event.id},
        source="/chain",
        subject="chained.txt",
        id=f"{event.id}-1",
    )


@on_event("com.tests.burst", cpu=0.01, memory=64, keep_warm_seconds=30, concurrent_requests=8)
def burst(event: Event):
    return event.data
