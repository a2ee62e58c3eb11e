"""A service's image really builds, on a bare Debian, and runs without root.

One service stands for all: the recipes come from one template, and the worker's closure of members is the
largest. Needs root, buildah, debootstrap and a Debian mirror; skips with the reason where one is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.root]

SERVICE = "worker"
SUITE, SUITES_PYTHON = "bookworm", (3, 11)


class Buildah:
    """buildah with a storage of its own, without mounts or daemons."""

    def __init__(self, folder: Path) -> None:
        self.options = [f"--root={folder}/root", f"--runroot={folder}/run", "--storage-driver=vfs"]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["buildah", *self.options, *arguments],
            cwd=ROOT,
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    if os.geteuid() != 0:
        pytest.skip("building an image here needs root")
    for tool in ("buildah", "debootstrap", "unshare"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if sys.version_info[:2] != SUITES_PYTHON:
        pytest.skip(f"our wheels are not for {SUITE}'s Python")
    yield Buildah(tmp_path / "storage")
    shutil.rmtree(tmp_path, ignore_errors=True)  # gigabytes


@pytest.fixture
def base(buildah: Buildah, tmp_path: Path) -> str:
    """An image of a bare Debian with Python and its venv module, nothing else."""
    done = subprocess.run(
        [
            "unshare",  # what it mounts (the new system's /proc) is seen by nobody else
            "--mount",
            "debootstrap",
            "--variant=minbase",
            "--include=python3-minimal,python3-venv",
            SUITE,
            str(tmp_path / "debian"),
        ],
        capture_output=True,
        text=True,
        timeout=400,
    )
    if done.returncode:
        pytest.skip(f"debootstrap can't make a {SUITE}: {(done.stdout + done.stderr)[-300:]}")
    container = buildah("from", "scratch").stdout.strip()
    buildah("add", "-q", container, str(tmp_path / "debian"), "/")
    probe = buildah("run", container, "--", "true", check=False)
    if probe.returncode:
        pytest.skip(f"buildah can't run anything on this host: {probe.stderr[-300:]}")
    buildah("commit", "-q", "--rm", container, "base:latest")
    return "localhost/base:latest"


def test_a_services_image_builds_and_starts_without_root(
    buildah: Buildah, base: str, wheelhouse: Path
) -> None:
    buildah(
        "bud", "-q", "--network=host", f"--build-arg=BASE={base}", "--build-arg=PIP_NO_INDEX=1",
        "--build-arg=PIP_FIND_LINKS=/outside", f"--volume={wheelhouse}:/outside:ro",
        "-t", "built", "-f", f"services/{SERVICE}/Containerfile", ".",
    )  # fmt: skip
    container = buildah("from", "localhost/built").stdout.strip()
    helped = buildah("run", container, "--", f"glowplug-{SERVICE}", "--help")
    assert f"glowplug-{SERVICE}" in helped.stdout
    assert buildah("run", container, "--", "id", "-u").stdout.strip() == "10001"
    assert (
        buildah("run", container, "--", "sh", "-c", "ls /wheels 2>&1 || true").stdout.count("whl")
        == 0
    )
