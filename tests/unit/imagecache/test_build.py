"""The build machine, step by step."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, ImageDigest, WorkerId
from glowplug_contracts.messages.container import LayerCommitted
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_imagecache.build import OUTPUT_MAX, SEEN_S, STEP_GRACE_S
from glowplug_imagecache.build_types import (
    Begin,
    ContainerEnded,
    ContainerReady,
    DropContainer,
    Fail,
    FilesMerged,
    LayerStored,
    MergeFiles,
    RecordStep,
    RunStep,
    StepEnded,
    StepOutput,
    StoreLayer,
    Succeed,
    Tell,
    Tick,
    WantContainer,
)

from tests.support.builders_builds import STEP_TIMEOUT_S, WAIT_S, a_build

ONE = ContainerId("container-1")
WORKER = WorkerId("w")
NOTHING = ImageDigest("")


def stored(image: str, container: str = "container-1") -> LayerStored:
    committed = LayerCommitted(image_digest=ImageDigest(image))
    return LayerStored(ContainerId(container), committed)


def an_error(code: str = "image.build_failed") -> RemoteError:
    return RemoteError(code=code, type="X", message="why")


def test_two_commands_share_a_container_and_each_is_recorded() -> None:
    build = a_build("pip", "run")
    first, second = build.plan.steps
    assert build.step(Begin(), 0) == [Tell("step", first.text), WantContainer(ONE, NOTHING)]
    assert build.step(ContainerReady(ONE, WORKER), 1) == [RunStep(ONE, WORKER, "exec-2", first)]
    assert build.step(StepEnded("exec-2", 0), 2) == [StoreLayer(ONE, WORKER, NOTHING)]
    assert build.step(stored("image-1"), 3) == [
        RecordStep(first.chain, ImageDigest("image-1")),
        Tell("step", second.text),
        RunStep(ONE, WORKER, "exec-3", second),
    ]
    build.step(StepEnded("exec-3", 0), 4)
    assert build.step(stored("image-2"), 5) == [
        RecordStep(second.chain, ImageDigest("image-2")),
        DropContainer(ONE),
        Succeed(ImageDigest("image-2")),
    ]


def test_files_are_merged_without_a_container() -> None:
    build = a_build("file")
    (step,) = build.plan.steps
    assert build.step(Begin(), 0) == [Tell("step", step.text), MergeFiles(NOTHING, step)]
    assert build.step(FilesMerged(ImageDigest("image-1")), 1) == [
        RecordStep(step.chain, ImageDigest("image-1")),
        Succeed(ImageDigest("image-1")),
    ]


def test_a_file_step_after_a_command_gives_the_container_back() -> None:
    build = a_build("run", "file", "run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    build.step(StepEnded("exec-2", 0), 2)
    merge = build.step(stored("image-1"), 3)
    assert merge[2:] == [
        DropContainer(ONE),
        MergeFiles(ImageDigest("image-1"), build.plan.steps[1]),
    ]
    again = build.step(FilesMerged(ImageDigest("image-2")), 4)
    assert again[-1] == WantContainer(ContainerId("container-3"), ImageDigest("image-2"))


def test_cached_steps_are_told_and_not_run() -> None:
    build = a_build("pip", "run", cached=1)
    first, second = build.plan.steps
    assert build.step(Begin(), 0) == [
        Tell("step", first.text, cached=True),
        Tell("step", second.text),
        WantContainer(ONE, ImageDigest("image-1")),
    ]


def test_an_image_that_is_cached_whole_is_there_at_once() -> None:
    build = a_build("pip", cached=1)
    assert build.step(Begin(), 0)[1:] == [Succeed(ImageDigest("image-1"))]


def test_a_failed_command_ends_the_build_with_its_last_lines_whole() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    build.step(StepOutput("exec-2", "first\nsec"), 2)
    build.step(StepOutput("exec-2", "ond\n"), 2)
    dropped, failed = build.step(StepEnded("exec-2", 7), 3)
    assert dropped == DropContainer(ONE)
    assert isinstance(failed, Fail)
    assert failed.error.code == "image.build_failed"
    assert failed.error.message == "step 1 of 1 failed (exit code 7): run run-1"
    assert failed.error.details == {
        "step": 1,
        "command": "run run-1",
        "last_lines": ["first", "second"],
        "exit_code": 7,
    }


def test_a_command_that_wrote_outside_the_layer_is_told_about_later_bases() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    build.step(StepOutput("exec-2", "touch: cannot touch '/etc/x': Read-only file system\n"), 2)
    failed = build.step(StepEnded("exec-2", 1), 3)[-1]
    assert isinstance(failed, Fail)
    assert "OCI bases" in failed.error.message


def test_a_lost_container_is_replaced_from_the_last_stored_image_and_not_for_ever() -> None:
    build = a_build("run", cached=0)
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    replaced = build.step(ContainerEnded(ONE, "worker_stopping"), 2)
    assert replaced[0] == DropContainer(ONE)
    assert replaced[-1] == WantContainer(ContainerId("container-3"), NOTHING)
    build.step(ContainerEnded(ContainerId("container-3"), "lost"), 3)
    ended = build.step(ContainerEnded(ContainerId("container-4"), "lost"), 4)
    assert isinstance(ended[-1], Fail)
    assert ended[-1].error.code == "platform.unavailable"


def test_a_start_that_failed_for_good_is_not_tried_again() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    ended = build.step(ContainerEnded(ONE, "start_failed", an_error("image.unsupported")), 1)
    assert isinstance(ended[-1], Fail)
    assert ended[-1].error.code == "image.unsupported"


def test_what_time_may_cure_is_tried_again() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    again = build.step(ContainerEnded(ONE, "start_failed", an_error("platform.unavailable")), 1)
    assert isinstance(again[-1], WantContainer)


def test_a_worker_that_falls_silent_loses_the_container() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    assert build.step(Tick(), 1 + SEEN_S) == []
    build.step(ContainerReady(ONE, WORKER), 5)
    assert build.step(Tick(), 5 + SEEN_S) == []
    assert isinstance(build.step(Tick(), 5.1 + SEEN_S)[-1], WantContainer)


def test_a_worker_that_lets_a_step_run_too_long_loses_the_container() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    late = 1 + STEP_TIMEOUT_S + STEP_GRACE_S
    build.step(ContainerReady(ONE, WORKER), late)
    assert build.step(Tick(), late) == []
    assert isinstance(build.step(Tick(), late + 0.1)[-1], WantContainer)


def test_a_build_that_gets_no_container_ends() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    assert build.step(Tick(), WAIT_S) == []
    ended = build.step(Tick(), WAIT_S + 1)
    assert isinstance(ended[-1], Fail)
    assert ended[-1].error.code == "scheduler.no_worker_fits"


def test_output_is_bounded_and_says_so_once() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    assert build.step(StepOutput("exec-2", "x" * OUTPUT_MAX), 2) == [
        Tell("output", "x" * OUTPUT_MAX)
    ]
    (told,) = build.step(StepOutput("exec-2", "y"), 3)
    assert isinstance(told, Tell)
    assert "left out" in told.text
    assert build.step(StepOutput("exec-2", "z"), 4) == []


def test_what_belongs_to_an_earlier_container_or_step_is_ignored() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    build.step(ContainerEnded(ONE, "lost"), 2)
    for event in (
        ContainerReady(ONE, WORKER),
        ContainerEnded(ONE, "again"),
        StepOutput("exec-2", "late"),
        StepEnded("exec-2", 0),
        stored("late"),
        FilesMerged(ImageDigest("late")),
    ):
        assert build.step(event, 3) == []


def test_content_that_can_not_be_stored_ends_the_build() -> None:
    build = a_build("run")
    build.step(Begin(), 0)
    build.step(ContainerReady(ONE, WORKER), 1)
    build.step(StepEnded("exec-2", 0), 2)
    ended = build.step(LayerStored(ONE, LayerCommitted(error=an_error())), 3)
    assert isinstance(ended[-1], Fail)
    assert ended[-1].error.details["step"] == 1
