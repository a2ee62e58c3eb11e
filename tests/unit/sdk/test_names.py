"""What the client spells for itself, because the contracts do not exist inside a container."""

from __future__ import annotations

import subprocess
import sys

from glowplug.client import names
from glowplug.runner import frames
from glowplug_contracts import inside
from glowplug_contracts.ids import check_id
from glowplug_contracts.messages import http
from glowplug_contracts.messages.invocation import INLINE_BYTES_MAX, Format, State

NEEDED_INSIDE = (
    "glowplug.client.here",
    "glowplug.client.calling",
    "glowplug.client.calls",
    "glowplug.client.durable",
    "glowplug.client.outcomes",
    "glowplug.inside.http",
    "glowplug.inside.session",
    "glowplug.inside.siblings",
    "glowplug.wrappers",
    "glowplug.tasks",
)


def test_the_names_are_the_contracts():
    for name in [name for name in dir(names) if name.startswith("HEADER_")]:
        assert getattr(names, name) == getattr(http, name)
    assert (Format.PICKLE.value, Format.JSON.value) == (names.PICKLE, names.JSON)
    assert State.SUCCEEDED.value == names.SUCCEEDED
    assert names.INLINE_BYTES_MAX == INLINE_BYTES_MAX
    assert frames.ASK_BYTES_MAX == inside.ASK_BYTES_MAX
    assert frames.ANSWER_CREDIT == inside.ANSWER_CREDIT_AT_FIRST


def test_ids_made_here_are_ids():
    made = {names.new_invocation_id() for _ in range(100)}
    assert len(made) == 100
    for one in made:
        check_id("invocation", one)


def test_what_a_container_imports_is_standard_library_only():
    text = (
        "import sys\nsys.path.append(sys.argv[1])\n"
        + "".join(f"import {name}\n" for name in NEEDED_INSIDE)
        + "own = {'glowplug', '__main__'} | set(sys.stdlib_module_names)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - own))\n"
    )
    folder = str(__import__("pathlib").Path(names.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
