"""Events and triggers, with sensible defaults."""

from __future__ import annotations

import msgspec
from glowplug_contracts.cloudevents import event_key
from glowplug_contracts.ids import DeploymentId
from glowplug_contracts.messages.deployment import Deployment, FunctionKind
from glowplug_contracts.messages.event import (
    CloudEvent,
    DataForm,
    EventFilter,
    StoredEvent,
    TriggerSpec,
)

from tests.support.builders_scale import WORKSPACE, a_deployment


def an_event(key: str = "1", **more: object) -> CloudEvent:
    fields = {
        "source": "/tests",
        "type": "com.example.made",
        "datacontenttype": "application/json",
        "form": DataForm.JSON,
        "data": b'{"number":1}',
    }
    return CloudEvent(id=key, **(fields | more))


def stored(key: str = "1", **more: object) -> StoredEvent:
    event = an_event(key, **more)
    return StoredEvent(
        event_id=event_key(WORKSPACE, event.source, event.id), workspace=WORKSPACE, event=event
    )


def a_trigger(
    name: str = "t",
    *patterns: str,
    version: int = 1,
    batch: int = 0,
    window_s: float = 0.0,
    wanted: EventFilter | None = None,
    **more: object,
) -> Deployment:
    """Version `version` of an event trigger."""
    plain = a_deployment(name)
    spec = msgspec.structs.replace(
        plain.spec,
        kind=FunctionKind.ON_EVENT,
        trigger=TriggerSpec(
            patterns=patterns or ("com.example.**",), batch=batch, window_s=window_s, filter=wanted
        ),
        **more,
    )
    return msgspec.structs.replace(
        plain, spec=spec, version=version, deployment_id=DeploymentId(f"dep_{name}_{version}")
    )
