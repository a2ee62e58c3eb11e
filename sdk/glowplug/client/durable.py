"""Durable invocations by id: status, result, cancelling."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from glowplug.client.calls import ACCEPTED, read_answer, result_directly
from glowplug.client.here import current_session
from glowplug.client.loop import background
from glowplug.client.outcomes import Ended
from glowplug.remote import is_remote

POLL_S = 20.0


async def task_status(task_id: str) -> dict[str, Any]:
    """Return what the platform says about a task.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    answer: dict[str, Any] = await http.request_json("GET", f"/tasks/{task_id}/status")
    return answer


def task_result_blocking(task_id: str, timeout_s: float | None) -> Ended | None:
    """Do what `task_result` does, in the calling thread where that is shorter."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    if not is_remote():
        from glowplug.client.direct import NotHereError  # noqa: PLC0415 - not in containers

        session = current_session()
        http = session.http if session.reached else background().run(session.reach())
        with contextlib.suppress(NotHereError):
            while True:
                ended = result_directly(http, task_id, _left(until))
                if ended is not None or (until is not None and time.monotonic() >= until):
                    return ended
    left = None if until is None else max(0.0, until - time.monotonic())
    return background().run(task_result(task_id, left))


async def task_result(task_id: str, timeout_s: float | None) -> Ended | None:
    """Return how a task ended, waiting for it; None if it has not after `timeout_s`.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        answer = await http.request(
            "GET",
            f"/api/v1/tasks/{task_id}/result",
            params={"wait_s": f"{_left(until):.3f}"},
            headers={"Accept": http.reads} if http.reads else None,
        )
        if answer.status != ACCEPTED:
            return await read_answer(http, answer, task_id)
        if until is not None and time.monotonic() >= until:
            return None


def _left(until: float | None) -> float:
    """Return for how many seconds a request may be held."""
    return POLL_S if until is None else max(0.0, min(POLL_S, until - time.monotonic()))


async def cancel_task(task_id: str) -> None:
    """Cancel a task.

    Raises: NotFoundError.
    """
    http = await current_session().reach()
    await http.request("DELETE", f"/tasks/{task_id}")
