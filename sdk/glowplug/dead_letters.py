"""Dead letters: durable work that ended unsuccessfully, to be looked at, tried again or removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from glowplug.tasks import Task
from glowplug.twins import blocking


class DeadLetter:
    """One dead letter.

    Attributes:
        task_id: of the task that failed.
        name, app: of its function.
        status: ERROR, TIMEOUT or EXPIRED.
        error_type: class of the exception it ended in; "" where there is none.
        ended_at, kept_until: Unix times; then it goes by itself.
        tags: words that it was put with are found with `DeadLetters(tag=…)`.
        replayed_as: id of the task that tries it again; None if there is none.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        self.task_id: str = row["task_id"]
        self.name: str = row.get("name", "")
        self.app: str = row.get("app", "")
        self.status: str = row.get("status", "")
        self.attempt: int = row.get("attempt", 0)
        self.error_type: str = row.get("error_type", "")
        self.ended_at: float = row.get("ended_at") or 0.0
        self.kept_until: float = row.get("kept_until") or 0.0
        self.replayed_as: str | None = row.get("replayed_as")

    @blocking
    async def show(self) -> dict[str, Any]:
        """Return all that is known: `arguments`, `headers`, `timeline` and `error` with its traceback.

        Raises: NotFoundError if it is gone.
        """
        from glowplug.client.listing import LETTERS, page_of  # noqa: PLC0415

        return await page_of(f"{LETTERS}/{self.task_id}", {})

    @blocking
    async def replay(self, *, same_version: bool = False) -> Task:
        """Try it again with the latest version of its function; return the new task.

        Replayed again it is the same task.
        """
        from glowplug.client.listing import LETTERS, page_of, query  # noqa: PLC0415

        params = query(version="same" if same_version else "")
        said = await page_of(f"{LETTERS}/{self.task_id}/replay", params, "POST")
        self.replayed_as = str(said["task_id"])
        return Task(self.replayed_as)

    @blocking
    async def purge(self) -> None:
        """Remove it for good."""
        from glowplug.client.listing import LETTERS, page_of  # noqa: PLC0415

        await page_of(f"{LETTERS}/{self.task_id}", {}, "DELETE")

    def __repr__(self) -> str:
        return f"DeadLetter({self.task_id!r}, {self.status}, {self.name!r}, {self.error_type!r})"


class DeadLetters:
    """The dead letters that fit; iterate over them, newest first.

    Args:
        queue: a function's name, or a version's id.
        app: likewise by app.
        state: "failed", "error", "timeout", "expired" or "dead", or several of them.
        error_type: name of the exception's class.
        tag: "key" or "key=value".
        since: accepted at this Unix time or later.
        replayed: False (those that wait), True, or None for both.
    """

    def __init__(
        self,
        queue: str = "",
        *,
        app: str = "",
        state: str | Sequence[str] = (),
        error_type: str = "",
        tag: str = "",
        since: float | None = None,
        replayed: bool | None = False,
    ) -> None:
        from glowplug.client.listing import query  # noqa: PLC0415

        self._params = query(
            queue=queue, app=app, state=state, error_type=error_type, tag=tag, since=since
        )
        self._replayed = {None: "all", True: "1", False: "0"}[replayed]

    def __iter__(self) -> Iterator[DeadLetter]:
        from glowplug.client.listing import LETTERS, rows_of  # noqa: PLC0415

        params = {**self._params, "replayed": self._replayed}
        return map(DeadLetter, rows_of(LETTERS, "dead_letters", params))

    @blocking
    async def replay(self, *, same_version: bool = False) -> list[Task]:
        """Try all of them again; return the new tasks. What can't be tried again stays a letter."""
        from glowplug.client.listing import LETTERS, every_page, query  # noqa: PLC0415

        params = {**self._params, "replayed": self._replayed}
        params |= query(version="same" if same_version else "")
        pages = every_page(f"{LETTERS}/replay", params, "POST")
        return [Task(one["task_id"]) async for page in pages for one in page["replayed"]]

    @blocking
    async def purge(self) -> int:
        """Remove all of them for good; return how many there were."""
        from glowplug.client.listing import LETTERS, every_page  # noqa: PLC0415

        params = {**self._params, "replayed": self._replayed, "all": "1"}
        return sum([len(page["purged"]) async for page in every_page(LETTERS, params, "DELETE")])
