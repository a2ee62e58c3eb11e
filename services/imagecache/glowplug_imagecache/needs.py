"""What the platform needs of the store now: deployed, running, asked for, forked from, or a model.

Read anew for every round of eviction, from the buckets that say so and the beats of live workers. If one can't
be read, there is no answer, and nothing is evicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentState,
    ImageSpec,
    SourceRef,
)
from glowplug_contracts.messages.sandbox import SandboxRecord, SandboxState
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_contracts.streams import DEPLOYMENTS, MODELS, SANDBOXES, WANTED
from glowplug_runtime.bus import Bus, KeyValue

from glowplug_imagecache.stock import Held

V = TypeVar("V")

ENDED = frozenset({SandboxState.TERMINATED, SandboxState.FAILED})


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody of a workspace needs an image. `who` is written as people write it."""

    workspace: WorkspaceId
    image_digest: ImageDigest
    who: str


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed."""

    uses: tuple[Use, ...]
    sources: frozenset[tuple[WorkspaceId, Digest]]
    trees: frozenset[Digest] = frozenset()

    def held(self) -> Held:
        """Return what must not be evicted."""
        return Held(
            images=frozenset(Digest(use.image_digest) for use in self.uses),
            sources=self.sources,
            trees=self.trees,
        )


async def find_needs(bus: Bus, beats: Iterable[WorkerBeat]) -> Needs:
    """Return what is needed now. Raises: UnavailableError."""
    uses: list[Use] = []
    sources: set[tuple[WorkspaceId, Digest]] = set()
    # What a beat holds is in a bucket before its container starts, so buckets are read after the beats.
    trees: set[Digest] = set()
    for beat in list(beats):
        uses += _of_beat(beat)
        trees.update(tree for one in beat.containers for tree in one.trees)
    for wanted in await _values(bus.bucket(WANTED)):
        spec = wanted.spec
        uses.append(_use(spec.workspace, spec.image_digest, f"{spec.kind} {spec.name}".strip()))
        sources |= _sources(spec.workspace, spec.source, ImageSpec())
    for record in await _values(bus.bucket(SANDBOXES)):
        if record.state not in ENDED:
            uses.append(_of_sandbox(record))
            sources |= _sources(record.workspace, None, record.spec.image)
    for made in await _values(bus.bucket(DEPLOYMENTS)):
        if made.state is not DeploymentState.DELETED:
            uses.append(_of_deployment(made))
            sources |= _sources(made.workspace, made.spec.source, made.spec.image)
    for model in await _values(bus.bucket(MODELS)):
        trees.update(version.tree for version in model.versions)
    return Needs(
        uses=tuple(use for use in uses if use.image_digest),
        sources=frozenset(sources),
        trees=frozenset(trees),
    )


async def _values(bucket: KeyValue[V]) -> list[V]:
    return [entry.value for entry in await bucket.entries() if entry.value is not None]


def _of_beat(beat: WorkerBeat) -> list[Use]:
    running = [
        _use(one.workspace, one.image_digest, f"container {one.container_id}")
        for one in beat.containers
    ]
    return running + [
        _use(one.workspace, one.image_digest, f"template of {one.name or 'runners'}")
        for one in beat.kept
    ]


def _of_sandbox(record: SandboxRecord) -> Use:
    image = ImageDigest(record.image_digest)
    return _use(record.workspace, image, f"sandbox {record.sandbox_id}")


def _of_deployment(made: Deployment) -> Use:
    who = f"{made.spec.name} v{made.version}" if not made.ephemeral else f"{made.spec.name} (run)"
    return _use(made.workspace, made.image_digest, who)


def _use(workspace: WorkspaceId, image: ImageDigest, who: str) -> Use:
    return Use(workspace=workspace, image_digest=image, who=who)


def _sources(
    workspace: WorkspaceId, source: SourceRef | None, image: ImageSpec
) -> set[tuple[WorkspaceId, Digest]]:
    named = [step.blob for step in image.steps]
    if source is not None:
        named += [source.blob, source.pickled, source.on_start_pickled, source.on_exit_pickled]
    return {(workspace, digest) for digest in named if digest is not None}
