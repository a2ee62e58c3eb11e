"""The short way of JSON says and reads what the standard library's package does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from glowplug.runner import short_json
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_it_writes_what_the_package_writes(value, ascii_only):
    wanted = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)
    assert short_json.dumps(value, ascii_only=ascii_only) == wanted


@given(VALUES, st.sampled_from(["utf-8", "utf-16", "utf-32-le"]), st.sampled_from(["", " \n"]))
def test_it_reads_what_the_package_reads(value, encoding, space):
    data = (space + json.dumps(value) + space).encode(encoding)
    # repr, because NaN is not equal to itself.
    assert repr(short_json.loads(data)) == repr(json.loads(data))


@given(st.binary(max_size=40))
def test_whatever_comes_both_read_or_both_refuse(data):
    def outcome(loads):
        try:
            return repr(loads(data))
        except (ValueError, RecursionError) as error:
            return repr(error)

    assert outcome(short_json.loads) == outcome(json.loads)


@pytest.mark.parametrize("value", [{1}, math.nan, {"a": object()}, {(1,): 2}])
def test_it_refuses_in_the_words_of_the_package(value):
    with pytest.raises((TypeError, ValueError)) as theirs:
        json.dumps(value, allow_nan=False)
    with pytest.raises(type(theirs.value)) as ours:
        short_json.dumps(value, allow_nan=False)
    assert str(ours.value) == str(theirs.value)


def test_a_loop_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        short_json.dumps(loop)


def test_a_runner_greets_without_the_packages_that_starts_wait_for():
    folder = str(Path(short_json.__file__).parents[2])
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import glowplug.runner.start, glowplug.runner.function\n"
        "from glowplug.runner.frames import FrameParser, encode\n"
        "assert FrameParser().feed(encode({'type': 'stop'})) == [({'type': 'stop'}, b'')]\n"
        "sys.modules['__main__'] = glowplug.runner.start.USER_MAIN\n"
        "from glowplug import endpoint, function, on_event, schedule\n"
        "f = endpoint(cpu=1)(lambda: 3)\n"
        "assert f() == 3\n"
        "heavy = {'json', 're', 'enum', 'functools', 'typing', 'dataclasses', 'inspect', 'pathlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
