"""Results by the cheapest pickler that is right, and strict JSON."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys

import pytest
from glowplug.runner import payloads


@dataclasses.dataclass
class Point:
    x: int


class Vector(list):
    def tolist(self):
        return list(self)


@pytest.mark.parametrize("value", [None, 0, "", {"a": [1.5, (2, {3})]}, Point(1), ValueError("x")])
def test_plain_results_travel(value):
    copy = pickle.loads(payloads.write_pickle(value))
    assert repr(copy) == repr(value)


def test_functions_and_local_classes_travel_by_value():
    class Local:
        y = 2

    make, local = pickle.loads(payloads.write_pickle((lambda x: x + 1, Local)))
    assert make(1) == 2
    assert local.y == 2


def test_a_plain_result_does_not_cost_the_import_of_cloudpickle():
    code = (
        "import sys\n"
        "from glowplug.runner import payloads\n"
        "payloads.write_pickle({'a': [1, 2.5, None, ValueError('x')]})\n"
        "print('glowplug._vendor.cloudpickle' in sys.modules, 'pickle' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


def test_json_takes_what_stands_for_plain_values():
    data = {"vector": Vector([1, 2]), "point": Point(3)}
    assert json.loads(payloads.write_json(data)) == {"vector": [1, 2], "point": {"x": 3}}


@pytest.mark.parametrize("value", [float("inf"), {1}, object(), Point])
def test_what_json_has_no_word_for_is_refused(value):
    with pytest.raises(payloads.BadResultError):
        payloads.write_result("json", value)


@pytest.mark.parametrize("body", [b"", b"\x80", b"garbage", pickle.dumps(3)])
def test_arguments_that_cannot_be_read_are_said_so(body):
    with pytest.raises(payloads.BadArgumentsError):
        payloads.read_arguments("pickle", body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"args":1}'])
def test_json_arguments_that_cannot_be_read_are_said_so(body):
    with pytest.raises(payloads.BadArgumentsError):
        payloads.read_arguments("json", body)
