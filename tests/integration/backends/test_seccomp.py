"""An operator's refusals come into force beside ours, whichever way the backend has of saying them."""

from __future__ import annotations

import errno
import json
import platform

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.runtime import seccomp_files
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.seccomp_files import load_profile

from tests.support.containers import open_container

MORE = {
    "name": "stricter",
    "groups": [
        {"name": "pages", "why": "Which pages are in memory.", "calls": ["mincore"]},
        {"name": "pipes", "why": "Moved without a copy.", "error": "ENOSYS", "calls": ["splice"]},
    ],
    "rules": [
        {"call": "kill", "why": "No stopping.", "error": "EACCES", "argument": 1, "refuse": ["19"]}
    ],
}
ASKED = {
    "mincore": (),
    "splice": (),
    "kill": (0, 19),
    "keyctl": (),
    "vmsplice": (),
    "memfd_secret": (),
    "statmount": (),
    "socket": (38, 5, 0),
    "getppid": (),
}


@pytest.mark.parametrize("kind", ["bwrap", "oci-crun", "oci-runc"])
async def test_what_a_file_refuses_is_refused_inside(kind, tmp_path):
    file = tmp_path / "more.json"
    file.write_text(json.dumps(MORE))
    name, _, runtime = kind.partition("-")
    try:
        backend = await choose_backend(
            name, tmp_path / "data", None, runtime, load_profile(str(file))
        )
    except UnavailableError as error:
        pytest.skip(f"{kind}: {error.message}")
    numbers = seccomp_files.numbers(platform.machine())
    calls = [[name, numbers[name], *arguments] for name, arguments in ASKED.items()]
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "told = {}\n"
        f"for name, *call in {calls!r}:\n"
        "    result = libc.syscall(*map(ctypes.c_long, call))\n"
        "    told[name] = ctypes.get_errno() if result < 0 else 0\n"
        "say(told)\n"
    )
    async with open_container(backend, tmp_path / "c", code) as inside:
        told = await inside.said()
    assert told == {
        "mincore": errno.EPERM,
        "splice": errno.ENOSYS,
        "kill": errno.EACCES,
        "keyctl": errno.EPERM,
        "vmsplice": errno.EPERM,
        "memfd_secret": errno.EPERM,
        "statmount": errno.EPERM,
        "socket": errno.EAFNOSUPPORT,
        "getppid": 0,
    }
