"""What a function gets when it has a parameter named `context`."""

from __future__ import annotations

import sys

LATER = {
    "progress": "context.progress is not yet available; print or log the progress meanwhile",
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
    ) -> None:
        self.container_id = container_id
        self.stub_id = stub_id
        self.task_id = task_id
        self.attempt = attempt
        self.timeout = timeout
        self.on_start_value = on_start_value
        self.python_version = sys.version.partition(" ")[0]

    def __getattr__(self, name: str) -> object:
        raise AttributeError(LATER.get(name, f"context has no attribute {name!r}"))

    def __repr__(self) -> str:
        return f"<context of {self.task_id}, attempt {self.attempt}, in {self.container_id}>"
