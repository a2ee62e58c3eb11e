"""The invocation that a due time becomes: an ordinary durable record of the version that serves."""

from __future__ import annotations

from glowplug_contracts.ids import InvocationId
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import Format, Input, Payload
from glowplug_contracts.messages.record import InvocationRecord
from glowplug_contracts.messages.schedule import NO_ARGUMENTS

from glowplug_scheduler.schedules import KEPT_S_MIN


def firing(
    deployment: Deployment, invocation_id: InvocationId, due: float, unix: float, trace: str
) -> InvocationRecord:
    """Return the record of one due time."""
    spec = deployment.spec
    return InvocationRecord(
        invocation_id=invocation_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        input=Input(args=Payload(format=Format.PICKLE, data=NO_ARGUMENTS)),
        priority=spec.priority,
        timeout_s=spec.timeout_s,
        retry=spec.retry,
        accepted_at=unix,
        expires_at=unix + spec.expires_s if spec.expires_s > 0 else 0.0,
        keep_result_s=max(spec.keep_result_s, KEPT_S_MIN),
        rate=spec.rate,
        callback_url=spec.callback_url,
        dead_letter=spec.dead_letter_keep_s > 0,
        dead_letter_keep_s=max(spec.dead_letter_keep_s, KEPT_S_MIN),
        trace=trace,
        name=spec.name,
        app=spec.app,
        scheduled_for=due,
    )
