"""Errors say which limits were reached, from the kernel's counts only; limits nobody holds are told."""

from __future__ import annotations

from glowplug_contracts.messages.invocation import RemoteError
from glowplug_worker.evidence import explain, refusal, unheld
from glowplug_worker.ports import Evidence, IoDone, IoLimits, Limits

LIMITS = Limits(memory_bytes=1000, cpu_millis=500, pids=64, disk_bytes=4096, disk_inodes=10)
NOTHING = Evidence(limits=LIMITS)
FAILED = RemoteError(code="function.failed", type="OSError", message="m", details={"a": 1})
LATE = RemoteError(code="function.timeout", type="FunctionTimeoutError", message="m")


def seen(**counts) -> Evidence:
    return Evidence(limits=LIMITS, **counts)


def test_without_evidence_an_error_stays_as_it_is():
    assert explain(FAILED, NOTHING, Evidence()) is FAILED


def test_refused_processes_are_told_once():
    told = explain(FAILED, seen(pids_refused=3), NOTHING)
    assert told.details == {"a": 1, "limits": {"pids": {"limit": 64, "refused": 3}}}
    assert told.type == "OSError"
    assert explain(FAILED, seen(pids_refused=3), seen(pids_refused=3)) is FAILED


def test_a_full_disk_is_told_as_long_as_it_is_full():
    full = seen(disk_full=True, disk_bytes=4000, disk_inodes=3)
    for told in (NOTHING, full):
        assert explain(FAILED, full, told).details["limits"] == {
            "disk": {"limit_bytes": 4096, "limit_inodes": 10, "used_bytes": 4000, "used_inodes": 3}
        }


def test_a_killed_child_is_told_where_the_container_lives_on():
    killed = seen(oom_kills=1, memory_peak_bytes=999)
    assert explain(FAILED, killed, NOTHING).details["limits"] == {
        "memory": {"limit_bytes": 1000, "peak_bytes": 999, "killed": 1}
    }


def test_withheld_processor_time_belongs_to_what_took_too_long():
    slow = seen(cpu_throttled_s=1.5)
    assert explain(LATE, slow, NOTHING).details["limits"] == {
        "cpu": {"limit_millis": 500, "withheld_s": 1.5}
    }
    assert explain(FAILED, slow, NOTHING) is FAILED


def test_what_disks_did_is_told_where_it_was_limited_and_took_too_long():
    io = IoLimits(writes=10)
    slow = Evidence(limits=Limits(io=io), io=IoDone(write_bytes=4096, writes=9))
    assert explain(LATE, slow, NOTHING).details["limits"] == {
        "io": {
            "limits": {"read_bytes": 0, "write_bytes": 0, "reads": 0, "writes": 10},
            "done": {"read_bytes": 0, "write_bytes": 4096, "reads": 0, "writes": 9},
        }
    }
    assert explain(FAILED, slow, NOTHING) is FAILED
    assert unheld(slow.limits, frozenset({"memory"})) == ("io",)


def test_limits_that_a_backend_can_not_hold():
    assert unheld(LIMITS, frozenset({"cpu", "pids"})) == ("memory", "disk")
    assert unheld(Limits(cpu_share_millis=500), frozenset()) == ()
    assert "limit of memory and disk" in refusal(("memory", "disk"), "process")
