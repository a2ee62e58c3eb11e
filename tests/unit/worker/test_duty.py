"""Out of service and back: what an operator's orders do to a worker and its containers."""

from __future__ import annotations

from pathlib import Path

import msgspec
from glowplug_contracts.messages.container import BindContainer, ContainerKind
from glowplug_contracts.messages.worker import WorkerOrder, WorkerOrdered
from glowplug_worker.duty import Duty

from tests.support.builders_worker import a_binding


class Box(msgspec.Struct, eq=False):
    binding: BindContainer
    stops: list[tuple[float, str]] = []

    def stop(self, grace_s: float, reason: str) -> None:
        self.stops.append((grace_s, reason))


def test_a_cordon_is_remembered_until_it_is_lifted(tmp_path: Path) -> None:
    duty = Duty(tmp_path)
    assert not duty.cordoned
    assert duty.take(WorkerOrder(order="cordon"), [], 0.0) == WorkerOrdered(cordoned=True)
    assert Duty(tmp_path).cordoned
    assert not duty.take(WorkerOrder(order="uncordon"), [], 0.0).cordoned
    assert not Duty(tmp_path).cordoned


def test_a_drain_asks_functions_at_once_and_ends_the_rest_when_the_grace_is_over(
    tmp_path: Path,
) -> None:
    function, sandbox = Box(a_binding()), Box(a_binding("ctr_2", kind=ContainerKind.SANDBOX))
    duty, boxes = Duty(tmp_path), [function, sandbox]
    said = duty.take(WorkerOrder(order="drain", grace_s=30.0), boxes, 100.0)
    assert said == WorkerOrdered(cordoned=True, containers=2)
    duty.tick(boxes, 129.0)
    assert (function.stops, sandbox.stops) == ([(30.0, "worker_draining")], [])
    duty.tick(boxes, 130.0)
    duty.tick(boxes, 131.0)
    assert sandbox.stops == [(0.0, "worker_draining")]


def test_who_is_back_in_service_ends_nothing_any_more(tmp_path: Path) -> None:
    box = Box(a_binding(kind=ContainerKind.SANDBOX))
    duty = Duty(tmp_path)
    duty.take(WorkerOrder(order="drain", grace_s=5.0), [box], 0.0)
    duty.take(WorkerOrder(order="uncordon"), [box], 1.0)
    duty.tick([box], 6.0)
    assert box.stops == []


def test_an_order_of_a_later_version_is_answered_and_not_done(tmp_path: Path) -> None:
    said = Duty(tmp_path).take(WorkerOrder(order="hibernate"), [], 0.0)
    assert (said.cordoned, said.why_not) == (False, "this worker knows no order 'hibernate'")
