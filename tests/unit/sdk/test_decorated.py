"""What decorators are in a container: the function, and all the rest once somebody asks for it."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import glowplug
import pytest
from glowplug.inside import decorated
from glowplug.runner.loading import unwrap
from glowplug.schedules import Schedule
from glowplug.triggers import OnEvent
from glowplug.wrappers import Endpoint, Function, TaskQueue


def work(x: int = 1) -> int:
    """Do it."""
    return x + 1


kept = decorated.decorator("function")(cpu=2, name="other")(work)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("endpoint", (), Endpoint),
        ("function", (), Function),
        ("task_queue", (), TaskQueue),
        ("schedule", ("@daily",), Schedule),
        ("on_event", ("order.*",), OnEvent),
    ],
)
def test_it_becomes_what_the_decorator_makes_when_more_is_asked(name, given, kind):
    found = decorated.decorator(name)(*given, timeout=7)(work)
    assert found(1) == 2
    assert unwrap(found) is work
    assert "_made" not in found.__dict__
    assert found.asked.timeout_s == 7
    assert found.name == "work"
    assert type(found._whole()) is kind
    assert found._whole() is found._whole()
    assert repr(found) == f"<glowplug {kind.kind} work>"


def test_used_bare_and_one_over_the_other():
    bare = decorated.decorator("endpoint")(work)
    assert (bare(1), bare.kind, bare.asked.timeout_s) == (2, "endpoint", 180)
    over = decorated.decorator("task_queue")(bare)
    assert (over(1), over.kind, unwrap(over)) == (2, "task_queue", work)


def test_it_looks_like_its_function():
    found = decorated.decorator("function")(cpu=1)(work)
    assert (found.__name__, found.__doc__, found.__module__) == ("work", "Do it.", __name__)
    assert inspect.signature(found) == inspect.signature(work)
    assert not hasattr(found, "__set_name__")
    with pytest.raises(AttributeError, match="no_such"):
        found.no_such  # noqa: B018 - looked up


def test_what_can_not_be_decorated_is_refused_as_everywhere():
    for wrong in (3, int):
        with pytest.raises(TypeError, match="decorates a function"):
            decorated.decorator("function")(cpu=1)(wrong)


def test_it_travels_by_name_where_its_name_leads_to_it():
    found = decorated.decorator("function")(cpu=1)(work)
    copy = pickle.loads(pickle.dumps(found))
    assert type(copy) is Function  # "work" names the plain function here, so it travels by value
    assert copy.asked.cpu == found.asked.cpu
    # A name of a module that leads to the very object.
    work.__qualname__ = "kept"
    try:
        named = decorated.decorator("function")(cpu=1)(work)
        globals()["kept"] = named
        assert pickle.loads(pickle.dumps(named)) is named
    finally:
        work.__qualname__ = "work"


def test_the_package_gives_them_in_containers_only():
    assert glowplug.endpoint.__module__ == "glowplug.decorators"
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import glowplug.runner.start as start\n"
        "sys.modules['__main__'] = start.USER_MAIN\n"
        "import glowplug\n"
        "kinds = {type(getattr(glowplug, n)('@daily')(lambda: 1)).__name__ for n in ('schedule', 'on_event')}\n"
        "kinds |= {type(getattr(glowplug, n)(lambda: 1)).__name__ for n in ('endpoint', 'function', 'task_queue')}\n"
        "print(kinds)\n"
    )
    folder = str(Path(glowplug.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "{'Decorated'}", done.stdout + done.stderr
