"""What an event becomes for a trigger: the durable invocation, and the id that makes it one only. Pure.

The event router makes them from events as they come, the gateway when events are replayed. Ids follow
from what is delivered to whom, so that whoever makes the same one again meets the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from glowplug_contracts.cloudevents import arguments_of_many, arguments_of_one, write_structured
from glowplug_contracts.ids import EventId, InvocationId, WorkspaceId, derived
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.event import CloudEvent, StoredEvent
from glowplug_contracts.messages.invocation import Format, Input, Payload
from glowplug_contracts.messages.record import InvocationRecord

# So many bytes of events go into one invocation: they stand in its record. More than one event's most.
BATCH_BYTES_MAX: Final = 240 * 1024

# Of the platform itself: a version was deployed or deleted. The router reads its triggers anew there.
DEPLOYMENTS_SOURCE: Final = "glowplug:deployments"
DEPLOYED_TYPE: Final = "glowplug.deployment.deployed"
DELETED_TYPE: Final = "glowplug.deployment.deleted"
# What an application published past the gateway and was no event.
REFUSED_SOURCE: Final = "glowplug:ingress"
REFUSED_TYPE: Final = "glowplug.event.refused"

HEADER_TRIGGER: Final = "glowplug-trigger"


def one_event_id(workspace: WorkspaceId, trigger: str, event_id: EventId) -> InvocationId:
    """Return the id of an event's delivery to a trigger."""
    return derived(workspace, "event", f"{trigger}/{event_id}")


def batch_id(workspace: WorkspaceId, trigger: str, since: int, until: int) -> InvocationId:
    """Return the id of a batch: a trigger's events in (since, until] of the stream."""
    return derived(workspace, "batch", f"{trigger}/{since}/{until}")


def replayed_id(
    workspace: WorkspaceId, trigger: str, event_id: EventId, replay: str
) -> InvocationId:
    """Return the id of an event's delivery to a trigger in a replay."""
    return derived(workspace, "event-replay", f"{trigger}/{event_id}/{replay}")


def triggered_record(
    deployment: Deployment,
    invocation_id: InvocationId,
    events: Sequence[StoredEvent],
    now_unix: float,
) -> InvocationRecord:
    """Return the invocation that delivers these events (one, unless its trigger takes batches)."""
    spec = deployment.spec
    bodies = [write_structured(each.event) for each in events]
    batch = spec.trigger.batch if spec.trigger is not None else 0
    data = arguments_of_many(bodies) if batch else arguments_of_one(bodies[0])
    return InvocationRecord(
        invocation_id=invocation_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        input=Input(args=Payload(format=Format.JSON, data=data, size=len(data))),
        priority=spec.priority,
        timeout_s=spec.timeout_s,
        retry=spec.retry,
        accepted_at=now_unix,
        expires_at=now_unix + spec.expires_s if spec.expires_s > 0 else 0.0,
        keep_result_s=spec.keep_result_s,
        trace=events[0].trace,
        headers=_headers(spec.name, events),
        rate=spec.rate,
        callback_url=spec.callback_url,
        dead_letter=spec.dead_letter_keep_s > 0,
        dead_letter_keep_s=spec.dead_letter_keep_s,
        name=spec.name,
        app=spec.app,
        events=len(events) if batch else 0,
    )


def _headers(trigger: str, events: Sequence[StoredEvent]) -> dict[str, str]:
    if len(events) != 1:
        return {HEADER_TRIGGER: trigger}
    event = events[0].event
    return {HEADER_TRIGGER: trigger} | {
        f"ce-{name}": value
        for name in ("id", "source", "type", "subject")
        if (value := getattr(event, name))
    }


def deployment_event(name: str, deployment_id: str, *, deleted: bool) -> CloudEvent:
    """Return what the gateway tells when a name leads to another version, or to none."""
    return CloudEvent(
        id=f"{deployment_id}/{'deleted' if deleted else 'deployed'}",
        source=DEPLOYMENTS_SOURCE,
        type=DELETED_TYPE if deleted else DEPLOYED_TYPE,
        subject=name,
    )
