"""A GPU host on a machine without one: builds the fake NVML, writes its scenarios."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake.c")
TWO_H100 = """
driver 550.54.15
gpu 0 uuid=GPU-zero name=NVIDIA_H100_80GB_HBM3 minor=0 total=85899345920 used=1073741824 busy=25 mig=0
gpu 1 uuid=GPU-one name=NVIDIA_H100_80GB_HBM3 minor=1 total=85899345920 used=0 busy=0 mig=0
"""
ONE_CUT = """
driver 550.54.15
gpu 0 uuid=GPU-whole name=NVIDIA_H100_80GB_HBM3 minor=0 total=85899345920 used=0 busy=0 mig=0
gpu 1 uuid=GPU-cut name=NVIDIA_H100_80GB_HBM3 minor=1 total=85899345920 used=0 busy=0 mig=1
mig 1 0 uuid=MIG-a name=NVIDIA_H100_80GB_HBM3_MIG_1g.10gb total=10737418240 used=0 gi=7 ci=0
mig 1 2 uuid=MIG-b name=NVIDIA_H100_80GB_HBM3_MIG_3g.40gb total=42949672960 used=0 gi=2 ci=0
"""


def build(directory: Path) -> Path:
    """Build the library; return its directory, for LD_LIBRARY_PATH. Skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the fake NVML with")
    directory.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(directory / "libnvidia-ml.so.1")]
    subprocess.run([*command, str(SOURCE)], check=True, capture_output=True, text=True)
    return directory


def environment(library: Path, scenario: Path) -> dict[str, str]:
    """Return what makes a process see the scenario's GPUs."""
    return {"LD_LIBRARY_PATH": str(library), "GLOWPLUG_FAKE_NVML": str(scenario)}
