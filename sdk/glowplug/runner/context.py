"""What a function gets when it has a parameter named `context`."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

MESSAGE_CHARS_MAX = 1_000
PROGRESS_EVERY_S = 0.1

LATER = {
    "bind_port": "context.bind_port is not yet available; it comes with web servers",
}


class Context:
    """One attempt at one invocation.

    Attributes:
        container_id: where it runs.
        stub_id: the deployment's id.
        task_id: the invocation's id.
        attempt: from 1; counts retries and platform failures.
        timeout: seconds after which the container is killed, or None.
        on_start_value: what `on_start` returned in this process, or None.
        scheduled_for: the due time that a schedule's firing stands for, as an aware datetime in UTC, however
            late it runs; None for everything else.
        python_version: of this process, "3.11.7".
    """

    def __init__(
        self,
        *,
        container_id: str,
        stub_id: str,
        task_id: str,
        attempt: int,
        timeout: float | None,
        on_start_value: object,
        say: Callable[[float, str], object] | None = None,
        scheduled_for: float = 0.0,
    ) -> None:
        self.container_id = container_id
        self.stub_id = stub_id
        self.task_id = task_id
        self.attempt = attempt
        self.timeout = timeout
        self.on_start_value = on_start_value
        self._say = say
        self._unsaid: tuple[float, str] | None = None
        self._said_at = 0.0
        self.python_version = sys.version.partition(" ")[0]
        self._scheduled_for = scheduled_for

    @property
    def scheduled_for(self) -> datetime | None:
        """The due time of the schedule that this run stands for."""
        if not self._scheduled_for:
            return None
        from datetime import datetime, timezone  # noqa: PLC0415 - only schedules ask

        return datetime.fromtimestamp(self._scheduled_for, timezone.utc)  # noqa: UP017 - Python 3.10

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far it is; whoever asks for the task's progress sees it.

        Call it as often as you like: it is sent on some times a second, and the last word always.

        Args:
            fraction: from 0 to 1.
            message: shown beside it; the first 1,000 characters.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"progress({fraction!r}): give a number from 0 to 1")
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress({fraction!r}): give a number from 0 to 1")
        self._unsaid = (float(fraction), str(message)[:MESSAGE_CHARS_MAX])
        now = time.monotonic()
        if now - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = now
            self.flush()

    def flush(self) -> None:
        """Send what was said and not sent yet."""
        unsaid, self._unsaid = self._unsaid, None
        if unsaid is not None and self._say is not None:
            self._say(*unsaid)

    def __getattr__(self, name: str) -> object:
        raise AttributeError(LATER.get(name, f"context has no attribute {name!r}"))

    def __repr__(self) -> str:
        return f"<context of {self.task_id}, attempt {self.attempt}, in {self.container_id}>"
