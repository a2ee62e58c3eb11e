"""Inside `bwrap`, as root and as an ordinary user: nothing of the host can be had.

Each attempt has its control, the same code without the sandbox. Where the control fails too (the host
forbids it to everybody, or to this user) nothing is shown, and the test is skipped with that reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.runtime.uids import RANGES

from tests.security.attempts import attempt_all

ROOT = Path(__file__).parents[2]
ORDINARY_UID = 54_321
NAMES = [
    "write core_pattern",
    "read /etc/shadow",
    "read the user's home",
    "read the data directory",
    "signal the worker",
    "mount",
    "unshare a user namespace",
    "unshare a mount namespace",
    "enter a namespace",
    "ptrace a child",
    "io_uring_setup",
    "keyctl",
    "bpf",
    "userfaultfd",
    "open_by_handle_at",
    "become root",
    "make a device",
    "write to /",
]


class Shown(msgspec.Struct):
    """What the attempts said inside the sandbox, and without it."""

    held: dict[str, Any]
    free: dict[str, Any]


@pytest.fixture(scope="module", params=["this user", "an ordinary user"])
def shown(request, tmp_path_factory) -> Iterator[Shown]:
    data_dir = tmp_path_factory.mktemp("data")
    home = Path.home() if request.param == "this user" else data_dir
    secret = home / f".glowplug-security-test-{os.getpid()}"
    secret.write_text("secret")
    # Readable for everybody: it must be out of sight, not only out of reach.
    data = Path("/var/tmp") / f"glowplug-security-test-{os.getpid()}"
    data.mkdir(exist_ok=True)
    (data / "file").write_text("secret")
    given = {"home": str(secret), "data": str(data / "file")}
    try:
        if request.param == "this user":
            yield _as_this_user(data_dir, given)
        else:
            yield _as_an_ordinary_user(data_dir, given)
    finally:
        secret.unlink()
        shutil.rmtree(data)


def _as_this_user(data_dir: Path, given: dict[str, Any]) -> Shown:
    try:
        held = asyncio.run(attempt_all(sandboxed=True, data_dir=data_dir, given=given))
    except UnavailableError as error:
        pytest.skip(f"bwrap does not work here: {error.message}")
    free = asyncio.run(attempt_all(sandboxed=False, data_dir=data_dir, given=given))
    return Shown(held, free)


def _as_an_ordinary_user(data_dir: Path, given: dict[str, Any]) -> Shown:
    if os.geteuid() != 0:
        pytest.skip("this user is an ordinary one already")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = Path(f"/usr/bin/python{version}")
    if not python.exists():
        pytest.skip(f"no {python} that an ordinary user could run")
    readable = [path for path in sys.path if path and not path.startswith(str(Path.home()))]
    for path in (ROOT, *map(Path, readable)):
        if any(
            not parent.stat().st_mode & 1 for parent in (path, *path.parents) if parent.exists()
        ):
            pytest.skip(f"{path} is out of an ordinary user's reach")
    for path in (data_dir, *data_dir.parents):
        if path.stat().st_uid == 0 and path.is_relative_to(data_dir.parents[1]):
            path.chmod(0o755)
    os.chown(data_dir, ORDINARY_UID, ORDINARY_UID)
    command = [python, "-m", "tests.security.attempts", str(data_dir / "own"), json.dumps(given)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(readable), "HOME": str(data_dir), "PATH": "/usr/bin:/bin"},
        user=ORDINARY_UID,
        group=ORDINARY_UID,
        extra_groups=[],
        stdout=subprocess.PIPE,
        check=True,
    )
    return Shown(*json.loads(done.stdout))


@pytest.mark.parametrize("name", NAMES)
def test_what_works_without_the_sandbox_fails_inside(shown, name):
    without = shown.free["outcomes"][name]
    inside = shown.held["outcomes"][name]
    assert inside != "", f"{name} worked inside the sandbox"
    if without != "":
        pytest.skip(f"no control: without the sandbox it fails for this user, too ({without})")


def test_every_attempt_is_judged(shown):
    assert set(shown.held["outcomes"]) == set(NAMES)


def test_the_sandbox_holds_no_capability_and_gains_none(shown):
    assert shown.held["caps"] == [0, 0, 0, 0, 0]
    assert shown.held["no_new_privs"] == 1


def test_the_control_of_root_has_capabilities(shown):
    assert (shown.free["caps"][0] != 0) == (shown.free["users"] == [0])


def test_the_first_process_of_the_container_cannot_be_traced(shown):
    assert shown.held["ptrace pid 1"] == "EPERM"


def test_nobody_inside_is_root_outside(shown):
    assert len(shown.held["users"]) == 1
    assert shown.held["users"] != [0]
    if shown.free["users"] == [0]:
        assert any(shown.held["users"][0] in ids for ids in RANGES)
    else:
        assert shown.held["users"] == shown.free["users"]


def test_only_the_containers_own_processes_are_visible(shown):
    assert len(shown.held["pids"]) <= 4
    assert max(shown.held["pids"]) < 100


def test_there_is_nothing_in_the_environment_that_the_plan_did_not_name(shown):
    assert set(shown.held["env"]) <= {"GIVEN", "PWD", "LC_CTYPE"}


def test_descriptors_are_nothing_the_socket_and_two_ends_of_one_pipe(shown):
    fds = list(shown.held["fds"].values())
    assert fds[0] == "/dev/null"
    assert fds[1] == fds[2]
    assert fds[1].startswith("pipe:")
    assert fds[3].startswith("socket:")
    assert shown.held["other_fds"] == []


def test_the_root_and_etc_are_the_allow_list(shown):
    assert set(shown.held["root"]) <= {
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "opt", "home",
        "sbin", "tmp", "usr",
    }  # fmt: skip
    assert set(shown.held["etc"]) <= {
        "alternatives", "group", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd",
        "pki", "resolv.conf", "ssl",
    }  # fmt: skip
    # The way to an interpreter that lies under it, and nothing else.
    assert set(shown.held["home_listing"]) <= {".pyenv", ".local"}
