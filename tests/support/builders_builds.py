"""Builders for the build machine and its plans."""

from __future__ import annotations

from glowplug_contracts.ids import DEFAULT_WORKSPACE, Digest, ImageDigest
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_imagecache.build import Build
from glowplug_imagecache.plan import BuildPlan, Target, plan_build

STEP_TIMEOUT_S = 100.0
WAIT_S = 50.0


def a_plan(*kinds: str, cached: int = 0) -> BuildPlan:
    """Return a plan with steps of these kinds ("pip", "run", "file")."""
    steps = tuple(
        ImageStep(
            kind=kind, args=(f"{kind}-{number}",), blob=Digest("0" * 64) if kind == "file" else None
        )
        for number, kind in enumerate(kinds, 1)
    )
    target = Target(host="debian", python_version="3.11")
    plan = plan_build(ImageSpec(steps=steps), DEFAULT_WORKSPACE, target)
    image = ImageDigest(f"image-{cached}") if cached else ImageDigest("")
    return BuildPlan(
        spec=plan.spec,
        workspace=plan.workspace,
        target=target,
        tip=plan.tip,
        steps=plan.steps,
        cached=cached,
        image_digest=image,
    )


def a_build(*kinds: str, cached: int = 0) -> Build:
    """Return a machine whose ids are "container-1", "exec-2" … in the order it asked for them."""
    counted = iter(range(1, 1_000_000))
    return Build(
        a_plan(*kinds, cached=cached),
        lambda kind: f"{kind}-{next(counted)}",
        step_timeout_s=STEP_TIMEOUT_S,
        container_wait_s=WAIT_S,
    )
