"""Every limit is exceeded by a function of a running platform, and told with its type and figures."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.runtime.cgroups import open_cgroups
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.disks import why_none

from tests.e2e.conftest import APPS, a_platform

MIB = 1024 * 1024
PIDS = 64


@pytest.fixture(scope="module", params=["bwrap", "oci"])
def told(request, tmp_path_factory) -> dict:
    """What came of the calls on a platform whose worker uses that backend."""
    directory = tmp_path_factory.mktemp("limits")
    _skip_unless_it_holds(request.param, directory / "try")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOWPLUG_WORKER_BACKEND", request.param)
        patch.setenv("GLOWPLUG_WORKER_PIDS", str(PIDS))
        patch.setenv("GLOWPLUG_WORKER_UNENFORCED", "refuse")
        with a_platform(directory / "data") as running:
            done = subprocess.run(
                [sys.executable, "limited.py"],
                env=running.env(),
                capture_output=True,
                text=True,
                timeout=120,
                cwd=APPS,
            )
            assert done.returncode == 0, done.stderr
            listed = running.cli("deployment", "list", "--all", "--name", "leave", "--json").stdout
            (leaving,) = json.loads(listed)["deployments"]
            shown = running.cli("deployment", "show", leaving["deployment_id"]).stdout
            return {"shown": shown} | json.loads(
                done.stdout.splitlines()[-1]
            )  # after what the functions print


def _skip_unless_it_holds(name, directory) -> None:
    import asyncio

    if why_none():
        pytest.skip(why_none())
    groups = open_cgroups(directory)
    try:
        asyncio.run(choose_backend(name, directory, groups))
    except UnavailableError as error:
        pytest.skip(f"{name}: {error.message}")
    finally:
        groups.close()
    if not groups.holds:
        pytest.skip(f"no control groups: {groups.reason}")


def test_memory(told):
    found = told["eat"]
    assert "OutOfMemoryError" in found["types"]
    assert found["details"]["limit_bytes"] == 96 * MIB
    assert 64 * MIB < found["details"]["peak_bytes"] <= 96 * MIB


def test_disk(told):
    found = told["fill"]
    assert (found["types"][0], found["errno"]) == ("OSError", errno.ENOSPC)
    (note,) = [each for each in found["notes"] if "limit of disk" in each]
    assert f"limit_bytes {16 * MIB}" in note


def test_processes(told):
    found = told["start_threads"]
    assert "RuntimeError" in found["types"]
    (note,) = [each for each in found["notes"] if "limit of pids" in each]
    assert f"limit {PIDS}" in note


def test_time_and_processors(told):
    found = told["spin"]
    assert "FunctionTimeoutError" in found["types"]
    if "limits" not in found["details"]:
        # Its share of a host that others keep busy is less than its limit: nothing was withheld.
        assert os.getloadavg()[0] > (os.cpu_count() or 1)
        return
    withheld = found["details"]["limits"]["cpu"]
    assert withheld["limit_millis"] == 200
    assert withheld["withheld_s"] > 0.1


def test_a_crash_has_its_exit_code_and_last_lines_and_leaves_others_alone(told):
    found = told["leave"]
    assert "ContainerCrashedError" in found["types"]
    assert found["details"]["exit_code"] == 7
    assert "goodbye" in found["details"]["last_lines"]
    assert told["neighbours"] == [number * 2 for number in range(8)]


def test_the_deployment_says_how_its_container_failed_and_that_starts_are_held_back(told):
    assert (
        "last failure function.crashed: the container's process ended with exit code 7"
        in told["shown"]
    )
