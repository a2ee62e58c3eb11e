"""Each distribution declares what it needs: installed alone, from wheels, it starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import MEMBERS, distribution, manifest, package

pytestmark = pytest.mark.slow

UV = str(Path(sys.executable).with_name("uv"))
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__") and ".runner.boot" not in module.name:
        importlib.import_module(module.name)
"""


def installed_alone(name: str, wheelhouse: Path, folder: Path) -> Path:
    """Make a venv with one distribution and what it declares; return its bin folder."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    done = subprocess.run(
        [
            UV,
            "pip",
            "install",
            "-q",
            "--no-config",
            "--python",
            str(python),
            "--no-index",
            "--find-links",
            str(wheelhouse),
            name,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return python.parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_works_with_only_what_it_declares(
    member: str, wheelhouse: Path, tmp_path: Path
) -> None:
    bin_folder = installed_alone(distribution(member), wheelhouse, tmp_path / "venv")
    done = run(str(bin_folder / "python"), "-W", "error", "-c", IMPORT_ALL, package(member))
    assert done.returncode == 0, done.stderr
    for command in manifest(member)["project"].get("scripts", {}):
        helped = run(str(bin_folder / command), "--help")
        assert helped.returncode == 0, helped.stderr
        assert command in helped.stdout
    if member == "sdk":
        nats = run(str(bin_folder / "python"), "-c", "import nats")
        assert "ModuleNotFoundError" in nats.stderr, "the SDK needs no broker's client"
    shutil.rmtree(tmp_path / "venv")
