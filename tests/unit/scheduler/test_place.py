"""What placement decides, one behaviour at a time."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.messages.container import ContainerKind, ContainerState
from glowplug_contracts.messages.deployment import ImageSpec, Resources
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.worker import GpuDevice
from glowplug_scheduler import place as p
from glowplug_scheduler.filters import Fit, fit

from tests.support.builders_scale import a_deployment
from tests.support.builders_scheduler import (
    GIB,
    a_container,
    a_target,
    a_wish,
    beats,
    moved,
    of_type,
)

ERROR = RemoteError(code="function.start_failed", type="ImportError", message="no module named x")


def gpu(kind, number=0):
    return GpuDevice(gpu_id=f"{kind}-{number}", kind=kind, memory_bytes=GIB)


class Machine:
    """A leading placement with a clock; each step checks the invariants."""

    def __init__(self, *, leads=True) -> None:
        self.placement = p.Placement()
        self.now = 100.0
        self.beat = 0
        if leads:
            self(p.LeaseTaken(3, b"s" * 16))
            self.wait(p.SETTLED_AFTER_S)

    def __call__(self, event):
        decisions = self.placement.step(event, self.now)
        self.placement.check()
        return decisions

    def wait(self, seconds):
        self.now += seconds
        return self(p.Tick())

    def hear(self, *views, worker="w1", **offer):
        self.beat += 1
        return self(beats(self.beat, *views, worker=worker, **offer))

    def deploy(self, name="f", resources=None, **more):
        deployment = a_deployment(name, resources=resources, **more)
        return self(p.DeploymentSeen(deployment.deployment_id, deployment))

    def bind(self, name="f", target=1, generation=1):
        """Set a target, accept what is bound, and return the binds."""
        binds = of_type(self(a_target(f"dep_{name}", target, generation)), p.Bind)
        for bind in binds:
            self.accept(bind)
        return binds

    def accept(self, bind):
        return self(p.BindAnswered(bind.bind.container_id, bind.worker_id, "accepted"))


@pytest.fixture
def machine():
    machine = Machine()
    machine.hear()
    machine.deploy()
    return machine


def test_a_container_has_its_images_environment_and_the_functions_own_wins():
    machine = Machine()
    machine.hear()
    plain = a_deployment()
    image = ImageSpec(env={"A": "image", "B": "image"})
    spec = msgspec.structs.replace(plain.spec, image=image, env={"B": "function"})
    deployment = msgspec.structs.replace(plain, spec=spec)
    machine(p.DeploymentSeen(deployment.deployment_id, deployment))
    (bind,) = machine.bind()
    assert bind.bind.spec.env == {"A": "image", "B": "function"}


def view_of(bind, state=ContainerState.READY, in_flight=(), slots=1):
    return a_container(
        bind.bind.container_id,
        bind.bind.spec.deployment_id,
        state=state,
        in_flight=in_flight,
        slots=slots,
        kind=bind.bind.spec.kind,
        resources=bind.bind.spec.resources,
        gpu_ids=bind.bind.gpu_ids,
    )


# -- Binding ------------------------------------------------------------------------------------


def test_a_target_is_bound_with_everything_the_worker_needs(machine):
    (bind,) = machine.bind()
    spec = bind.bind.spec
    assert (bind.worker_id, bind.bind.generation) == ("w1", 3)
    assert (spec.kind, spec.deployment_id, spec.name) == (ContainerKind.FUNCTION, "dep_f", "f")
    assert spec.source.handler == "app:f"


def test_container_ids_differ_between_generations_and_are_the_same_for_the_same_story():
    def story(generation):
        machine = Machine(leads=False)
        machine.hear()
        machine.deploy()
        machine(a_target("dep_f", 2))
        machine(p.LeaseTaken(generation, b"s" * 16))
        machine.now += p.SETTLED_AFTER_S
        return [b.bind.container_id for b in of_type(machine(p.Tick()), p.Bind)]

    assert story(1) == story(1)
    assert len({*story(1), *story(2)}) == 4


def test_the_same_target_again_binds_nothing_more(machine):
    machine.bind(target=2)
    assert not machine.bind(target=2)


def test_a_lower_generations_target_is_ignored(machine):
    machine.bind(target=1, generation=5)
    assert not machine.bind(target=3, generation=4)


def test_a_follower_decides_nothing():
    machine = Machine(leads=False)
    machine.hear()
    machine.deploy()
    assert not machine(a_target("dep_f", 1))
    assert not machine.wait(10)


def test_a_new_leader_waits_until_it_heard_what_runs():
    machine = Machine(leads=False)
    machine.deploy()
    machine(a_target("dep_f", 1))
    assert not of_type(machine(p.LeaseTaken(2, b"s" * 16)), p.Bind)
    machine.hear(a_container("ctr_old", "dep_f"))
    assert not of_type(machine.wait(p.SETTLED_AFTER_S), p.Bind)


def test_the_first_leader_ever_has_nothing_to_wait_for():
    machine = Machine(leads=False)
    machine.hear()
    machine.deploy()
    machine(a_target("dep_f", 1))
    assert of_type(machine(p.LeaseTaken(1, b"s" * 16, first=True)), p.Bind)


def test_without_a_target_nothing_is_bound_nor_stopped(machine):
    assert not machine.hear(a_container("ctr_old", "dep_f"))
    assert not of_type(machine.wait(1.0), p.Stop)


def test_a_refused_bind_goes_to_another_worker(machine):
    machine.hear(worker="w2")
    (bind,) = of_type(machine(a_target("dep_f", 1)), p.Bind)
    refusal = p.BindAnswered(bind.bind.container_id, bind.worker_id, "refused", "image")
    (again,) = of_type(machine(refusal), p.Bind)
    assert {bind.worker_id, again.worker_id} == {"w1", "w2"}


def test_a_worker_that_refused_is_asked_again_after_a_while(machine):
    (bind,) = of_type(machine(a_target("dep_f", 1)), p.Bind)
    decisions = machine(p.BindAnswered(bind.bind.container_id, "w1", "refused", "full"))
    (parked,) = of_type(decisions, p.Publish)
    assert parked.decided.reasons == {"w1": "refused: the worker said 'full'"}
    assert not of_type(machine.wait(1.9), p.Bind)
    assert of_type(machine.wait(0.2), p.Bind)


def test_an_unanswered_bind_counts_until_two_beats_show_that_it_was_not_taken(machine):
    (bind,) = of_type(machine(a_target("dep_f", 1)), p.Bind)
    machine(p.BindAnswered(bind.bind.container_id, "w1", "unknown"))
    machine.now += 1
    assert not machine.hear()
    machine.now += 1
    decisions = machine.hear()
    assert of_type(decisions, p.Bind)
    assert not of_type(decisions, p.Bury)  # nobody ever saw it


# -- Parking ------------------------------------------------------------------------------------


def test_what_fits_nowhere_is_parked_with_a_reason_per_worker(machine):
    machine.deploy("big", Resources(cpu_millis=64_000))
    machine.hear(worker="w2", draining=True)
    (parked,) = of_type(machine(a_target("dep_big", 1)), p.Publish)
    assert parked.decided.decision == "parked"
    assert parked.decided.reasons == {
        "w1": "cpu: needs 64000m, 4000m of 4000m are free",
        "w2": "draining: the worker takes nothing new",
    }


def test_parking_is_published_again_only_when_the_reasons_change(machine):
    machine.deploy("big", Resources(cpu_millis=64_000))
    machine(a_target("dep_big", 1))
    machine.hear()
    assert not of_type(machine.wait(1.0), p.Publish)
    (again,) = of_type(machine.hear(worker="w2", cpu_millis=8000), p.Publish)
    assert set(again.decided.reasons) == {"w1", "w2"}


def test_a_parked_container_is_bound_as_soon_as_a_worker_can_take_it(machine):
    machine.deploy("big", Resources(cpu_millis=64_000))
    (parked,) = of_type(machine(a_target("dep_big", 1)), p.Publish)
    (bind,) = of_type(machine.hear(worker="w2", cpu_millis=128_000), p.Bind)
    assert (bind.worker_id, bind.bind.container_id) == ("w2", parked.decided.container_id)


def test_room_freed_by_an_ended_container_is_used_at_once(machine):
    machine.deploy("wide", Resources(cpu_millis=3000))
    (first,) = machine.bind("wide")
    machine.deploy("also", Resources(cpu_millis=3000))
    assert not machine.bind("also")
    machine.hear(view_of(first))
    machine(a_target("dep_wide", 0))
    stopped = moved(ContainerState.STOPPED, first.bind.container_id, "dep_wide")
    assert of_type(machine(stopped), p.Bind)


# -- Stopping -----------------------------------------------------------------------------------


def four_containers(machine):
    """One starting, one idle long, one idle lately, one busy; returns their ids in that order."""
    binds = machine.bind(target=4)
    starting, long_idle, lately_idle, busy = (b for b in binds)
    machine.hear(
        view_of(starting, ContainerState.STARTING),
        view_of(long_idle),
        view_of(lately_idle, in_flight=("inv_1",)),
        view_of(busy, in_flight=("inv_2", "inv_3"), slots=2),
    )
    machine.now += 0.5
    machine(p.LoadsSeen({lately_idle.bind.container_id: 0}))
    return [b.bind.container_id for b in (starting, long_idle, lately_idle, busy)]


@pytest.mark.parametrize("target", [3, 2, 1, 0])
def test_scale_in_stops_not_ready_then_idle_longest_then_least_busy(machine, target):
    ids = four_containers(machine)
    stops = of_type(machine(a_target("dep_f", target)), p.Stop)
    assert [s.stop.container_id for s in stops] == ids[: 4 - target]
    assert {s.stop.reason for s in stops} == {"scaled_in" if target else "idle"}
    assert all(s.stop.grace_s == 3605.0 for s in stops)  # what runs may finish


def test_a_stop_is_repeated_until_the_container_is_gone(machine):
    (bind,) = machine.bind()
    machine.hear(view_of(bind))
    machine(a_target("dep_f", 0))
    machine.hear(view_of(bind))
    assert of_type(machine.wait(2.0), p.Stop)
    machine(moved(ContainerState.STOPPED, bind.bind.container_id))
    assert not of_type(machine.wait(2.0), p.Stop)


def test_a_bind_in_flight_is_stopped_once_it_is_answered(machine):
    (bind,) = of_type(machine(a_target("dep_f", 1)), p.Bind)
    assert not of_type(machine(a_target("dep_f", 0)), p.Stop)
    (stop,) = of_type(machine.accept(bind), p.Stop)
    assert stop.stop.container_id == bind.bind.container_id


def test_a_deleted_deployments_containers_are_stopped(machine):
    (bind,) = machine.bind()
    machine.hear(view_of(bind))
    (stop,) = of_type(machine.deploy(deleted=True), p.Stop)
    assert (stop.stop.reason, stop.stop.grace_s) == ("deleted", 30.0)
    assert not machine.bind(target=2)


def test_a_container_nobody_deployed_is_stopped(machine):
    (stop,) = of_type(machine.hear(a_container("ctr_old", "dep_unknown")), p.Stop)
    assert stop.stop.container_id == "ctr_old"


# -- Named containers ---------------------------------------------------------------------------


def test_a_named_container_is_bound_under_its_name_and_stopped_at_once(machine):
    (bind,) = of_type(machine(a_wish("ctr_box")), p.Bind)
    machine.accept(bind)
    machine.hear(view_of(bind))
    (stop,) = of_type(machine(p.WantedSeen("ctr_box", None)), p.Stop)
    assert (bind.bind.container_id, stop.stop.grace_s) == ("ctr_box", 0.0)


def test_a_named_container_that_ended_is_not_started_again(machine):
    (bind,) = of_type(machine(a_wish("ctr_box")), p.Bind)
    machine.accept(bind)
    machine.hear(view_of(bind))
    machine(moved(ContainerState.FAILED, "ctr_box", "-", kind=ContainerKind.SANDBOX))
    assert not of_type(machine(a_wish("ctr_box")), p.Bind)
    assert not of_type(machine.wait(5.0), p.Bind)


def test_a_scale_to_zero_does_not_touch_sandboxes(machine):
    (bind,) = of_type(machine(a_wish("ctr_box")), p.Bind)
    machine.accept(bind)
    machine.hear(view_of(bind))
    machine(a_target("dep_f", 0))
    assert not of_type(machine.wait(1.0), p.Stop)


# -- Failures -----------------------------------------------------------------------------------


def test_a_dead_workers_containers_are_buried_and_bound_elsewhere(machine):
    (bind,) = machine.bind()
    machine.hear(view_of(bind))
    machine.now += 1.5
    machine.hear(worker="w2")
    assert of_type(machine.wait(0.5), p.AskWorker) == [p.AskWorker("w1")]
    decisions = machine(p.WorkerUnreachable("w1"))
    (buried,) = of_type(decisions, p.Bury)
    assert buried.change.container_id == bind.bind.container_id
    assert (buried.change.state, buried.change.reason) == (ContainerState.FAILED, "worker_lost")
    (again,) = of_type(decisions, p.Bind)
    assert again.worker_id == "w2"


def test_a_buried_container_that_turns_up_again_is_stopped_and_does_not_count(machine):
    (bind,) = machine.bind()
    machine.hear(view_of(bind))
    machine.hear(worker="w2")
    machine.wait(6.1)
    (again,) = of_type(machine.hear(worker="w2"), p.Bind)
    machine.accept(again)
    (stop,) = of_type(machine.hear(view_of(bind)), p.Stop)
    assert (stop.worker_id, stop.stop.container_id) == ("w1", bind.bind.container_id)


def test_what_another_placement_buried_is_stopped_too_when_it_turns_up_again(machine):
    (bind,) = machine.bind()
    name = bind.bind.container_id
    machine.hear(view_of(bind))
    decisions = machine(moved(ContainerState.FAILED, name, reason="worker_lost"))
    (again,) = of_type(decisions, p.Bind)
    machine.accept(again)
    (stop,) = of_type(machine.hear(view_of(bind), view_of(again)), p.Stop)
    assert stop.stop.container_id == name


def test_what_ended_and_is_started_again_by_a_late_order_is_stopped(machine):
    (bind,) = machine.bind()
    name = bind.bind.container_id
    machine.hear(view_of(bind))
    machine(moved(ContainerState.STOPPED, name))
    (stop,) = of_type(machine.hear(view_of(bind)), p.Stop)
    assert (stop.worker_id, stop.stop.container_id) == ("w1", name)


def test_a_restarted_workers_containers_are_gone_at_once(machine):
    (bind,) = machine.bind()
    machine.hear(view_of(bind))
    decisions = machine.hear(started_at=2.0)
    assert of_type(decisions, p.Bury)
    assert of_type(decisions, p.Bind)


def test_a_failed_start_is_not_repeated_at_once_but_a_new_call_earns_a_try(machine):
    (bind,) = machine.bind()
    failed = moved(
        ContainerState.FAILED, bind.bind.container_id, reason="start_failed", error=ERROR
    )
    assert not of_type(machine(failed), p.Bind)
    assert not of_type(machine.wait(1.9), p.Bind)
    machine(a_target("dep_f", 0))
    assert len(of_type(machine(a_target("dep_f", 3)), p.Bind)) == 1


def test_a_failed_start_is_repeated_after_a_pause_that_grows(machine):
    (bind,) = machine.bind()
    for pause in (2.0, 4.0):
        machine(moved(ContainerState.FAILED, bind.bind.container_id, reason="start_failed"))
        machine.now += pause - 0.1
        machine.hear()
        assert not of_type(machine(p.Tick()), p.Bind)
        (bind,) = of_type(machine.wait(0.1), p.Bind)
        machine.accept(bind)


def test_a_crash_of_a_ready_container_is_replaced_at_once(machine):
    (bind,) = machine.bind()
    machine(moved(ContainerState.READY, bind.bind.container_id))
    crashed = moved(ContainerState.FAILED, bind.bind.container_id, reason="crashed", error=ERROR)
    assert of_type(machine(crashed), p.Bind)


# -- Choosing -----------------------------------------------------------------------------------


def test_the_gpu_kind_named_first_is_preferred_and_devices_are_whole(machine):
    need = Resources(gpus=("A100", "any"), gpu_count=1)
    machine.deploy("g", need)
    machine.hear(worker="w2", gpus=(gpu("T4"),))
    machine.hear(worker="w3", gpus=(gpu("A100"),))
    first, second = machine.bind("g", target=2)
    assert (first.worker_id, first.bind.gpu_ids) == ("w3", ("A100-0",))
    assert (second.worker_id, second.bind.gpu_ids) == ("w2", ("T4-0",))
    (parked,) = of_type(machine(a_target("dep_g", 3)), p.Publish)
    assert parked.decided.reasons["w3"] == "gpu: needs 1 of A100 or any, free: none"


def test_parts_of_gpus_are_packed_and_whole_devices_kept_for_who_needs_one(machine):
    machine.deploy("part", Resources(gpus=("any",), gpu_count=1, gpu_memory_bytes=GIB // 2))
    machine.deploy("big", Resources(gpus=("any",), gpu_count=1, gpu_memory_bytes=GIB * 3 // 4))
    machine.deploy("whole", Resources(gpus=("any",), gpu_count=1))
    machine.hear(worker="w1", gpus=(gpu("T4", 0), gpu("T4", 1), gpu("T4", 2)))
    parts = [bind.bind.gpu_ids for bind in machine.bind("part", target=2)]
    assert parts == [("T4-0",), ("T4-0",)]
    assert [bind.bind.gpu_ids for bind in machine.bind("whole")] == [("T4-1",)]
    assert [bind.bind.gpu_ids for bind in machine.bind("big")] == [("T4-2",)]
    (parked,) = of_type(machine(a_target("dep_part", 3)), p.Publish)
    assert parked.decided.reasons["w1"] == (
        "gpu: needs 512 MiB of any, free: 0 MiB of T4, 256 MiB of T4"
    )


def test_several_gpus_are_of_one_kind(machine):
    machine.deploy("g", Resources(gpus=("any",), gpu_count=2))
    machine.hear(worker="w2", gpus=(gpu("T4"), gpu("A100")))
    assert not machine.bind("g")
    machine.hear(worker="w3", gpus=(gpu("T4"), gpu("A100", 0), gpu("A100", 1)))
    machine.wait(0.2)
    (bind,) = [h for h in machine.placement.state.held.values() if h.deployment_id == "dep_g"]
    assert bind.gpu_ids == ("A100-0", "A100-1")


def test_work_without_a_gpu_keeps_off_gpu_workers_while_it_can(machine):
    machine.hear(worker="w0", gpus=(gpu("T4"),))
    (bind,) = machine.bind()
    assert bind.worker_id == "w1"


def test_a_worker_that_has_the_image_is_preferred():
    machine = Machine()
    machine.hear(worker="w1")
    machine.hear(worker="w2", images=("img",))
    deployment = a_deployment("f")
    with_image = {f: getattr(deployment, f) for f in deployment.__struct_fields__}
    with_image["image_digest"] = "img"
    machine(p.DeploymentSeen("dep_f", type(deployment)(**with_image)))
    (bind,) = machine.bind()
    assert bind.worker_id == "w2"


def test_a_worker_that_has_the_template_is_preferred(machine):
    machine.hear(worker="w2", templates=("dep_f",))
    (bind,) = machine.bind()
    assert bind.worker_id == "w2"


def forgotten(decisions):
    return [
        (one.worker_id, one.forget.deployment_ids) for one in decisions if isinstance(one, p.Forget)
    ]


def test_templates_of_a_deployment_that_is_over_are_forgotten_until_no_beat_names_them(machine):
    kept = {"templates": ("dep_f",), "plain_starts": {"dep_g": "it started a thread"}}
    machine.deploy("g")
    assert forgotten(machine.hear(**kept)) == []
    machine.deploy("g", deleted=True)
    machine.deploy("f", latest=False)
    for _ in range(2):
        assert forgotten(machine.hear(**kept)) == [("w1", ("dep_f", "dep_g"))]
    assert forgotten(machine.hear()) == []
    machine.deploy("f", ephemeral=True)
    assert forgotten(machine.hear(templates=("dep_f",))) == []
    machine(p.DeploymentSeen("dep_f", None))
    assert forgotten(machine.hear(templates=("dep_f",))) == [("w1", ("dep_f",))]


def test_templates_of_a_superseded_version_that_still_works_are_kept(machine):
    (bind,) = machine.bind()
    machine.deploy("f", latest=False)
    view = a_container(bind.bind.container_id)
    assert forgotten(machine.hear(view, templates=("dep_f",))) == []
    machine(a_target("dep_f", 0, 1))
    assert forgotten(machine.hear(view, templates=("dep_f",))) == []
    assert forgotten(machine.hear(templates=("dep_f",))) == []  # a beat may not list it yet
    machine(moved(ContainerState.STOPPED, bind.bind.container_id))
    assert forgotten(machine.hear(templates=("dep_f",))) == [("w1", ("dep_f",))]


def test_a_follower_and_a_leader_that_has_not_heard_all_forget_nothing():
    follower = Machine(leads=False)
    assert forgotten(follower.hear(templates=("dep_x",))) == []
    fresh = Machine(leads=False)
    fresh(p.LeaseTaken(3, b"s" * 16))
    assert forgotten(fresh.hear(templates=("dep_x",))) == []


def test_replicas_spread_over_workers_that_are_equal(machine):
    machine.hear(worker="w2")
    binds = machine.bind(target=4)
    assert sorted(b.worker_id for b in binds) == ["w1", "w1", "w2", "w2"]


def test_a_worker_without_the_python_version_is_passed_over(machine):
    machine.hear(pythons=("3.11.7", "3.12.1"))
    wish = a_wish("ctr_box")
    state = machine.placement.state
    for version, fits in (("3.12", True), ("3.1", False), ("3.13", False)):
        fields = {f: getattr(wish.wanted.spec, f) for f in wish.wanted.spec.__struct_fields__}
        spec = type(wish.wanted.spec)(**fields | {"base_python": version})
        room = state.room(state.beats["w1"], "-", "x", machine.now)
        assert isinstance(fit(spec, room), Fit) is fits


def crashed(bind):
    spec = bind.bind.spec
    return moved(
        ContainerState.FAILED, bind.bind.container_id, spec.deployment_id, reason="crashed"
    )


def test_a_crashed_container_is_replaced_at_once_the_next_after_the_autoscaler_could_speak(machine):
    (first,) = machine.bind()
    machine.hear(view_of(first))
    (second,) = of_type(machine(crashed(first)), p.Bind)
    machine.accept(second)
    machine.hear(view_of(second))
    assert of_type(machine(crashed(second)), p.Bind) == []
    (third,) = of_type(machine.wait(0.4), p.Bind)
    machine.accept(third)
    machine.hear(view_of(third))
    machine(crashed(third))
    assert of_type(machine(a_target("dep_f", 0, 1)), p.Stop) == []
    assert of_type(machine.wait(0.4), p.Bind) == []
