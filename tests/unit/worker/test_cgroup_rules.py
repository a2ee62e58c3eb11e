"""Where control groups lie, what is written into them, and what their files mean: v1, v2 and hybrid."""

from __future__ import annotations

from pathlib import Path

import pytest
from glowplug_worker.ports import IoDone, IoLimits, Limits
from glowplug_worker.runtime.cgroup_rules import (
    device_writes,
    find_hierarchies,
    read_evidence,
    writes,
)

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
HYBRID_OWN = "8:pids:/\n7:blkio:/\n4:memory:/api/x\n1:cpu:/\n0::/\n"
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
DOCKER_V1 = """\
90 80 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
91 80 0:31 /docker/abc /sys/fs/cgroup/memory ro master:12 - cgroup cgroup rw,memory
"""
LIMITS = Limits(memory_bytes=1 << 28, cpu_millis=1500, cpu_share_millis=500, pids=64)


def test_on_a_hybrid_host_each_controller_is_taken_from_where_it_is():
    found = find_hierarchies(HYBRID, HYBRID_OWN, "hugetlb")
    assert {each.controllers: (each.version, str(each.own)) for each in found} == {
        ("cpu",): (1, "/sys/fs/cgroup/cpu"),
        ("memory",): (1, "/sys/fs/cgroup/memory/api/x"),
        ("blkio",): (1, "/sys/fs/cgroup/blkio"),
        ("pids",): (1, "/sys/fs/cgroup/pids"),
    }


def test_a_hybrid_host_may_leave_some_controllers_to_the_unified_hierarchy():
    without_memory = "\n".join(line for line in HYBRID.splitlines() if "memory" not in line)
    found = find_hierarchies(without_memory, HYBRID_OWN, "hugetlb memory")
    assert [(each.version, each.controllers) for each in found] == [
        (1, ("cpu",)),
        (1, ("blkio",)),
        (1, ("pids",)),
        (2, ("memory",)),
    ]


def test_the_unified_hierarchy():
    (found,) = find_hierarchies(
        UNIFIED, "0::/user.slice/app\n", "cpuset cpu io memory hugetlb pids rdma"
    )
    assert (found.version, set(found.controllers)) == (2, {"cpu", "io", "memory", "pids"})
    assert found.own == Path("/sys/fs/cgroup/user.slice/app")


def test_inside_a_docker_container_our_place_is_what_is_mounted():
    found = find_hierarchies(DOCKER_V1, "4:memory:/docker/abc/w\n3:cpu,cpuacct:/docker/abc\n")
    assert [str(each.own) for each in found] == [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/memory/w",
    ]
    elsewhere = find_hierarchies(DOCKER_V1, "4:memory:/other\n3:cpu,cpuacct:/other\n")
    assert str(elsewhere[1].own) == "/sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("version", "controller", "expected"),
    [
        (
            1,
            "memory",
            {"memory.limit_in_bytes": "268435456", "memory.memsw.limit_in_bytes": "268435456"},
        ),
        (2, "memory", {"memory.max": "268435456", "memory.swap.max": "0"}),
        (
            1,
            "cpu",
            {"cpu.shares": "512", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
        ),
        (2, "cpu", {"cpu.weight": "20", "cpu.max": "150000 100000"}),
        (1, "pids", {"pids.max": "64"}),
        (2, "pids", {"pids.max": "64"}),
        (1, "freezer", {}),
    ],
)
def test_what_holds_a_container(version, controller, expected):
    assert {each.file: each.value for each in writes(version, controller, LIMITS)} == expected


@pytest.mark.parametrize("version", [1, 2])
def test_no_limit_writes_nothing(version):
    assert [writes(version, each, Limits()) for each in ("memory", "cpu", "pids")] == [(), (), ()]


@pytest.mark.parametrize(
    ("version", "controller", "expected"),
    [
        (
            1,
            "blkio",
            {
                "blkio.throttle.read_bps_device": "254:0 1000",
                "blkio.throttle.write_iops_device": "254:0 7",
            },
        ),
        (2, "io", {"io.max": "254:0 rbps=1000 wiops=7"}),
        (2, "cpu", {}),
    ],
)
def test_what_holds_a_container_on_a_disk(version, controller, expected):
    limits = IoLimits(read_bytes=1000, writes=7)
    found = device_writes(version, controller, limits, "254:0")
    assert {each.file: each.value for each in found} == expected
    assert device_writes(version, controller, IoLimits(), "254:0") == ()


def test_what_disks_have_done():
    v1 = {
        "blkio.throttle.io_service_bytes": "254:0 Read 4096\n254:0 Write 100\n254:0 Sync 4196\n"
        "254:0 Total 4196\n7:0 Read 4\n7:0 Write 10\nTotal 4210\n",
        "blkio.throttle.io_serviced": "254:0 Read 1\n254:0 Write 2\n7:0 Read 3\nTotal 6\n",
    }
    v2 = {
        "io.stat": "254:0 rbytes=4096 wbytes=100 rios=1 wios=2 dbytes=9 dios=9\n"
        "7:0 rbytes=4 wbytes=10 rios=3 wios=0\n8:0\n"
    }
    expected = IoDone(read_bytes=4100, write_bytes=110, reads=4, writes=2)
    assert read_evidence(v1, LIMITS).io == read_evidence(v2, LIMITS).io == expected
    assert read_evidence({}, LIMITS).io == IoDone()


def test_evidence_of_v1():
    evidence = read_evidence(
        {
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "memory.max_usage_in_bytes": "268435456\n",
            "cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000\n",
            "cpuacct.usage": "1500000000\n",
            "pids.events": "max 7\n",
        },
        LIMITS,
    )
    assert (evidence.oom_kills, evidence.memory_peak_bytes) == (2, 1 << 28)
    assert (evidence.pids_refused, evidence.cpu_s, evidence.cpu_throttled_s) == (7, 1.5, 2.5)


def test_evidence_of_v2():
    evidence = read_evidence(
        {
            "memory.events": "low 0\nhigh 0\nmax 19\noom 1\noom_kill 1\noom_group_kill 0\n",
            "memory.peak": "268435456\n",
            "cpu.stat": "usage_usec 1500000\nnr_throttled 3\nthrottled_usec 2500000\n",
            "pids.events": "max 7\n",
        },
        LIMITS,
    )
    assert (evidence.oom_kills, evidence.memory_peak_bytes) == (1, 1 << 28)
    assert (evidence.pids_refused, evidence.cpu_s, evidence.cpu_throttled_s) == (7, 1.5, 2.5)


def test_files_that_are_missing_or_odd_count_as_nothing():
    assert read_evidence({"memory.peak": "max\n", "cpu.stat": "\n x"}, Limits()).oom_kills == 0
