"""Durable work that was accepted: what `.spawn` and `.put` return, and how to find it again by id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from glowplug.errors import ResultTimeoutError
from glowplug.parameters import refuse_method
from glowplug.twins import blocking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from glowplug.client.outcomes import Ended
    from glowplug.output import Output

# The platform's word -> the public one.
STATUSES: dict[str, str] = {
    "accepted": "PENDING",
    "pending": "PENDING",
    "running": "RUNNING",
    "retry_wait": "RETRY",
    "retrying": "RETRY",
    "succeeded": "COMPLETE",
    "completed": "COMPLETE",
    "failed": "ERROR",
    "dead": "ERROR",
    "timed_out": "TIMEOUT",
    "cancelled": "CANCELLED",
    "expired": "EXPIRED",
}


class Progress(NamedTuple):
    """How far a task is: `fraction` from 0 to 1, and what was said beside it."""

    fraction: float
    message: str


class FunctionCall:
    """One durable invocation.

    Attributes:
        task_id: its id; another program finds it with `from_id`.
    """

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id

    @property
    def id(self) -> str:
        """Its id."""
        return self.task_id

    @classmethod
    def from_id(cls, task_id: str) -> Self:
        """Return the invocation with this id; nothing is asked before it is used."""
        return cls(task_id)

    @blocking
    async def get(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the user's word
        """Wait for its result, and return it or raise what it ended in.

        Raises: ResultTimeoutError after `timeout` seconds; the invocation goes on.
        """
        from glowplug.client.outcomes import value_of  # noqa: PLC0415

        return value_of(await self._wait(timeout))

    @get.plainly
    def _get_here(self, timeout: float | None = None) -> Any:
        from glowplug.client.durable import task_result_blocking  # noqa: PLC0415
        from glowplug.client.outcomes import value_of  # noqa: PLC0415

        return value_of(self._ended(task_result_blocking(self.task_id, timeout), timeout))

    @blocking
    async def status(self) -> str:
        """Return PENDING, RUNNING, RETRY, COMPLETE, ERROR, TIMEOUT, CANCELLED or EXPIRED."""
        from glowplug.client.durable import task_status  # noqa: PLC0415

        return public_status(await task_status(self.task_id))

    @blocking
    async def progress(self) -> Progress:
        """Return how far it is: what its code said last with `context.progress`."""
        from glowplug.client.durable import task_status  # noqa: PLC0415

        answer = await task_status(self.task_id)
        return Progress(float(answer.get("progress", 0)) / 100, str(answer.get("message", "")))

    @blocking
    async def cancel(self) -> None:
        """Stop it, waiting or running; nothing happens if it has ended."""
        from glowplug.client.durable import cancel_task  # noqa: PLC0415

        await cancel_task(self.task_id)

    @blocking
    async def info(self) -> dict[str, Any]:
        """Return all that is known of it: state, times, `timeline` of attempts, error, tags and parent."""
        from glowplug.client.durable import task_status  # noqa: PLC0415

        return await task_status(self.task_id)

    def subscribe(self) -> Iterator[dict[str, Any]]:
        """Yield how it is, then every change of state, until it has ended. Survives lost connections.

        What changes faster than it is told may be left out; the end never is.
        """
        from glowplug.client.listing import changes  # noqa: PLC0415
        from glowplug.client.loop import background  # noqa: PLC0415

        found = changes(self.task_id)
        try:
            while (one := background().run(_next(found))) is not None:
                yield one
        finally:
            background().run(_close(found))

    def children(self) -> Iterator[Self]:
        """Yield the tasks that this one's code has put or spawned, newest first."""
        from glowplug.client.listing import TASKS, rows_of  # noqa: PLC0415

        for row in rows_of(TASKS, "tasks", {"parent": self.task_id}):
            yield type(self)(row["task_id"])

    def outputs(self) -> Iterator[Output]:
        """Yield the files that it has saved, newest first."""
        from glowplug.output import outputs_of  # noqa: PLC0415 - where it is needed

        yield from outputs_of(self.task_id)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse_method("Task", name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task_id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionCall) and other.task_id == self.task_id

    def __hash__(self) -> int:
        return hash(self.task_id)

    async def _wait(self, timeout: float | None) -> Ended:  # noqa: ASYNC109
        from glowplug.client.durable import task_result  # noqa: PLC0415

        return self._ended(await task_result(self.task_id, timeout), timeout)

    def _ended(self, ended: Ended | None, timeout: float | None) -> Ended:
        if ended is None:
            raise ResultTimeoutError(f"{self.task_id} has not ended after {timeout} s")
        return ended


class Task(FunctionCall):
    """One item of a task queue."""

    @blocking
    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait for its result; the same as `get`."""
        from glowplug.client.outcomes import value_of  # noqa: PLC0415

        return value_of(await self._wait(timeout))

    @result.plainly
    def _result_here(self, timeout: float | None = None) -> Any:
        return self._get_here(timeout)


async def _next(found: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(found, None)


async def _close(found: AsyncIterator[dict[str, Any]]) -> None:
    await found.aclose()  # type: ignore[attr-defined]


def public_status(answer: dict[str, Any]) -> str:
    """Return the public status for what the platform says about a task."""
    if "status" in answer:
        return str(answer["status"])
    for word in (answer.get("reason"), answer.get("state")):
        if word in STATUSES:
            return STATUSES[str(word)]
    return str(answer.get("state", "")).upper()
