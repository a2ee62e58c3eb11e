"""Whether a deployment's schedule says something, asked when it is deployed."""

from __future__ import annotations

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.deployment import DeploymentSpec, FunctionKind
from glowplug_runtime.due_times import due_times


def check_schedule(spec: DeploymentSpec) -> dict[str, str]:
    """Return what is wrong about a spec's schedule, by field."""
    if spec.kind is not FunctionKind.SCHEDULE:
        return {} if spec.schedule is None else {"schedule": f"is not for a {spec.kind.value}"}
    if spec.schedule is None:
        return {"schedule": "is missing"}
    if spec.is_generator:
        return {"is_generator": "a schedule's function has nobody to give its items to"}
    try:
        due_times(spec.schedule.when, spec.schedule.timezone)
    except InvalidRequestError as error:
        fields = error.details["fields"]
        assert isinstance(fields, dict)  # noqa: S101
        return {str(field): str(wrong) for field, wrong in fields.items()}
    return {}
