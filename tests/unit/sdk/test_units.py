"""What people write for cpu, memory and gpu."""

from __future__ import annotations

import pytest
from glowplug.units import (
    CpuNeed,
    GpuNeed,
    MemoryNeed,
    parse_cpu,
    parse_cpu_need,
    parse_disk,
    parse_gpu,
    parse_memory,
)

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("written", "millis"),
    [(1, 1000), (0.125, 125), ("500m", 500), ("1.5", 1500), (2.0, 2000)],
)
def test_cpu_is_cores_or_millicores(written, millis):
    assert parse_cpu(written) == millis


@pytest.mark.parametrize("written", [0, -1, "many", "500M", True, None, 2000, (1, 2), [1]])
def test_other_cpu_is_refused(written):
    with pytest.raises((TypeError, ValueError), match="cpu="):
        parse_cpu(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (512, 512 * MIB),
        ("512Mi", 512 * MIB),
        ("16Gi", 16 * 1024 * MIB),
        ("2gb", 2_000_000_000),
        ("2GB", 2_000_000_000),
        ("1.5Gi", 1536 * MIB),
        ("2048ki", 2 * MIB),
        ("1500kb", 1_500_000),
        ("250mb", 250_000_000),
    ],
)
def test_memory_that_is_given_is_the_limit(written, size):
    assert parse_memory(written) == MemoryNeed(size, size)


def test_unset_memory_requests_a_little_and_limits_nothing():
    assert parse_memory(None) == MemoryNeed(128 * MIB, 0)


def test_a_pair_is_request_and_limit():
    assert parse_memory(("256Mi", "1Gi")) == MemoryNeed(256 * MIB, 1024 * MIB)


@pytest.mark.parametrize(
    "written", ["512", "1.2.3Gi", "5 apples", 1.5, True, 0, "10kb", ("1Gi", "1Mi"), (1, 2, 3)]
)
def test_other_memory_is_refused(written):
    with pytest.raises((TypeError, ValueError), match="memory="):
        parse_memory(written)


@pytest.mark.parametrize(
    ("kind", "count", "need"),
    [
        ("", None, GpuNeed((), 0)),
        ("A10G", None, GpuNeed(("A10G",), 1)),
        ("H100:2", None, GpuNeed(("H100",), 2)),
        ("any", 3, GpuNeed(("any",), 3)),
        ("ANY", None, GpuNeed(("any",), 1)),
        (["A10G", "T4"], None, GpuNeed(("A10G", "T4"), 1)),
        (["A10G:2", "T4:2"], 2, GpuNeed(("A10G", "T4"), 2)),
    ],
)
def test_gpus_are_kinds_in_order_and_a_number(kind, count, need):
    assert parse_gpu(kind, count) == need


def test_a_part_of_a_gpu_is_its_memory():
    assert parse_gpu("any", None, "8Gi") == GpuNeed(("any",), 1, 8 * 1024**3)
    assert parse_gpu("H100", 1, 512) == GpuNeed(("H100",), 1, 512 * 1024**2)
    for kind, count in (("", None), ("any", 2)):
        with pytest.raises(ValueError, match="gpu_memory='8Gi' is a share of one device"):
            parse_gpu(kind, count, "8Gi")
    with pytest.raises(ValueError, match="gpu_memory='much'"):
        parse_gpu("any", None, "much")


@pytest.mark.parametrize(
    ("kind", "count"),
    [("", 1), ("A10G:2", 3), (["A10G:1", "T4:2"], None), ("A10G", 0), ("A 10", None), (7, None)],
)
def test_other_gpus_are_refused(kind, count):
    with pytest.raises((TypeError, ValueError), match="gpu"):
        parse_gpu(kind, count)


def test_a_pair_of_cores_is_request_and_limit() -> None:
    assert parse_cpu_need("500m") == CpuNeed(500)
    assert parse_cpu_need((0.5, 2)) == CpuNeed(500, 2000)
    for wrong in ((2, 1), (1,), (1, 2, 3), ("x", 1)):
        with pytest.raises(ValueError, match="cpu="):
            parse_cpu_need(wrong)


def test_a_disk_is_given_like_memory() -> None:
    assert parse_disk(None) == 0
    assert parse_disk(64) == parse_disk("64Mi") == 64 << 20
    for wrong in (1, "1Mi", "4000000Gi", "lots"):
        with pytest.raises(ValueError, match="ephemeral_disk="):
            parse_disk(wrong)
