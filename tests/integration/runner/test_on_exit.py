"""`on_exit`: what a process does at an orderly end, within the grace, and what its failures do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.runner_process import open_runner

ASYNC = "import asyncio\nasync def f(): await asyncio.sleep(0)\n"


def _by_value(source: str) -> object:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace["f"]


def end_of(runner: Any, grace_s: float = 30) -> str:
    """Ask for the end; return what was printed until then."""
    runner.send("stop", grace_s=grace_s)
    while runner.receive() is not None:
        pass
    assert runner.wait() == 0
    return b"".join(body for header, body in runner.seen if header["type"] == "log").decode()


@pytest.mark.parametrize("code", ["def f(): pass", ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize(
    "hook",
    [
        "def f(value): print('closing', value)",
        "import asyncio\nasync def f(value):\n await asyncio.sleep(0)\n print('closing', value)",
    ],
    ids=["sync hook", "async hook"],
)
def test_it_gets_what_on_start_returned_and_is_heard_to_the_end(code: str, hook: str) -> None:
    with open_runner() as runner:
        runner.start(
            function=_by_value(code),
            on_start_function=_by_value("def f(): return 42"),
            on_exit_function=_by_value(hook),
        )
        runner.call()
        assert end_of(runner) == "closing 42\n"
        assert runner.seen[-1][0]["type"] == "bye"


def test_one_that_fails_is_printed_and_the_end_is_orderly() -> None:
    with open_runner() as runner:
        runner.start(
            function=_by_value("def f(): pass"),
            on_exit_function=_by_value("def f(): raise OSError('the socket is gone')"),
        )
        said = end_of(runner)
        assert said.startswith("on_exit failed:\nTraceback")
        assert "OSError: the socket is gone" in said
        assert runner.seen[-1][0]["type"] == "bye"


def test_one_that_takes_too_long_is_given_up_with_a_word() -> None:
    with open_runner() as runner:
        runner.start(
            function=_by_value("def f(): pass"),
            on_exit_function=_by_value("def f():\n import threading; threading.Event().wait()"),
        )
        assert "on_exit had not ended after 0.2 s" in end_of(runner, grace_s=0.2)
