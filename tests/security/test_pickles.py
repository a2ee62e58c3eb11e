"""Pickles that would run code where they are loaded: no service loads any, and the command line plain data only."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path

import pytest
from glowplug.cli.plain import load_plain
from glowplug.errors import GlowplugError

from tests.repo.tree import sources

# What loads code or objects from bytes.
LOADERS = {
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "copyreg",
}
UNSAFE = {f"yaml.{word}" for word in ("load", "load_all", "full_load", "unsafe_load", "Loader")}
RUNNERS = {"eval", "exec", "compile", "__import__"}
RAN: list[str] = []
SERVICES = ("services/", "libs/")


class Runs:
    """Calls something when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def ran(word: str) -> str:
    RAN.append(word)
    return word


HOSTILE = {
    "a function": pickle.dumps(Runs(ran, "x")),
    "a shell": pickle.dumps(Runs(os.system, "touch /tmp/glowplug-pickle")),
    "eval": pickle.dumps(Runs(eval, "__import__('os').getpid()")),
    "in a list": pickle.dumps([1, {"a": Runs(ran, "x")}]),
    "as a key": pickle.dumps({Runs(str, "x"): 1}),
    "protocol 0": pickle.dumps(Runs(ran, "x"), protocol=0),
    "getattr": b"cbuiltins\ngetattr\n.",
    "a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
    "a class of this module": b"ctests.security.test_pickles\nRuns\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pevil\n.",
    "an object of no plain class": pickle.dumps(Path("/etc/passwd")),
    "half of it": pickle.dumps(list(range(1000)))[:100],
    "nothing": b"",
}


@pytest.mark.attempt(control="test_the_control_it_runs_where_pickles_are_loaded")
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_command_line_does_not_run_it(data):
    RAN.clear()
    with pytest.raises(
        (GlowplugError, pickle.UnpicklingError, EOFError, AttributeError, ValueError)
    ):
        load_plain(data)
    assert RAN == []
    assert not Path("/tmp/glowplug-pickle").exists()


def test_the_control_it_runs_where_pickles_are_loaded():
    RAN.clear()
    pickle.loads(HOSTILE["a function"])
    pickle.loads(HOSTILE["in a list"])
    assert RAN == ["x", "x"]


def test_the_control_plain_data_is_shown():
    value = {"a": [1, 2.5, None, True, b"x", (1, {2}), frozenset({3}), complex(1, 2), range(3)]}
    assert load_plain(pickle.dumps(value)) == value


def loads(tree: ast.Module) -> set[str]:
    """Return what a module imports or calls that could run what it was sent."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names} & LOADERS
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & LOADERS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= {node.func.id} & RUNNERS
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {f"{node.value.id}.{node.attr}"} & UNSAFE
    return found


@pytest.mark.attempt(control="test_the_control_a_module_that_loads_is_noticed")
def test_no_service_can_load_any():
    walked = [source for source in sources(*SERVICES) if "/glowplug_" in source.path]
    assert len(walked) > 100
    assert {source.path: loads(source.tree) for source in walked if loads(source.tree)} == {}


def test_the_control_a_module_that_loads_is_noticed():
    text = "from pickle import loads\nimport yaml, os\nx = eval(yaml.load('1'))\n"
    assert loads(ast.parse(text)) == {"pickle", "yaml.load", "eval"}
