"""What the worker is told of reading and writing: sizes as people write them, nothing impossible."""

from __future__ import annotations

import pytest
from glowplug_runtime.settings import SettingsError, load
from glowplug_worker.ports import IoLimits
from glowplug_worker.settings import WorkerSettings, io_limits


def _limits(**told: str) -> IoLimits:
    environ = {f"GLOWPLUG_WORKER_{name.upper()}": value for name, value in told.items()}
    return io_limits(load(WorkerSettings, "worker", environ))


def test_nothing_said_is_no_limit():
    assert _limits() == IoLimits()


def test_sizes_and_counts():
    assert _limits(io_read="50Mi", io_write="1000", io_reads="7", io_writes="9") == IoLimits(
        read_bytes=50 << 20, write_bytes=1000, reads=7, writes=9
    )


@pytest.mark.parametrize(
    ("name", "value"), [("io_read", "fast"), ("io_writes", "-1"), ("io_reads", str(2**32))]
)
def test_what_the_kernel_would_not_take_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"GLOWPLUG_WORKER_{name.upper()}="):
        _limits(**{name: value})
