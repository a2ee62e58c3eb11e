"""Which of the workers that fit is best. Higher is better; ties go to the smaller worker id.

| score | range | for |
|---|---|---|
| gpu kind | 0 … 400 | the kind that the user named first (100 less per place in the list) |
| spread | 0 … 100 | few containers of the same deployment: 100 / (1 + replicas) |
| gpu saved | 0 or 60 | work without a GPU on a worker without one |
| image | 0 or 50 | the image is there already |
| template | 0 or 45 | its containers are forked there in milliseconds |
| packing | 0 … 40 | a worker that is fuller afterwards, so that others stay free for large work |
"""

from __future__ import annotations

from collections.abc import Sequence

from glowplug_contracts.messages.container import ContainerSpec

from glowplug_scheduler.filters import Fit

GPU_KIND_MAX = 400.0
GPU_KIND_STEP = 100.0
SPREAD_MAX = 100.0
GPU_SAVED = 60.0
IMAGE = 50.0
TEMPLATE = 45.0
PACKING_MAX = 40.0


def best(spec: ContainerSpec, fits: Sequence[Fit]) -> Fit:
    """Return the fit with the highest score; `fits` is not empty."""
    return min(fits, key=lambda fit: (-score(spec, fit), fit.room.beat.worker_id))


def score(spec: ContainerSpec, fit: Fit) -> float:
    """Return how well a worker suits a container."""
    at_hand = _image(spec, fit) + _template(spec, fit)
    return _gpu(fit) + _spread(fit) + _gpu_saved(fit) + at_hand + _packing(spec, fit)


def _gpu(fit: Fit) -> float:
    return max(0.0, GPU_KIND_MAX - GPU_KIND_STEP * fit.gpu_rank) if fit.gpu_ids else 0.0


def _spread(fit: Fit) -> float:
    return SPREAD_MAX / (1 + fit.room.replicas)


def _gpu_saved(fit: Fit) -> float:
    return 0.0 if fit.gpu_ids or fit.room.beat.gpus else GPU_SAVED


def _image(spec: ContainerSpec, fit: Fit) -> float:
    """The bare base ("") is everywhere."""
    return IMAGE if not spec.image_digest or spec.image_digest in fit.room.beat.images else 0.0


def _template(spec: ContainerSpec, fit: Fit) -> float:
    known = spec.deployment_id and spec.deployment_id in fit.room.beat.templates
    return TEMPLATE if known else 0.0


def _packing(spec: ContainerSpec, fit: Fit) -> float:
    beat, need = fit.room.beat, spec.resources
    cpu_used = beat.cpu_millis - fit.room.cpu_free_millis + need.cpu_millis
    memory_used = beat.memory_bytes - fit.room.memory_free_bytes + need.memory_bytes
    shares = (cpu_used / max(1, beat.cpu_millis), memory_used / max(1, beat.memory_bytes))
    return PACKING_MAX * min(1.0, max(0.0, sum(shares) / len(shares)))
