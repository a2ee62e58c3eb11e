"""Durable invocations by id: status, result, cancelling."""

from __future__ import annotations

import asyncio
from typing import Any

from glowplug.client.calls import read_answer
from glowplug.client.here import current_session
from glowplug.client.outcomes import Ended

ACCEPTED = 202


async def task_status(task_id: str) -> dict[str, Any]:
    """Return what the platform says about a task.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    answer: dict[str, Any] = await http.request_json("GET", f"/tasks/{task_id}/status")
    return answer


async def task_result(task_id: str, timeout_s: float | None, poll_s: float) -> Ended | None:
    """Return how a task ended, waiting for it; None if it has not after `timeout_s`.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    clock = asyncio.get_running_loop().time
    until = None if timeout_s is None else clock() + timeout_s
    while True:
        wait = poll_s if until is None else max(0.0, min(poll_s, until - clock()))
        answer = await http.request(
            "GET",
            f"/api/v1/tasks/{task_id}/result",
            params={"wait_s": f"{wait:.3f}"},
            headers={"Accept": http.reads} if http.reads else None,
        )
        if answer.status != ACCEPTED:
            return await read_answer(http, answer, task_id)
        if until is not None and clock() >= until:
            return None


async def cancel_task(task_id: str) -> None:
    """Cancel a task.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    await http.request("DELETE", f"/tasks/{task_id}")
