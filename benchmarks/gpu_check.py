"""A real GPU through the platform, compared with nvidia-smi: run it where there is one.

    python -m benchmarks.gpu_check [--torch] > docs/gpu-check.json

Starts a platform of its own with the `process` backend (the driver's nodes are the host's), asks for one
device, computes on it, and compares what the platform says with what nvidia-smi says. With `--torch` the
computation is a torch matmul in an image with torch; otherwise the driver's own API, which needs no package.
Exit code 2: there is no GPU here, so nothing was shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

APP = '''
import ctypes, os, time
from glowplug import Image, function

IMAGE = Image(python_packages=["torch"]) if {torch} else Image()
NEED = dict(gpu="any", image=IMAGE, cpu=1, memory="8Gi", keep_warm_seconds=60)


def seen():
    cuda = ctypes.CDLL("libcuda.so.1")
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(96)
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDeviceGetName(name, 96, device) == 0
    raw = (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGetUuid(raw, device) == 0
    text = bytes(raw).hex()
    uuid = "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return cuda, device, {{"count": count.value, "name": name.value.decode(), "uuid": uuid}}


@function(**NEED)
def compute(mebibytes):
    """Hold memory on the device for a while, so that its use shows outside."""
    cuda, device, found = seen()
    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
    assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(mebibytes << 20)) == 0
    assert cuda.cuMemsetD8_v2(memory, ctypes.c_ubyte(7), ctypes.c_size_t(mebibytes << 20)) == 0
    back = ctypes.create_string_buffer(16)
    assert cuda.cuMemcpyDtoH_v2(back, memory, ctypes.c_size_t(16)) == 0
    time.sleep(8)  # two beats and more
    return found | {{"right": back.raw == bytes([7]) * 16, "env": os.environ["CUDA_VISIBLE_DEVICES"]}}


@function(**NEED)
def matmul(size):
    import torch
    a = torch.ones(size, size, device="cuda", dtype=torch.float32)
    right = bool((a @ a == size).all().item())
    return {{"right": right, "device": torch.cuda.get_device_name(0), "torch": torch.__version__}}
'''
HELD_MIB = 1024


def main() -> int:
    """Run the check; print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", action="store_true", help="a torch matmul, too (installs torch)")
    options = parser.parse_args()
    smi = from_smi()
    if not smi:
        print("no GPU here: nvidia-smi names none", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="glowplug-gpu-") as directory:
        found = {"nvidia_smi": smi} | check(Path(directory), torch=options.torch)
    found["agrees"] = agrees(found)
    print(json.dumps(found, indent=2))
    return 0 if all(found["agrees"].values()) else 1


def from_smi() -> list[dict[str, Any]]:
    """Return what nvidia-smi says, nothing where it is not."""
    if not shutil.which("nvidia-smi"):
        return []
    fields = "uuid,name,memory.total,driver_version"
    said = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split(", ") for line in said.stdout.splitlines() if line.startswith("GPU-")]
    return [dict(zip(("uuid", "name", "total_mib", "driver"), row, strict=True)) for row in rows]


def check(directory: Path, *, torch: bool) -> dict[str, Any]:
    """Run the app on a platform; return what it and the platform say."""
    from glowplug_local.ephemeral import open_ephemeral

    os.environ["GLOWPLUG_WORKER_BACKEND"] = "process"
    app = directory / "app" / "gpu_app.py"
    app.parent.mkdir()
    app.write_text(APP.format(torch=torch))
    with open_ephemeral(directory / "data") as (url, token):
        env = os.environ | {"GLOWPLUG_URL": url, "GLOWPLUG_TOKEN": token}
        command = [sys.executable, "-m", "glowplug.cli.main"]

        def cli(*arguments: str) -> Any:
            done = subprocess.run(
                [*command, *arguments], env=env, cwd=app.parent, check=True, capture_output=True
            )
            return json.loads(done.stdout or b"null")

        subprocess.run([*command, "deploy", app.name], env=env, cwd=app.parent, check=True)
        worker = cli("worker", "list", "--json")["workers"][0]
        calling = subprocess.Popen(
            [*command, "call", "compute", f"mebibytes={HELD_MIB}", "--json"],
            env=env,
            stdout=subprocess.PIPE,
        )
        peak: dict[str, Any] = {}
        while calling.poll() is None:
            shown = cli("worker", "show", worker["worker_id"], "--json")
            peak = max(peak, *shown["yours"], key=lambda one: one.get("gpu_bytes", 0))
            time.sleep(0.5)
        computed = json.loads(calling.communicate()[0])
        product = cli("call", "matmul", "size=4096", "--json") if torch else None
    return {"worker": worker, "computed": computed, "container": peak, "matmul": product}


def agrees(found: dict[str, Any]) -> dict[str, bool]:
    """Return what agrees."""
    offered = {gpu["gpu_id"]: gpu for gpu in found["worker"]["gpus"]}
    known = {one["uuid"]: one for one in found["nvidia_smi"]}
    inside = found["computed"]
    return {
        "same devices": set(offered) == set(known),
        "same memory": all(
            abs(offered[u]["memory_bytes"] / 2**20 - float(known[u]["total_mib"])) < 1024
            for u in set(offered) & set(known)
        ),
        "same driver": found["worker"]["driver"] == found["nvidia_smi"][0]["driver"],
        "one device inside, the one bound": inside["count"] == 1
        and inside["uuid"] == inside["env"],
        "computed right": inside["right"],
        "use is told": found["container"].get("gpu_bytes", 0) >= HELD_MIB << 20,
        "matmul right": found["matmul"] is None or found["matmul"]["right"],
    }


if __name__ == "__main__":
    sys.exit(main())
