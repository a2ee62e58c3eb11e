"""Whole programs, started as their users start them, against a fake gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_gateway import TOKEN, FakeGateway


@pytest.fixture
def program(tmp_path: Path, gateway: FakeGateway):
    """Write files, run one of them, return what it wrote."""

    def run(main: str, files: dict[str, str], *, module: str = "", cwd: str = "") -> list[str]:
        root = tmp_path / "project"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        env = {**os.environ, "GLOWPLUG_URL": gateway.url, "GLOWPLUG_TOKEN": TOKEN}
        command = ["-m", module] if module else [str(root / main)]
        done = subprocess.run(
            [sys.executable, *command],
            env=env,
            cwd=root / cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


TYPES = """
from dataclasses import dataclass
from glowplug import function

class Mine(Exception): ...

@dataclass
class Point:
    x: int

@function
def move(point):
    assert type(point) is Point, type(point)
    if point.x > 9:
        raise Mine("too far")
    return Point(point.x + 1)

@function
def twice(point):
    return move(move(point))

if __name__ == "__main__":
    moved = move.remote(Point(1))
    print(moved, isinstance(moved, Point))
    print(twice.remote(Point(3)))
    try:
        move.remote(Point(10))
    except Mine as error:
        print("caught", error)
    print([p.x for p in move.map(Point(n) for n in range(3))])
"""
WROTE = ["Point(x=2) True", "Point(x=5)", "caught too far", "[1, 2, 3]"]


def test_a_script_s_own_classes_are_the_same_on_both_sides(program):
    assert program("app.py", {"app.py": TYPES}) == WROTE


def test_a_script_in_a_sub_folder_finds_the_modules_beside_it(program):
    files = {
        "pyproject.toml": "",
        "examples/one/app.py": "from glowplug import function\nimport beside\n\n"
        "@function\ndef f(x):\n    return beside.double(x)\n\n"
        'if __name__ == "__main__":\n    print(f.remote(4))\n',
        "examples/one/beside.py": "def double(x):\n    return 2 * x\n",
    }
    assert program("examples/one/app.py", files) == ["8"]


def test_a_package_run_with_m_keeps_its_relative_imports(program):
    files = {
        "pyproject.toml": "",
        "src/pkg/__init__.py": "",
        "src/pkg/other.py": "VALUE = 7\n",
        "src/pkg/app.py": "from glowplug import function\nfrom . import other\n\n"
        "@function\ndef f():\n    return other.VALUE\n\n"
        'if __name__ == "__main__":\n    print(f.remote())\n',
    }
    assert program("", files, module="pkg.app", cwd="src") == ["7"]


def test_functions_typed_into_an_interpreter_travel_by_value(program, gateway: FakeGateway):
    env = {**os.environ, "GLOWPLUG_URL": gateway.url, "GLOWPLUG_TOKEN": TOKEN}
    text = (
        "from glowplug import function\nbase = 40\n"
        "@function\ndef add(x):\n    return base + x\n\nprint(add.remote(2))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=text, env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr


def test_a_call_while_a_container_imports_the_file_says_what_to_do(program, gateway: FakeGateway):
    text = (
        "from glowplug import errors, function, is_remote\n\n@function\ndef f():\n    return 1\n\n"
        "try:\n    print(f.remote())\nexcept errors.NotYetSupportedError as e:\n"
        "    if is_remote():\n        raise\n    print(e)\n"
    )
    (said,) = program("app.py", {"app.py": text})
    assert "__main__" in said


def test_functions_may_be_handed_around_inside_the_container(program):
    text = (
        "from glowplug import function\n\n"
        "def make():\n"
        "    @function\n    def inner(x):\n        return x + 1\n"
        "    @function\n    def outer(x):\n        return inner(x) * 10\n"
        "    return outer\n\n"
        'if __name__ == "__main__":\n    print(make().remote(1))\n'
    )
    assert program("app.py", {"app.py": text}) == ["20"]


def test_importing_glowplug_loads_the_standard_library_only():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import glowplug; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names), 'asyncio' in new)"
    )
    sdk = Path(__file__).parents[3] / "sdk"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(sdk)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['glowplug'] False\n"
