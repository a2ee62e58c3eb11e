"""What workers offer, and how those of one host share it."""

from __future__ import annotations

from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.messages.container import BindContainer
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import GpuDevice
from glowplug_runtime.settings import SettingsError
from glowplug_worker.capacity import Offer, refuse_for_capacity
from glowplug_worker.inventory import (
    Claim,
    decide_offer,
    host_bytes,
    host_millis,
    open_directory,
    open_offers,
    read_claims,
)
from glowplug_worker.settings import WorkerSettings, parse_bytes, parse_gpus

from tests.support.builders_worker import GIB, a_binding

GPU = GpuDevice(gpu_id="GPU-1", kind="H100", memory_bytes=80 * GIB)


def test_the_second_worker_of_a_host_offers_what_the_first_leaves(tmp_path: Path) -> None:
    half = WorkerSettings(cpu=0.5, memory="64Mi")
    with open_offers(half, "worker-1", tmp_path) as offers:
        first = offers.renew()
        assert (first.cpu_millis, first.memory_bytes) == (500, 64 * 1024**2)
        with open_offers(WorkerSettings(), "worker-2", tmp_path) as others:
            second = others.renew()
            assert second.cpu_millis == host_millis() - 500
            assert second.memory_bytes < host_bytes() - 64 * 1024**2
    assert read_claims(tmp_path) == []


def test_workers_that_nobody_limits_share_the_host_evenly_whoever_came_first(
    tmp_path: Path,
) -> None:
    with open_offers(WorkerSettings(), "worker-1", tmp_path) as first:
        assert first.renew().cpu_millis == host_millis()
        with open_offers(WorkerSettings(), "worker-2", tmp_path) as second:
            assert second.renew().cpu_millis == host_millis() // 2
            assert first.renew().cpu_millis == host_millis() // 2
        assert first.renew().cpu_millis == host_millis()


def test_what_the_first_has_promised_already_is_not_offered_again(tmp_path: Path) -> None:
    with (
        open_offers(WorkerSettings(), "worker-1", tmp_path) as first,
        open_offers(WorkerSettings(), "worker-2", tmp_path) as second,
    ):
        first.renew(held_millis=host_millis() - 100)
        assert second.renew().cpu_millis == 100
        first.renew(held_millis=0)
        assert second.renew().cpu_millis == host_millis() // 2


def test_a_worker_that_was_killed_does_not_count_its_own_old_claim(tmp_path: Path) -> None:
    (tmp_path / "worker-1.json").write_text(
        '{"worker":"worker-1","cpu_millis":99000,"memory_bytes":1}'
    )
    with open_offers(WorkerSettings(), "worker-1", tmp_path) as offers:
        assert offers.renew().cpu_millis == host_millis()


def test_claims_of_dead_workers_count_no_more(tmp_path: Path) -> None:
    left = tmp_path / "worker-9.json"
    left.write_text('{"worker":"worker-9","cpu_millis":99000,"memory_bytes":1}')
    with open_offers(WorkerSettings(), "worker-1", tmp_path) as offers:
        assert offers.renew().cpu_millis == host_millis()
    assert not left.exists()


def test_two_workers_of_one_name_or_one_directory_are_refused(tmp_path: Path) -> None:
    with (
        open_offers(WorkerSettings(), "worker-1", tmp_path),
        pytest.raises(UnavailableError, match="worker-1 runs on this host"),
        open_offers(WorkerSettings(), "worker-1", tmp_path),
    ):
        pass
    with (
        open_directory(tmp_path / "d"),
        pytest.raises(UnavailableError, match="another worker uses"),
        open_directory(tmp_path / "d"),
    ):
        pass
    with open_directory(tmp_path / "d"):
        pass


def test_real_gpus_are_offered_once_and_simulated_ones_instead_where_asked() -> None:
    claims = [Claim(worker="w", cpu_millis=0, memory_bytes=0, gpu_ids=("GPU-1",))]
    assert decide_offer(WorkerSettings(), 1000, GIB, (GPU,), []).gpus == (GPU,)
    assert decide_offer(WorkerSettings(), 1000, GIB, (GPU,), claims).gpus == ()
    simulated = decide_offer(WorkerSettings(gpus="A10G:2"), 1000, GIB, (GPU,), []).gpus
    assert [(each.kind, each.simulated) for each in simulated] == [("A10G", True)] * 2
    assert len({each.gpu_id for each in simulated}) == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 0), ("1024", 1024), ("2Gi", 2 * GIB), ("1.5mb", 1_500_000), ("512KI", 524_288)],
)
def test_reads_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["8 giga", "-1", "Gi"])
def test_refuses_other_sizes(text: str) -> None:
    with pytest.raises(SettingsError, match="GLOWPLUG_WORKER_MEMORY"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["A10G:x", ":2", "A10G:65", "a b:1"])
def test_refuses_other_gpus(text: str) -> None:
    with pytest.raises(SettingsError, match="GLOWPLUG_WORKER_GPUS"):
        parse_gpus(text)


def needing(name: str, gpu: str = "", **fields: int) -> BindContainer:
    binding = a_binding(name, resources=Resources(**fields))
    return binding.__class__(
        container_id=binding.container_id,
        generation=1,
        spec=binding.spec,
        gpu_ids=(gpu,) if gpu else (),
    )


def test_refuses_what_does_not_fit_beside_the_live_ones() -> None:
    offer = Offer(host="h", cpu_millis=1000, memory_bytes=GIB, gpus=(GPU,))
    live = [needing("ctr_1", gpu="GPU-1", cpu_millis=600, memory_bytes=GIB // 2)]
    fits = needing("ctr_2", cpu_millis=400, memory_bytes=GIB // 2)
    assert refuse_for_capacity(offer, live, fits) == ""
    assert refuse_for_capacity(offer, live, needing("c", cpu_millis=401, memory_bytes=1)) == "full"
    assert refuse_for_capacity(offer, live, needing("c", cpu_millis=1, memory_bytes=GIB)) == "full"
    taken = needing("c", gpu="GPU-1", cpu_millis=1, memory_bytes=1)
    assert refuse_for_capacity(offer, live, taken) == "full"
    assert refuse_for_capacity(offer, [], taken) == ""
    unknown = needing("c", gpu="GPU-2", cpu_millis=1, memory_bytes=1)
    assert refuse_for_capacity(offer, [], unknown) == "full"
