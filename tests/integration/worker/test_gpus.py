"""A worker on a host with GPUs: NVML is a library of our own, everything above it is real."""

# ruff: noqa: ASYNC240 - small files

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_contracts.messages.container import (
    ContainerKind,
    ExecEvent,
    ExecInContainer,
    ExecReply,
)
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import GpuDevice
from glowplug_contracts.subjects import EXEC, EXEC_REPLY

from tests.support import nvml
from tests.support.builders_worker import GIB, WORKER, a_binding
from tests.support.eventually import eventually

LOOK = """
import msgspec, sys
from glowplug_worker.gpus.nvml import open_nvml
opened = open_nvml()
for line in sys.stdin:
    print(msgspec.json.encode([opened.driver, opened.found, opened.read()]).decode(), flush=True)
"""
# Inside: the node is another character device under the GPU's name, which reads zeros for ever.
INSIDE = """
import json, os
fd = os.open('/dev/nvidia0', os.O_RDWR)
names = sorted(name for name in os.listdir('/dev') if 'nvidia' in name)
print(json.dumps([os.environ['CUDA_VISIBLE_DEVICES'], names, os.read(fd, 2) == bytes(2)]))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


class Looking:
    """A process that opened the driver and looks when it is told."""

    def __init__(self, library: Path, scenario: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | nvml.environment(library, scenario),
        )

    def look(self) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        driver, found, readings = json.loads(self.process.stdout.readline())
        return driver, found, readings


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario"
    path.write_text(nvml.TWO_H100)
    return path


@pytest.fixture
def looking(library: Path, scenario: Path, request: pytest.FixtureRequest) -> Iterator[Looking]:
    scenario.write_text(getattr(request, "param", nvml.TWO_H100))
    looking = Looking(library, scenario)
    yield looking
    looking.process.stdin.close()
    looking.process.wait(30)
    looking.process.stdout.close()


def test_two_gpus_are_found_read_and_one_is_lost(looking: Looking, scenario: Path) -> None:
    driver, found, read = looking.look()
    assert driver == "550.54.15"
    assert [(each["gpu_id"], each["kind"], each["minor"]) for each in found] == [
        ("GPU-zero", "H100", 0),
        ("GPU-one", "H100", 1),
    ]
    assert read["devices"]["GPU-zero"] == {"used_bytes": GIB, "busy": 0.25}
    scenario.write_text(
        nvml.TWO_H100.replace("used=0 busy=0 mig=0", "used=0 busy=0 mig=0 lost=1")
        + "use 0 pid=7 bytes=1024 sm=50\nxid 0 31\nxid 0 79\necc 0\n"
    )
    _, _, read = looking.look()
    assert read["uses"] == [{"gpu_id": "GPU-zero", "pid": 7, "used_bytes": 1024, "busy": 0.5}]
    told = [(each["gpu_id"], each["what"], each.get("number", 0)) for each in read["faults"]]
    assert told == [
        ("GPU-zero", "xid", 31),
        ("GPU-zero", "xid", 79),
        ("GPU-zero", "ecc", 0),
        ("GPU-one", "lost", 0),
    ]
    assert not looking.look()[2].get("faults"), "it is told once"


@pytest.mark.parametrize("looking", [nvml.ONE_CUT], indirect=True)
def test_a_gpu_that_is_cut_is_its_parts(looking: Looking, scenario: Path) -> None:
    _, found, _ = looking.look()
    assert [(each["gpu_id"], each["kind"], each["index"]) for each in found] == [
        ("GPU-whole", "H100", "0"),
        ("MIG-a", "H100-1g.10gb", "1:0"),
        ("MIG-b", "H100-3g.40gb", "1:1"),
    ]
    assert [each.get("parent", "") for each in found] == ["", "GPU-cut", "GPU-cut"]
    scenario.write_text(nvml.ONE_CUT + "xid 1 94 gi=2 ci=0\n")
    (fault,) = looking.look()[2]["faults"]
    assert (fault["gpu_id"], fault["gpu_instance"]) == ("GPU-cut", 2)


# -- the whole worker ------------------------------------------------------------------------------


def why_not_oci() -> str:
    if os.geteuid() != 0:
        return "only root makes containers with crun"
    return "" if shutil.which("crun") or shutil.which("runc") else "neither crun nor runc is here"


@pytest.fixture(
    params=[
        "auto",
        pytest.param(
            "oci", marks=pytest.mark.skipif(bool(why_not_oci()), reason=why_not_oci() or "-")
        ),
    ]
)
async def data(
    library: Path,
    scenario: Path,
    tmp_path: Path,
    nats_server: Any,
    rest: Any,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Path]:
    """The data directory of a real worker that sees the scenario's GPUs."""
    tmp_path.chmod(0o755)
    (tmp_path / "cdi").mkdir()
    description = {
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                "name": "GPU-zero",
                "containerEdits": {
                    "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/zero"}]
                },
            }
        ],
    }
    (tmp_path / "cdi" / "nvidia.json").write_text(json.dumps(description))
    env = nvml.environment(library, scenario) | {
        "GLOWPLUG_NATS_URL": nats_server.url,
        "GLOWPLUG_INSTANCE": WORKER,
        "GLOWPLUG_WORKER_DATA_DIR": str(tmp_path / "data" / "worker-1"),
        "GLOWPLUG_WORKER_BACKEND": request.param,
        "GLOWPLUG_WORKER_CPU": "8",
        "GLOWPLUG_WORKER_MEMORY": "8Gi",
        "GLOWPLUG_WORKER_CDI_DIRS": str(tmp_path / "cdi"),
    }
    log = (tmp_path / "worker.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "glowplug_worker", env=os.environ | env, stdout=log, stderr=log
    )
    try:
        await eventually(lambda: rest.beats, what="the worker is there")
        yield tmp_path / "data" / "worker-1"
    finally:
        process.terminate()
        await process.wait()
        log.close()


