"""What a container is on every backend: no power, nothing of the host in sight, nothing left open."""

from __future__ import annotations

import os

import pytest
from glowplug_worker.runtime.uids import RANGES, SPANS

from tests.security.conftest import ORDINARY


@pytest.fixture
def facts(stage):
    return stage[1].facts


def test_the_sandbox_holds_no_capability_and_gains_none(facts):
    assert facts["caps"] == [0, 0, 0, 0, 0]
    assert facts["no_new_privs"] == 1


def test_the_control_of_root_has_capabilities(free):
    assert (free.facts["caps"][0] != 0) == (os.geteuid() == 0)


def test_nobody_inside_is_root_outside(stage, facts):
    assert 0 not in facts["users"]
    if os.geteuid() != 0 or stage[0] == ORDINARY:
        assert len(facts["users"]) == 1
    else:
        ranges = [*RANGES, *(range(span.start, span.stop) for span in SPANS)]
        assert all(any(user in ids for ids in ranges) for user in facts["users"])
        assert facts["users"]


def test_only_the_containers_own_processes_are_visible(facts):
    assert len(facts["pids"]) <= 4
    assert max(facts["pids"]) < 100


def test_there_is_nothing_in_the_environment_that_the_plan_did_not_name(facts):
    assert set(facts["env"]) <= {"GIVEN", "MARK", "HOME", "PWD", "LC_CTYPE"}


def test_descriptors_are_nothing_the_socket_and_two_ends_of_one_pipe(stage, facts):
    fds = facts["fds"]
    if stage[0].backend == "runc":  # it stands between with a pipe of its own for each
        assert all(fd.startswith("pipe:") for fd in fds[:3])
    else:
        assert fds[0] == "/dev/null"
        assert fds[1] == fds[2]
        assert fds[1].startswith("pipe:")
    assert fds[3].startswith("socket:")
    assert facts["other_fds"] == []


def test_the_root_and_etc_are_the_allow_list(facts):
    assert set(facts["root"]) <= {
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "opt", "home",
        "sbin", "sys", "tmp", "usr", "probe", "shared", "volume",
    }  # fmt: skip
    assert set(facts["etc"]) <= {
        "alternatives", "group", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd",
        "pki", "resolv.conf", "ssl",
    }  # fmt: skip
    # The way to an interpreter that lies under it, and nothing else.
    assert set(facts["home"]) <= {".pyenv", ".local"}
