"""Tasks that wait for each other, accepted together: checked, and made into records.

A task may only wait for earlier ones of its composition, so there is no circle. Those that wait name the
others in `after`, the others name them in `then`; the scheduler counts ends from either side's records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from glowplug_contracts.ids import DeploymentId, InvocationId, check_digest, check_id
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.http import ComposedTask
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX, Payload
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.inputs import invalid
from glowplug_gateway.intake import new_record
from glowplug_gateway.put_options import check_options

TASKS_MAX = 1_000
# Whoever waits for a task is named in a header of its record.
WAITERS_MAX = 200
CONDITIONS = frozenset({"succeeded", "failed", "ended"})
WAYS = frozenset({"", "value", "list", "error"})


def check_composition(tasks: Sequence[ComposedTask]) -> None:
    """Check a composition. Raises: InvalidRequestError naming the wrong fields."""
    if not 0 < len(tasks) <= TASKS_MAX:
        raise invalid({"tasks": f"may be 1 to {TASKS_MAX}"})
    waiters: dict[InvocationId, int] = {}
    wrong: dict[str, str] = {}
    for place, task in enumerate(tasks):
        check_id("invocation", task.task_id)
        check_options(task.options)
        if (reason := _wrong(task, waiters)) is not None:
            wrong[f"tasks[{place}]"] = reason
        for member in task.after:
            if member in waiters:
                waiters[member] += 1
                if waiters[member] > WAITERS_MAX:
                    wrong[f"tasks[{place}].after"] = f"{member} has more than {WAITERS_MAX} waiters"
        waiters[task.task_id] = 0
    if wrong:
        raise invalid(wrong)


def _wrong(task: ComposedTask, known: Mapping[InvocationId, int]) -> str | None:
    said = task.options
    reasons = (
        (task.task_id in known, "its id is there twice"),
        (said.idempotency_key, "a composition takes no idempotency key"),
        (any(member not in known for member in task.after), "after must name earlier tasks"),
        (len(set(task.after)) != len(task.after), "after names one task twice"),
        (task.after_if not in CONDITIONS, f"after_if must be one of {sorted(CONDITIONS)}"),
        (task.pass_as not in WAYS, f"pass_as must be one of {sorted(WAYS)}"),
        (task.pass_as and not task.after, "there is nothing to pass"),
        (len(task.after) != 1 and task.pass_as == "value", "value is passed of one task"),  # noqa: S105
        (
            task.after and (said.delay_s or said.eta or said.ttl_s or said.fifo_key),
            "what waits for others takes no delay, eta, ttl or fifo key",
        ),
        (len(task.args) > INLINE_BYTES_MAX, "send large arguments as a blob"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def records_of(
    tasks: Sequence[ComposedTask],
    deployments: Mapping[DeploymentId, Deployment],
    parent: str,
    trace: str,
    unix: float,
) -> list[InvocationRecord]:
    """Return the records of a checked composition, in its order."""
    waiters: dict[InvocationId, list[InvocationId]] = {}
    for task in tasks:
        for member in task.after:
            waiters.setdefault(member, []).append(task.task_id)
    made = []
    for task in tasks:
        said = msgspec.structs.replace(task.options, parent=parent) if parent else task.options
        deployment = deployments[task.deployment_id]
        record = new_record(deployment, task.task_id, _args(task), said, trace, unix, {})
        made.append(
            msgspec.structs.replace(
                record,
                after=task.after,
                after_if=task.after_if,
                pass_as=task.pass_as,
                then=tuple(waiters.get(task.task_id, ())),
                # The time until those that it waits for have ended is not its own.
                expires_at=0.0 if task.after else record.expires_at,
            )
        )
    return made


def _args(task: ComposedTask) -> Payload:
    if task.blob is not None:
        return Payload(format=task.format, blob=check_digest(task.blob), size=task.size)
    return Payload(format=task.format, data=task.args, size=len(task.args))
