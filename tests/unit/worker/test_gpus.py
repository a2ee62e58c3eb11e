"""GPUs: what a fault breaks, what a container is given, who uses what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import ContainerId
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import GpuDevice
from glowplug_worker.capacity import Offer, refuse_for_capacity
from glowplug_worker.gpus import grants
from glowplug_worker.gpus.health import PROGRAMS_OWN, broken_by
from glowplug_worker.gpus.model import Fault, Found, Reading, Readings, Use
from glowplug_worker.gpus.nvml import kind_of
from glowplug_worker.gpus.watch import Gpus, mps_env
from glowplug_worker.ports import DeviceNode

from tests.support.builders_worker import GIB, a_binding

WHOLE = Found(gpu_id="GPU-0", kind="H100", memory_bytes=80 * GIB, index="0", minor=0)
PART_A, PART_B = (
    Found(
        gpu_id=f"MIG-{name}",
        kind="H100-1g.10gb",
        memory_bytes=10 * GIB,
        index=f"1:{at}",
        minor=1,
        parent="GPU-1",
        gpu_instance=7 + at,
        compute_instance=0,
    )
    for at, name in enumerate("ab")
)
ALL = (WHOLE, PART_A, PART_B)


class FakeDriver:
    """A driver whose next look tests write."""

    driver = "550.54.15"
    found = ALL

    def __init__(self) -> None:
        self.next = Readings()
        self.closed = False

    def read(self) -> Readings:
        return self.next

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (Fault(gpu_id="GPU-0", what="xid", number=79), ["GPU-0"]),
        (Fault(gpu_id="GPU-0", what="ecc"), ["GPU-0"]),
        (Fault(gpu_id="GPU-0", what="lost"), ["GPU-0"]),
        (Fault(gpu_id="GPU-1", what="xid", number=48), ["MIG-a", "MIG-b"]),
        (Fault(gpu_id="GPU-1", what="xid", number=48, gpu_instance=8), ["MIG-b"]),
        (Fault(gpu_id="GPU-1", what="ecc", gpu_instance=7, compute_instance=0), ["MIG-a"]),
        (Fault(gpu_id="GPU-1", what="ecc", gpu_instance=7, compute_instance=1), []),
        (Fault(gpu_id="", what="xid", number=79), []),
        *((Fault(gpu_id="GPU-0", what="xid", number=n), []) for n in sorted(PROGRAMS_OWN)),
    ],
)
def test_a_fault_breaks_the_devices_it_concerns_and_a_programs_own_breaks_none(
    fault: Fault, broken: list[str]
) -> None:
    assert broken_by(fault, ALL) == broken


def test_what_broke_is_told_once_and_not_offered_any_more() -> None:
    driver, told = FakeDriver(), []
    gpus = Gpus(driver)
    gpus.on_broken = lambda gpu_id, why: told.append((gpu_id, why))
    driver.next = Readings(
        devices={"GPU-0": Reading(used_bytes=5, busy=0.5)},
        faults=(Fault(gpu_id="GPU-1", what="xid", number=79),) * 2,
    )
    gpus.take(gpus.look())
    assert told == [("MIG-a", "Xid 79"), ("MIG-b", "Xid 79")]
    assert [each.gpu_id for each in gpus.offered()] == ["GPU-0"]
    assert [(each.gpu_id, each.used_bytes, each.broken) for each in gpus.states()] == [
        ("GPU-0", 5, ""),
        ("MIG-a", 0, "Xid 79"),
        ("MIG-b", 0, "Xid 79"),
    ]
    gpus.close()
    assert driver.closed


def test_without_a_driver_there_is_nothing() -> None:
    gpus = Gpus()
    gpus.take(gpus.look())
    assert (gpus.offered(), gpus.states(), gpus.driver) == ((), (), "")
    assert gpus.grant(["simulated-A10G-0"], 0, shares_ipc=False) == grants.Granted()


def test_use_is_counted_for_the_container_above_the_process() -> None:
    driver = FakeDriver()
    gpus = Gpus(driver)
    driver.next = Readings(
        uses=(
            Use(gpu_id="GPU-0", pid=30, used_bytes=100, busy=0.7),
            Use(gpu_id="GPU-0", pid=21, used_bytes=10, busy=0.6),
            Use(gpu_id="GPU-0", pid=99, used_bytes=1000, busy=0.1),
        )
    )
    gpus.take(gpus.look())
    parents = {30: 20, 21: 20, 20: 10, 10: 1, 99: 1}
    one, other = ContainerId("ctr_1"), ContainerId("ctr_2")
    used = gpus.used({one: 10, other: 50}, lambda pid: parents.get(pid, 0))
    assert used == {one: (110, 1.0)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100-SXM4-40GB-1g.5gb"),
        ("NVIDIA", "NVIDIA"),
    ],
)
def test_kinds_are_models(name: str, kind: str) -> None:
    assert kind_of(name) == kind


# -- what a container gets -------------------------------------------------------------------------


def a_description(directory: Path, name: str, **device: object) -> None:
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": name, "containerEdits": device}],
        "containerEdits": {
            "deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/dev/zero"}],
            "env": ["NVIDIA_VISIBLE_DEVICES=void", "FROM_CDI=yes"],
            "mounts": [
                {"hostPath": "/usr/lib/libcuda.so.1", "containerPath": "/usr/lib/libcuda.so.1"},
                {"hostPath": str(directory / "lib.so"), "containerPath": "/drv/libcuda.so.1"},
                {"hostPath": "/nowhere", "containerPath": "/opt/x"},
                {"hostPath": str(directory), "containerPath": "relative"},
            ],
            "hooks": [{"hookName": "createContainer", "path": "/bin/sh"}],
        },
    }
    (directory / "lib.so").touch()
    (directory / "nvidia.json").write_text(json.dumps(spec))


def test_a_host_s_descriptions_say_what_a_container_gets(tmp_path: Path) -> None:
    a_description(tmp_path, "0", deviceNodes=[{"path": "/dev/nvidia0", "hostPath": "/dev/full"}])
    granted = Gpus(FakeDriver(), cdi=[tmp_path]).grant(["GPU-0"], 0, shares_ipc=False)
    assert granted.devices == (
        DeviceNode(path="/dev/nvidiactl", source="/dev/zero", major=1, minor=5),
        DeviceNode(path="/dev/nvidia0", source="/dev/full", major=1, minor=7),
    )
    assert [(each.target, each.writable) for each in granted.binds] == [
        ("/drv/libcuda.so.1", False)
    ]
    assert granted.env == {
        "FROM_CDI": "yes",
        "LD_LIBRARY_PATH": "/drv",
        "CUDA_VISIBLE_DEVICES": "GPU-0",
        "NVIDIA_VISIBLE_DEVICES": "GPU-0",
    }


def test_descriptions_in_yaml_are_read_and_broken_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: nvidia.com/gpu\ndevices:\n- name: MIG-a\n  containerEdits:\n"
        "    deviceNodes:\n    - path: /dev/full\n"
    )
    (tmp_path / "b.yaml").write_text("kind: [")
    (tmp_path / "c.json").write_text('{"kind": "nvidia.com/gpu", "devices": 7}')
    (tmp_path / "d.json").write_text('{"kind": "vendor.com/nic", "devices": []}')
    (spec,) = grants.read_specs([tmp_path, tmp_path / "absent"])
    assert grants.grant([PART_A], [spec]).devices == (
        DeviceNode(path="/dev/full", major=1, minor=7),
    )


def test_without_descriptions_the_driver_s_names_count_and_a_missing_node_is_said() -> None:
    with pytest.raises(UnavailableError, match="device node /dev/nvidia0 can't be used"):
        grants.grant([WHOLE], [])


def test_a_description_whose_node_is_no_device_is_refused(tmp_path: Path) -> None:
    a_description(tmp_path, "0", deviceNodes=[{"path": "/etc/shadow"}])
    with pytest.raises(UnavailableError, match="/etc/shadow is no device node"):
        grants.grant([WHOLE], grants.read_specs([tmp_path]))


def test_driver_files_are_found_in_the_linker_s_cache(tmp_path: Path) -> None:
    cache = tmp_path / "ld.so.cache"
    cache.write_bytes(
        b"\1libcuda.so.1\0/opt/drv/libcuda.so.550.54\0/usr/lib/libc.so.6\0"
        b"/opt/drv/libnvidia-ml.so.1\0/opt/drv/libnvidia-encode.so.1\0"
    )
    assert grants.driver_files(cache) == [
        "/opt/drv/libcuda.so.550.54",
        "/opt/drv/libnvidia-ml.so.1",
    ]
    assert grants.driver_files(tmp_path / "absent") == []


def test_a_part_is_held_by_mps_only_where_it_runs_and_can_be_reached(tmp_path: Path) -> None:
    a_description(tmp_path, "0")
    pipes = tmp_path / "mps"
    gpus = Gpus(FakeDriver(), cdi=[tmp_path], mps=pipes)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in gpus.grant(["GPU-0"], GIB, shares_ipc=True).env
    assert "accounting only" in gpus.describe()
    pipes.mkdir()
    (pipes / "control").touch()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in gpus.grant(["GPU-0"], GIB, shares_ipc=False).env
    held = gpus.grant(["GPU-0"], 8 * GIB, shares_ipc=True).env
    assert held["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    assert held["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "10"
    assert mps_env(1, 1 << 50, pipes)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "1"


@pytest.mark.parametrize(
    ("live", "wanted", "answer"),
    [
        ([], 0, ""),
        ([0], 0, "full"),
        ([0], GIB, "full"),
        ([GIB], 0, "full"),
        ([GIB], GIB, ""),
        ([GIB, GIB // 2], GIB, "full"),
    ],
)
def test_the_worker_itself_checks_the_parts_of_a_gpu(
    live: list[int], wanted: int, answer: str
) -> None:
    device = GpuDevice(gpu_id="GPU-0", kind="T4", memory_bytes=2 * GIB)
    offer = Offer(host="h", cpu_millis=9000, memory_bytes=9 * GIB, gpus=(device,))

    def bound(number: int, part: int):
        spec = Resources(cpu_millis=1, memory_bytes=1, gpu_memory_bytes=part)
        binding = a_binding(f"ctr_{number}", resources=spec)
        return binding.__class__(
            **{f: getattr(binding, f) for f in binding.__struct_fields__} | {"gpu_ids": ("GPU-0",)}
        )

    living = [bound(n, part) for n, part in enumerate(live)]
    assert refuse_for_capacity(offer, living, bound(9, wanted)) == answer
