"""What may only be done in its one place: reading the environment, printing, waiting, naming subjects.

The syntax trees are searched, not the text, so that comments and the code of test apps inside strings
do not count. Each exception says why it is one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.repo.tree import Source, assert_none, product, sources

# rule -> {path or folder: why it may}
ALLOWED: dict[str, dict[str, str]] = {
    "environment": {
        "libs/runtime/glowplug_runtime/settings.py": "the one reader of a service's settings",
        "libs/runtime/glowplug_runtime/tracing.py": "OpenTelemetry's standard variables",
        "deploy/local/": "children inherit the environment",
        "sdk/glowplug/client/profile.py": "the one reader of the SDK's configuration",
        "sdk/glowplug/runner/": "user code gets its environment here",
        "services/worker/glowplug_worker/runtime/python.py": "where pyenv keeps its Pythons",
    },
    "print": {
        "libs/runtime/glowplug_runtime/service.py": "--print-settings",
        "deploy/local/": "commands of the CLI",
        "sdk/glowplug/cli/": "the CLI",
    },
    "task": {
        "libs/runtime/": "task groups are made and owned here",
        "deploy/local/glowplug_local/up.py": "readiness and a signal race, both awaited on the spot",
        "services/worker/glowplug_worker/runtime/": "a start and its failure race, within one call",
        "sdk/glowplug/runner/": "a loop of its own, inside the container",
    },
    "today": {"sdk/glowplug/cli/": "times for people"},
    "subject": {
        "libs/contracts/": "the registry",
        "libs/runtime/": "the broker's own subjects",
    },
    "sleep": {
        "libs/runtime/glowplug_runtime/bus_nats.py": "short pauses between tries at the broker",
        "deploy/local/": "waiting for processes to come and go",
    },
    "kernel": {
        "services/worker/glowplug_worker/runtime/": "containers are made here",
        "services/worker/glowplug_worker/supervisor.py": "containers are watched here",
        "services/worker/glowplug_worker/mounts.py": "mounts are made here",
        "services/worker/glowplug_worker/images/pipconfig.py": "pip is asked for its configuration",
        "deploy/local/": "the services are started here",
        "sdk/glowplug/runner/": "processes inside the container",
    },
    "starred": {},
}


def name_of(node: ast.AST) -> str:
    """Return "asyncio.sleep" for such a node, "" for what is no plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = name_of(node.value)
        return f"{owner}.{node.attr}" if owner else f"().{node.attr}"
    return ""


def calls(tree: ast.Module, names: set[str]) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in names:
            yield node.lineno


def environment(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        taken = isinstance(node, ast.ImportFrom) and node.module == "os"
        if taken and {"environ", "getenv"} & {alias.name for alias in node.names}:
            yield node.lineno
        if name_of(node) in {"os.environ", "os.getenv", "os.putenv"}:
            yield node.lineno


def printing(tree: ast.Module) -> Iterator[int]:
    return calls(tree, {"print"})


def task(tree: ast.Module) -> Iterator[int]:
    return calls(
        tree,
        {
            "asyncio.create_task",
            "asyncio.ensure_future",
            "create_task",
            "ensure_future",
            "loop.create_task",
            "().create_task",
        },
    )


def today(tree: ast.Module) -> Iterator[int]:
    return calls(
        tree,
        {
            f"{module}{kind}.{call}"
            for module in ("", "datetime.", "dt.")
            for kind in ("datetime", "date")
            for call in ("now", "utcnow", "today")
        },
    )


def subject(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(("v1.", "$JS.", "$KV."))
        ):
            yield node.lineno


def sleep(tree: ast.Module) -> Iterator[int]:
    """A pause in a service has a name, and beside it a reason; it is no bare number."""
    for node in sleeps(tree):
        if isinstance(node.args[0], ast.Constant):
            yield node.lineno


def sleeps(tree: ast.Module) -> Iterator[ast.Call]:
    """Return the calls that sleep, but for 0 s, which is a turn of the loop."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in {"asyncio.sleep", "time.sleep"}:
            how_long = node.args[0]
            if not isinstance(how_long, ast.Constant) or how_long.value != 0:
                yield node


def kernel(tree: ast.Module) -> Iterator[int]:
    names = {"setns", "unshare", "fork", "forkpty", "setuid", "setgid", "setresuid", "setresgid"}
    names |= {"chroot", "execv", "execve", "execvp", "posix_spawn", "system", "mount"}
    starts = {"asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"}
    return calls(tree, {f"os.{name}" for name in names} | starts)


def starred(tree: ast.Module) -> Iterator[int]:
    """Raising inside `except*`: before Python 3.11.4 it comes out wrapped in a group."""
    for node in ast.walk(tree):
        if isinstance(node, ast.TryStar):
            for handler in node.handlers:
                yield from (
                    part.lineno for part in ast.walk(handler) if isinstance(part, ast.Raise)
                )


RULES: dict[str, Callable[[ast.Module], Iterator[int]]] = {
    "environment": environment,
    "print": printing,
    "task": task,
    "today": today,
    "subject": subject,
    "sleep": sleep,
    "kernel": kernel,
    "starred": starred,
}


def found(rule: str, files: tuple[Source, ...]) -> list[str]:
    allowed = tuple(ALLOWED[rule])
    return [
        f"{source.path}:{line}"
        for source in files
        if not source.path.startswith(allowed)
        for line in RULES[rule](source.tree)
    ]


@pytest.mark.parametrize("rule", RULES)
def test_is_done_in_its_place_only(rule: str) -> None:
    assert_none(found(rule, product()))


TESTS_MAY_SLEEP = (
    "tests/support/",  # `eventually` itself
    "tests/e2e/apps/",  # user code that takes its time
    "tests/integration/sandbox/test_service.py",  # the pace of a stand-in worker's beats
)


def test_tests_wait_for_what_they_wait_for() -> None:
    # Sleeping is how a test waits for the wrong thing; `eventually` looks and has a bound.
    assert_none(
        f"{source.path}:{node.lineno}"
        for source in sources("tests/")
        if not source.path.startswith(TESTS_MAY_SLEEP)
        for node in sleeps(source.tree)
    )


SINS = {
    "environment": "import os\nurl = os.environ['URL']",
    "print": "print('here')",
    "task": "import asyncio\nasyncio.create_task(go())",
    "today": "import datetime\nat = datetime.datetime.now()",
    "subject": "where = f'v1.call.{shard}'",
    "sleep": "import asyncio\nasync def wait():\n    await asyncio.sleep(1)",
    "kernel": "import os\nos.unshare(0)",
    "starred": "try:\n    go()\nexcept* ValueError as group:\n    raise KeyError from group",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_search_finds_a_sin(rule: str) -> None:
    source = Source("services/x/glowplug_x/service.py", SINS[rule], ast.parse(SINS[rule]))
    assert len(found(rule, (source,))) == 1
