"""Events and triggers: what was said to have happened, and which functions want to know.

An event is a CloudEvent. It is stored once, on a subject made from its `source` and `id`; the router
makes durable invocations of it for every trigger that it matches. A trigger is part of a deployment:
deploying an `@on_event` function makes it, the next version replaces it, deleting ends it.
"""

from __future__ import annotations

from enum import StrEnum

from glowplug_contracts.ids import DeploymentId, EventId, WorkspaceId
from glowplug_contracts.messages import Message


class DataForm(StrEnum):
    """What an event's data is: NONE, JSON text, UTF-8 TEXT, or any BYTES."""

    NONE = "none"
    JSON = "json"
    TEXT = "text"
    BYTES = "bytes"


class CloudEvent(Message, frozen=True, kw_only=True):
    """One event in the words of CloudEvents 1.0; attributes that are not there are empty.

    Attributes:
        extensions: names to values, written as the specification's canonical strings.
        data: the bytes that `form` describes; JSON is kept as it came.
    """

    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    datacontenttype: str = ""
    dataschema: str = ""
    extensions: dict[str, str] = {}
    form: DataForm = DataForm.NONE
    data: bytes = b""


class StoredEvent(Message, frozen=True, kw_only=True):
    """An event as it stands in the stream: accepted, on disk, and found again by `event_id`.

    `event_id` follows from workspace, source and id: the same pair again is the same event.
    """

    event_id: EventId
    workspace: WorkspaceId
    event: CloudEvent
    accepted_at: float = 0.0
    trace: str = ""


class RawEvent(Message, frozen=True, kw_only=True):
    """What an application published straight to the broker: bytes that nobody has looked at yet."""

    data: bytes


class EventFilter(Message, frozen=True, kw_only=True):
    """One node of a filter, in the dialects of the CloudEvents subscriptions API.

    `kind` is "exact", "prefix" or "suffix" (every one of `attributes` is so), "all", "any" or "not"
    (of `filters`; "not" has one).
    """

    kind: str
    attributes: dict[str, str] = {}
    filters: tuple[EventFilter, ...] = ()


class TriggerSpec(Message, frozen=True, kw_only=True):
    """Which events a function wants, and how many at a time.

    Attributes:
        patterns: globs over the event's type, or after "subject:" over its subject; one must match.
        filter: must match too, where there is one.
        batch: events in one invocation, at most; 0 = one event by itself, not in a list.
        window_s: how long the first event of a batch waits for others.
    """

    patterns: tuple[str, ...]
    filter: EventFilter | None = None
    batch: int = 0
    window_s: float = 0.0


class RouterPosition(Message, frozen=True, kw_only=True):
    """How far a shard's router has come, as stored in the `routers` bucket (key: shard-N).

    Attributes:
        sequence: everything up to here is settled for triggers that take events one by one.
        oldest: a new owner reads from here on: something at or after it may not be in an invocation yet.
    """

    sequence: int = 0
    oldest: int = 0


class TriggerCursor(Message, frozen=True, kw_only=True):
    """The last batch of a trigger, as stored in the `triggers` bucket (key: workspace.name).

    Written before the batch's invocation is made, so that a new owner makes the same batch: the
    matching events after `since` up to and including `until`. `ended`: from `until` on the trigger took
    events one by one.
    """

    since: int = 0
    until: int = 0
    deployment_id: DeploymentId = DeploymentId("")
    ended: bool = False
