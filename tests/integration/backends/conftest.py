"""Both backends, where they work; a backend that can't work here is skipped with its reason."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.ports import Backend
from glowplug_worker.runtime.choose import choose_backend


@pytest.fixture(params=["process", "bwrap"])
async def backend(request, tmp_path) -> Backend:
    try:
        return await choose_backend(request.param, tmp_path / "data")
    except UnavailableError as error:
        pytest.skip(f"{request.param}: {error.message}")


@pytest.fixture
async def bwrap(tmp_path) -> Backend:
    try:
        return await choose_backend("bwrap", tmp_path / "data")
    except UnavailableError as error:
        pytest.skip(f"bwrap: {error.message}")
