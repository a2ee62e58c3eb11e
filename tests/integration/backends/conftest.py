"""Every backend, where it works; one that can't work here is skipped with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.ports import Backend
from glowplug_worker.runtime.cgroups import Cgroups, open_cgroups
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.launcher.client import Launcher, open_launcher


@pytest.fixture(params=["process", "bwrap", "oci-crun", "oci-runc"])
async def backend(request, tmp_path) -> AsyncIterator[Backend]:
    name, _, runtime = request.param.partition("-")
    with groups_of(tmp_path / "data") as cgroups, a_launcher() as launcher:
        try:
            yield await choose_backend(name, tmp_path / "data", cgroups, runtime, launcher=launcher)
        except UnavailableError as error:
            pytest.skip(f"{request.param}: {error.message}")


@contextlib.contextmanager
def a_launcher() -> Iterator[Launcher | None]:
    """What starts a worker's containers, gone at the end."""
    launcher = open_launcher()
    try:
        yield launcher
    finally:
        if launcher is not None:
            launcher.close()


@contextlib.contextmanager
def groups_of(directory: Path) -> Iterator[Cgroups]:
    """A worker's control groups, gone at the end."""
    cgroups = open_cgroups(directory)
    try:
        yield cgroups
    finally:
        cgroups.close()
        assert not [path for path in cgroups.paths if path.exists()]


@pytest.fixture
async def bwrap(tmp_path) -> Backend:
    try:
        return await choose_backend("bwrap", tmp_path / "data")
    except UnavailableError as error:
        pytest.skip(f"bwrap: {error.message}")
