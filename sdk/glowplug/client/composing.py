"""From chains and groups to one request: every part a task with an id, and what it waits for."""

from __future__ import annotations

import base64
import json
from typing import Any

from glowplug.client.calling import dump_arguments
from glowplug.client.here import current_session
from glowplug.client.names import INLINE_BYTES_MAX, PICKLE, new_invocation_id
from glowplug.composing import Chain, Composed, Group, Signature, TaskGroup
from glowplug.tasks import Task

TASKS_MAX = 1_000


async def put(composed: Composed) -> Task | TaskGroup:
    """Have a composition accepted; return what stands for its end."""
    tasks: list[dict[str, Any]] = []
    last = await _add(tasks, composed, (), grouped=False)
    await send(tasks)
    if isinstance(composed, Group) or len(last) > 1:
        return TaskGroup(Task(one) for one in last)
    return Task(last[0])


async def send(tasks: list[dict[str, Any]]) -> None:
    """Have the tasks accepted."""
    if len(tasks) > TASKS_MAX:
        raise ValueError(f"a composition of {len(tasks)} tasks: at most {TASKS_MAX} go together")
    http = await current_session().reach()
    await http.request(
        "POST",
        "/api/v1/compositions",
        body=json.dumps({"tasks": tasks}).encode(),
        headers={"Content-Type": "application/json"},
    )


async def _add(
    tasks: list[dict[str, Any]],
    composed: Composed,
    after: tuple[str, ...],
    *,
    grouped: bool,
    after_if: str = "succeeded",
) -> tuple[str, ...]:
    """Add a part that waits for the tasks `after`; return the ids of its ends.

    `grouped`: what it waits for is a group, whose results come as a list.
    """
    if isinstance(composed, Chain):
        for link in composed.links:
            after = await _add(tasks, link, after, grouped=grouped, after_if=after_if)
            grouped, after_if = isinstance(link, Group), "succeeded"
        return after
    if isinstance(composed, Group):
        ends: list[str] = []
        for member in composed.members:
            ends += await _add(tasks, member, after, grouped=grouped, after_if=after_if)
        return tuple(ends)
    assert isinstance(composed, Signature)  # noqa: S101 - there are no others
    task = await _task(composed)
    if after:
        way = "error" if after_if == "failed" else "list" if grouped else "value"
        task |= {
            "after": list(after),
            "after_if": after_if,
            "pass_as": "" if composed.immutable else way,
        }
    tasks.append(task)
    mine = (str(task["task_id"]),)
    for follower in composed.successors:
        await _add(tasks, follower, mine, grouped=False)
    for follower in composed.rescuers:
        await _add(tasks, follower, mine, grouped=False, after_if="failed")
    return mine


async def _task(signature: Signature) -> dict[str, Any]:
    session = current_session()
    deployed = await session.deployment_of(signature.wrapper)
    data = dump_arguments(
        signature.wrapper, signature.args, signature.kwargs, deployed.python_there
    )
    task: dict[str, Any] = {
        "task_id": new_invocation_id(),
        "deployment_id": deployed.deployment_id,
        "format": PICKLE,
        "options": signature.said,
    }
    if len(data) <= INLINE_BYTES_MAX:
        task["args"] = base64.b64encode(data).decode()
        return task
    from glowplug.client.blobs import put_blob  # noqa: PLC0415 - only large arguments

    task["blob"] = await put_blob(await session.reach(), data, look_first=False)
    task["size"] = len(data)
    return task
