"""Open the worker's templates, or say why it can't have them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glowplug_contracts.errors import UnavailableError

from glowplug_worker.keeping import Keeping
from glowplug_worker.ports import Backend, Networks
from glowplug_worker.runtime.bwrap import BwrapBackend
from glowplug_worker.runtime.cgroups import Cgroups
from glowplug_worker.runtime.nursery.client import open_nursery
from glowplug_worker.settings import WorkerSettings, parse_bytes
from glowplug_worker.templates import Templates

if TYPE_CHECKING:
    import asyncio

    from glowplug_worker.workshop import Clock

# Of the memory on offer, without a setting.
SHARE: Final = 10


@contextlib.asynccontextmanager
async def open_templates(  # noqa: PLR0913 - a bill of materials
    settings: WorkerSettings,
    backend: Backend,
    networks: Networks,
    cgroups: Cgroups,
    directory: Path,
    sdk: Path,
    clock: Clock,
    spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    *,
    offered_bytes: int,
) -> AsyncIterator[tuple[Templates | None, str]]:
    """Yield them, or None, and one sentence about it."""
    if not settings.templates:
        yield None, "off (GLOWPLUG_WORKER_TEMPLATES)"
        return
    if not isinstance(backend, BwrapBackend):
        yield (
            None,
            f"none: the backend {backend.name} can't fork containers, every start is a plain one",
        )
        return
    try:
        nursery = await open_nursery()
    except UnavailableError as error:
        yield None, f"none: {error.message}; every start is a plain one"
        return
    budget = parse_bytes(settings.template_memory, "template_memory") or offered_bytes // SHARE
    templates = Templates(
        backend=backend,
        networks=networks,
        nursery=nursery,
        cgroups=cgroups,
        directory=directory,
        sdk=sdk,
        clock=clock,
        spawn=spawn,
        keeping=Keeping(budget_bytes=budget, keep_s=settings.template_keep_s),
    )
    try:
        yield templates, f"containers are forked from them, within {budget >> 20} MiB"
    finally:
        await templates.close()
        nursery.close()
