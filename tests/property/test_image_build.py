"""Whatever happens to containers and steps, a build ends, holds no container after, and skips nothing."""

from __future__ import annotations

from glowplug_contracts.ids import ContainerId, ImageDigest, WorkerId
from glowplug_contracts.messages.container import LayerCommitted
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_imagecache.build import LOST_MAX, Build, Phase
from glowplug_imagecache.build_types import (
    Begin,
    ContainerEnded,
    ContainerReady,
    Decision,
    DropContainer,
    Event,
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
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders_builds import a_build

WORKER = WorkerId("w")
BROKEN = RemoteError(code="image.build_failed", type="X", message="broken")
AWAY = RemoteError(code="platform.unavailable", type="X", message="away")


class World:
    """Does what the machine decides, faithfully or not, and checks what it decides."""

    def __init__(self, build: Build, data: st.DataObject) -> None:
        self.build = build
        self.data = data
        self.pending: list[Event] = [Begin()]
        self.held: ContainerId | None = None
        self.recorded: list[str] = []
        self.ends: list[Decision] = []
        self.images = 0
        self.now = 0.0

    def run(self) -> None:
        for _ in range(300):
            if self.build.phase is Phase.ENDED:
                return
            self.now += self.data.draw(st.sampled_from([0.1, 1.0, 30.0]))
            event = self.pending.pop(0) if self.pending else Tick()
            if self.data.draw(st.booleans()) and isinstance(event, ContainerReady | StepEnded):
                self.pending.append(event)  # heard twice
            for decision in self.build.step(event, self.now):
                self.perform(decision)
            self.build.check()
        raise AssertionError("the build does not end")

    def perform(self, decision: Decision) -> None:
        assert not self.ends, "nothing is decided after the end"
        match decision:
            case WantContainer(container_id, _):
                assert self.held is None
                self.held = container_id
                self.answer(
                    [ContainerReady(container_id, WORKER)],
                    [ContainerEnded(container_id, "lost")],
                    [ContainerEnded(container_id, "failed", BROKEN)],
                    [],
                )
            case DropContainer(container_id):
                assert self.held == container_id
                self.held = None
            case RunStep(container_id, _, exec_id, _):
                assert self.held == container_id
                self.answer(
                    [StepOutput(exec_id, "words\n"), StepEnded(exec_id, 0)],
                    [StepEnded(exec_id, 1)],
                    [StepEnded(exec_id, None, AWAY)],
                    [ContainerEnded(container_id, "lost")],
                    [],
                )
            case StoreLayer(container_id):
                assert self.held == container_id
                self.answer(
                    [LayerStored(container_id, LayerCommitted(image_digest=self.image()))],
                    [LayerStored(container_id, LayerCommitted(error=BROKEN))],
                    [ContainerEnded(container_id, "lost")],
                    [],
                )
            case MergeFiles():
                assert self.held is None
                self.answer([FilesMerged(self.image())], [FilesMerged(ImageDigest(""), BROKEN)])
            case RecordStep(chain):
                self.recorded.append(chain)
            case Succeed() | Fail():
                self.ends.append(decision)
            case Tell():
                pass

    def answer(self, *choices: list[Event]) -> None:
        self.pending += self.data.draw(st.sampled_from([choices[0], choices[0], *choices]))

    def image(self) -> ImageDigest:
        self.images += 1
        return ImageDigest(f"image-{self.images}")


@given(st.lists(st.sampled_from(["pip", "run", "file"]), max_size=5), st.data())
def test_every_build_ends_once_with_every_step_done_or_one_reason(
    kinds: list[str], data: st.DataObject
) -> None:
    cached = data.draw(st.integers(0, len(kinds)))
    world = World(a_build(*kinds, cached=cached), data)
    world.run()
    assert world.held is None
    (end,) = world.ends
    chains = [step.chain for step in world.build.plan.steps[cached:]]
    if isinstance(end, Succeed):
        assert world.recorded == chains
    else:
        assert world.recorded == chains[: len(world.recorded)]
        assert len(world.recorded) < len(chains)


def test_containers_are_replaced_a_bounded_number_of_times() -> None:
    build = a_build("run")
    wanted = 0
    event: Event = Begin()
    while build.phase is not Phase.ENDED:
        for decision in build.step(event, 0):
            if isinstance(decision, WantContainer):
                wanted += 1
                event = ContainerEnded(decision.container_id, "lost")
    assert wanted == LOST_MAX + 1
