"""The life of one build, as a pure machine.

    planned → (want a container → run a step in it → commit its layer | pull, or merge a file step) … → ended

Every step ends in an image of its own that is recorded under the step's chain, so a build that fails or
is cut off goes on after its last good step. `pip` and `run` steps share a container until a file step,
which needs none, changes the image under it. A container that is lost is replaced LOST_MAX times.

Invariants: B1 a container is held only while a step that needs one is being done; B2 a step runs only on
the image that the step before it ended in; B3 after the end there are no more decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec
from glowplug_contracts.ids import ContainerId, ImageDigest, WorkerId
from glowplug_contracts.messages.invocation import RemoteError

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
from glowplug_imagecache.plan import ON_OCI, OWN_STEPS, BuildPlan, PlannedStep

LOST_MAX = 2
# A worker beats once a second; a container that no beat names for this long is gone.
SEEN_S = 10.0
# The worker ends a step that takes too long; this is for a worker that does not.
STEP_GRACE_S = 60.0
COMMIT_MAX_S = 900.0
LINES_KEPT = 40
TAIL_MAX = 8 * 1024
OUTPUT_MAX = 256 * 1024
# Time or another worker may cure these; the user's image is not the reason.
TRANSIENT = frozenset(
    {"platform.unavailable", "platform.lease_lost", "worker.refused", "sandbox.not_found"}
)
READ_ONLY = ("Read-only file system", "Permission denied")


class Phase(StrEnum):
    """What the build waits for."""

    PLANNED = "planned"
    CONTAINER = "container"
    STEP = "step"
    COMMIT = "commit"
    MERGE = "merge"
    ENDED = "ended"


class Build:
    """One build.

    Args:
        plan: `cached` steps are taken as done; `image_digest` is what they made.
        new_id: makes ids of a kind ("container", "exec").
        step_timeout_s: as told to the worker.
        container_wait_s: until a container must be ready.
    """

    def __init__(
        self,
        plan: BuildPlan,
        new_id: Callable[[str], str],
        *,
        step_timeout_s: float,
        container_wait_s: float,
    ) -> None:
        self.plan = plan
        self.phase = Phase.PLANNED
        self._new_id = new_id
        self._step_timeout_s = step_timeout_s
        self._container_wait_s = container_wait_s
        self._done = plan.cached
        self._image = plan.image_digest
        self._container_id = ContainerId("")
        self._worker_id = WorkerId("")
        self._exec_id = ""
        self._since = 0.0
        self._seen_at = 0.0
        self._lost = 0
        self._tail = ""
        self._output_chars = 0

    def step(self, event: Event, now: float) -> list[Decision]:  # noqa: PLR0911 - one per event
        """Return what to do about an event. Events of an earlier container or step are ignored."""
        if self.phase is Phase.ENDED:
            return []
        match event:
            case Begin():
                cached: list[Decision] = [
                    Tell("step", step.text, cached=True) for step in self.plan.steps[: self._done]
                ]
                return cached + self._go_on(now)
            case ContainerReady():
                return self._on_ready(event, now)
            case ContainerEnded():
                return self._on_container_ended(event, now)
            case StepOutput():
                return self._on_output(event)
            case StepEnded():
                return self._on_step_ended(event, now)
            case LayerStored():
                return self._on_layer_stored(event, now)
            case FilesMerged():
                return self._on_files_merged(event, now)
            case Tick():
                return self._on_tick(now)

    def check(self) -> None:
        """Check the invariants."""
        held = bool(self._container_id)
        assert held or self.phase not in {Phase.CONTAINER, Phase.STEP, Phase.COMMIT}  # noqa: S101
        assert not held or self.phase not in {Phase.MERGE, Phase.PLANNED, Phase.ENDED}  # noqa: S101
        assert 0 <= self._done <= len(self.plan.steps)  # noqa: S101

    @property
    def _step(self) -> PlannedStep:
        return self.plan.steps[self._done]

    def _go_on(self, now: float) -> list[Decision]:
        """Begin the next step, or end."""
        if self._done == len(self.plan.steps):
            return [*self._end(), Succeed(self._image)]
        self._tail = ""
        told: list[Decision] = [Tell("step", self._step.text)]
        if self._step.spec.kind in OWN_STEPS:
            dropped = self._drop()
            self._enter(Phase.MERGE, now)
            return [*told, *dropped, MergeFiles(self._image, self._step)]
        if self._container_id:
            return [*told, *self._run(now)]
        return [*told, *self._want(now)]

    def _want(self, now: float) -> list[Decision]:
        self._container_id = ContainerId(self._new_id("container"))
        self._worker_id = WorkerId("")
        self._enter(Phase.CONTAINER, now)
        return [WantContainer(self._container_id, self._image)]

    def _run(self, now: float) -> list[Decision]:
        self._exec_id = self._new_id("exec")
        self._enter(Phase.STEP, now)
        return [RunStep(self._container_id, self._worker_id, self._exec_id, self._step)]

    def _on_ready(self, event: ContainerReady, now: float) -> list[Decision]:
        if event.container_id != self._container_id:
            return []
        self._seen_at = now
        if self.phase is not Phase.CONTAINER:
            return []
        self._worker_id = event.worker_id
        return self._run(now)

    def _on_container_ended(self, event: ContainerEnded, now: float) -> list[Decision]:
        if not self._container_id or event.container_id != self._container_id:
            return []
        if event.error is not None and event.error.code not in TRANSIENT:
            return self._fail(self._with_step(event.error))
        return self._replace_container(event.error.message if event.error else event.reason, now)

    def _replace_container(self, reason: str, now: float) -> list[Decision]:
        """Start the step again in another container: its layer was never stored."""
        dropped = self._drop()
        self._lost += 1
        if self._lost > LOST_MAX:
            return [
                *dropped,
                *self._fail(
                    _error(
                        "platform.unavailable",
                        f"the build's container was lost {self._lost} times, at last: {reason}",
                    )
                ),
            ]
        told = Tell(
            "output", f"The build's container was lost ({reason}); the step starts again.\n"
        )
        return [*dropped, told, *self._want(now)]

    def _on_output(self, event: StepOutput) -> list[Decision]:
        if event.exec_id != self._exec_id or self.phase is not Phase.STEP:
            return []
        self._tail = (self._tail + event.text)[-TAIL_MAX:]
        before = self._output_chars
        self._output_chars += len(event.text)
        if self._output_chars <= OUTPUT_MAX:
            return [Tell("output", event.text)]
        if before <= OUTPUT_MAX:
            return [Tell("output", f"(output beyond {OUTPUT_MAX} characters is left out)\n")]
        return []

    def _on_step_ended(self, event: StepEnded, now: float) -> list[Decision]:
        if event.exec_id != self._exec_id or self.phase is not Phase.STEP:
            return []
        if event.error is not None and event.error.code in TRANSIENT:
            return self._replace_container(event.error.message, now)
        if event.error is not None or event.exit_code != 0:
            return self._fail(self._failure(event))
        self._enter(Phase.COMMIT, now)
        return [StoreLayer(self._container_id, self._worker_id, self._image)]

    def _on_layer_stored(self, event: LayerStored, now: float) -> list[Decision]:
        if event.container_id != self._container_id or self.phase is not Phase.COMMIT:
            return []
        error = event.committed.error
        if error is not None and error.code in TRANSIENT:
            return self._replace_container(error.message, now)
        if error is not None:
            return self._fail(self._with_step(error))
        return self._finish_step(event.committed.image_digest, now)

    def _on_files_merged(self, event: FilesMerged, now: float) -> list[Decision]:
        if self.phase is not Phase.MERGE:
            return []
        if event.error is not None:
            return self._fail(self._with_step(event.error))
        return self._finish_step(event.image_digest, now)

    def _finish_step(self, image_digest: ImageDigest, now: float) -> list[Decision]:
        recorded = RecordStep(self._step.chain, image_digest)
        self._image = image_digest
        self._done += 1
        return [recorded, *self._go_on(now)]

    def _on_tick(self, now: float) -> list[Decision]:
        waited = now - self._since
        if self.phase is Phase.CONTAINER and waited > self._container_wait_s:
            return self._fail(
                _error(
                    "scheduler.no_worker_fits",
                    f"no worker had a container for the build ready in {self._container_wait_s:.0f} s",
                )
            )
        limits = {Phase.STEP: self._step_timeout_s + STEP_GRACE_S, Phase.COMMIT: COMMIT_MAX_S}
        if self.phase not in limits:
            return []
        if now - self._seen_at > SEEN_S:
            return self._replace_container("its worker is silent", now)
        if waited > limits[self.phase]:
            return self._replace_container("its worker does not answer", now)
        return []

    def _failure(self, event: StepEnded) -> RemoteError:
        step = self._step
        how = event.error.message if event.error else f"exit code {event.exit_code}"
        message = f"step {step.number} of {len(self.plan.steps)} failed ({how}): {step.text}"
        held = not self.plan.writes_root and any(sign in self._tail for sign in READ_ONLY)
        if step.spec.kind == "run" and held:
            message += (
                f". A command can write only to the image's layer, its working directory; {ON_OCI}"
            )
        error = _error("image.build_failed", message)
        return self._with_step(error, exit_code=event.exit_code)

    def _with_step(self, error: RemoteError, **more: object) -> RemoteError:
        lines = self._tail.splitlines()[-LINES_KEPT:]
        details: dict[str, object] = {
            **error.details,
            "step": self._step.number,
            "command": self._step.text,
            "last_lines": lines,
            **more,
        }
        return msgspec.structs.replace(error, details=details, traceback="\n".join(lines))

    def _fail(self, error: RemoteError) -> list[Decision]:
        return [*self._end(), Fail(error)]

    def _end(self) -> list[Decision]:
        dropped = self._drop()
        self.phase = Phase.ENDED
        return dropped

    def _drop(self) -> list[Decision]:
        if not self._container_id:
            return []
        dropped = DropContainer(self._container_id)
        self._container_id = ContainerId("")
        return [dropped]

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._since = self._seen_at = now


def _error(code: str, message: str) -> RemoteError:
    return RemoteError(code=code, type="ImageBuildError", message=message)
