"""Random numbers after a fork: two children of one process draw different ones once they are seeded anew.

numpy and torch are no dependencies: their cases run where they are installed, and with
GLOWPLUG_TEST_PYTHON=<a Python that has them>.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import glowplug
import pytest

PYTHON = os.environ.get("GLOWPLUG_TEST_PYTHON", sys.executable)
SDK = Path(glowplug.__file__).parent.parent
SCRIPT = """
import json, os, sys
sys.path.insert(0, {sdk!r})
{imports}
from glowplug.runner import reseed
def draw():
    return {draws}
found = reseed.find()
def child(seeded):
    read, write = os.pipe()
    if os.fork() == 0:
        if seeded:
            reseed.reseed(found)
        os.write(write, json.dumps([float(each) for each in draw()]).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    with open(read) as out:
        return json.loads(out.read())
print(json.dumps([[child(seeded) for _ in range(2)] for seeded in (False, True)]))
"""
CASES = {
    "random": (
        "import random\nrandom.seed(1)\nown = random.Random(2)\nclass Kept: own = random.Random(3)",
        "[own.random(), Kept.own.random(), own.gauss(0, 1)]",
        # After a fork the functions of `random` need nobody; the others do.
        "[random.random()]",
    ),
    "numpy": (
        (
            "import numpy\nnumpy.random.seed(1)\nown = numpy.random.default_rng(2)\n"
            "legacy = numpy.random.RandomState(3)\nbits = numpy.random.Philox(4)\n"
            "other = numpy.random.RandomState(numpy.random.PCG64(5))\nnumpy.random.standard_normal()"
        ),
        (
            "[numpy.random.random(), numpy.random.standard_normal(), own.random(), own.spawn(1)[0].random(), "
            "legacy.random_sample(), bits.random_raw(), other.random_sample()]"
        ),
        "[]",
    ),
    "torch": (
        (
            "import torch\ntorch.manual_seed(1)\nown = torch.Generator()\nown.manual_seed(2)\n"
            "class Kept:\n    __slots__ = ('own',)\nkept = Kept()\nkept.own = torch.Generator()"
        ),
        "[torch.rand(1), torch.randn(1), torch.rand(1, generator=own), torch.rand(1, generator=kept.own)]",
        "[]",
    ),
}


def has(name: str) -> bool:
    found = subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True, check=False)
    return found.returncode == 0


def run(imports: str, draws: str) -> list[list[list[float]]]:
    script = SCRIPT.format(sdk=str(SDK), imports=imports, draws=draws)
    done = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_children_draw_different_numbers_once_they_are_seeded(name):
    if not has(name):
        pytest.skip(f"{name} is not installed; GLOWPLUG_TEST_PYTHON names a Python that has it")
    imports, draws, by_themselves = CASES[name]
    (one, two), (first, second) = run(imports, draws)
    assert one == two  # the control: unseeded, they draw the same
    assert not set(first) & set(second)
    assert not set(first) & set(one)
    for pair in run(imports, by_themselves):
        assert len({number for drawn in pair for number in drawn}) == sum(map(len, pair))


def test_a_generator_of_a_strange_kind_is_told():
    if not has("numpy"):
        pytest.skip("numpy is not installed; GLOWPLUG_TEST_PYTHON names a Python that has it")
    strange = "import numpy\nclass Strange(numpy.random.PCG64): pass\nown = Strange(7)"
    with pytest.raises(AssertionError, match=r"UnseedableError: it made a __main__\.Strange"):
        run(strange, "[]")


def test_finding_them_wakes_no_lazy_object():
    lazy = (
        "import random\nclass Lazy:\n    @property\n    def __class__(self):\n"
        "        raise SystemExit('awake')\nkept = Lazy()"
    )
    run(lazy, "[]")