async def test_a_gpu_reaches_a_container_is_measured_and_its_loss_ends_the_container(
    data: Path, scenario: Path, rest: Any, bus: Any
) -> None:
    heard: list[ExecEvent] = []

    async def hear(delivery: Any) -> None:
        heard.append(delivery.message)

    await bus.listen(EXEC_REPLY.pattern(instance="test"), hear)
    assert rest.beats[-1].driver == "550.54.15"
    assert rest.beats[-1].gpus == (
        GpuDevice(gpu_id="GPU-zero", kind="H100", memory_bytes=80 * GIB),
        GpuDevice(gpu_id="GPU-one", kind="H100", memory_bytes=80 * GIB),
    )
    resources = Resources(cpu_millis=100, memory_bytes=1 << 20, gpus=("H100",), gpu_count=1)
    binding = msgspec.structs.replace(
        a_binding(kind=ContainerKind.SANDBOX, source=None, resources=resources),
        gpu_ids=("GPU-zero",),
    )
    assert (await rest.bind(binding)).accepted
    await rest.change("ready")
    isolated = rest.beats[-1].backend != "process"
    if isolated:
        message = ExecInContainer(
            container_id="ctr_1", exec_id="ex_1", reply_to="test", mode="code", code=INSIDE
        )
        reply = await bus.request(EXEC.at(worker_id=WORKER), message, ExecReply, timeout_s=10)
        assert reply.accepted, reply.reason
        await eventually(lambda: any(each.kind == "ended" for each in heard))
        said = b"".join(each.data for each in heard if each.kind == "stdout")
        assert json.loads(said) == ["GPU-zero", ["nvidia0"], True], heard

    pid = json.loads((data / "containers" / "ctr_1" / "process.json").read_text())["pid"]
    scenario.write_text(nvml.TWO_H100 + f"use 0 pid={pid} bytes=4096 sm=50\nxid 0 31\n")
    await eventually(
        lambda: [(c.gpu_bytes, c.gpu_busy) for c in rest.beats[-1].containers] == [(4096, 0.5)]
    )
    assert "failed" not in rest.states()

    scenario.write_text(nvml.TWO_H100 + "xid 0 31\nxid 0 79\n")
    failed = await rest.change("failed")
    assert (failed.reason, failed.error.code) == ("gpu_lost", "container.gpu_lost")
    assert failed.error.message.endswith("its GPU GPU-zero is out of service: Xid 79")
    await eventually(lambda: [each.gpu_id for each in rest.beats[-1].gpus] == ["GPU-one"])
    assert [(each.gpu_id, each.broken) for each in rest.beats[-1].gpu_states] == [
        ("GPU-zero", "Xid 79"),
        ("GPU-one", ""),
    ]
    again = msgspec.structs.replace(binding, container_id="ctr_2")
    assert (await rest.bind(again)).reason == "full"
