"""The worker's templates: makes and keeps what `keeping.py` decides, and forks containers from them.

Two sorts, one mechanism: a *bare* template is a runner without user code, one per workspace and image, that
spares a start the sandbox and the interpreter; a deployment's has its code imported, too. A start that can't
be had from either is a plain one, and never fails because of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, DeploymentId
from glowplug_contracts.messages.container import BindContainer, ContainerKind, ContainerSpec
from glowplug_contracts.messages.deployment import Resources
from glowplug_contracts.messages.worker import TemplateView

from glowplug_worker import keeping, template
from glowplug_worker.frames import Init
from glowplug_worker.keeping import Keeping, Key
from glowplug_worker.launch import (
    LAYER_AT,
    SDK_AT,
    SOURCE_AT,
    Brought,
    Places,
    environment,
    init_for,
    lay_out,
    plan_start,
)
from glowplug_worker.networks import Networked, attach, join
from glowplug_worker.ports import (
    Attachment,
    Backend,
    Bind,
    Limits,
    Networks,
    RunningContainer,
    StartPlan,
)
from glowplug_worker.runtime.cgroups import Cgroups
from glowplug_worker.runtime.nursery.client import Nursery

log = structlog.get_logger()

# The dynamic linker and the C library look at these only when a process begins.
_BEGINNING: Final = ("LD_", "GLIBC_", "MALLOC_", "LC_", "LANG", "PYTHON")


# Beats are small.
TOLD_MAX: Final = 100


class _Clock(Protocol):
    def now(self) -> float: ...


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is to be started: what of it says from which template it may be forked."""

    binding: BindContainer
    brought: Brought
    places: Places
    secret_env: Mapping[str, str]

    @property
    def bare_key(self) -> Key:
        """Return the key of a runner without user code."""
        spec = self.binding.spec
        parts = (spec.workspace, spec.image_digest, str(self.brought.interpreter.executable))
        return Key(owner="", digest=_digest(parts))

    @property
    def key(self) -> Key:
        """Return the key of the deployment's own."""
        spec, places = self.binding.spec, self.places
        binds = [(str(bind.source), bind.target, bind.writable) for bind in places.binds]
        parts = (spec, sorted(self.secret_env.items()), binds)
        return Key(owner=spec.deployment_id, digest=_digest(parts))

    @property
    def suits(self) -> bool:
        """Return whether a container like this can be forked at all."""
        spec = self.binding.spec
        alone = spec.source is not None and spec.source.sharing == "nothing"
        # What holds the trees of images and models is the container; a template would have to hold them, too.
        image = self.brought.image
        own_root = image is not None and image.base is not None
        return (
            spec.kind is ContainerKind.FUNCTION
            and spec.processes == 1
            and not alone
            and not own_root
            and not spec.models
        )

    @property
    def suits_bare(self) -> bool:
        """Return whether it differs from a bare runner in nothing but what can be given to a newborn."""
        spec = self.binding.spec
        targets = {bind.target for bind in self.places.binds}
        own = {f"{SDK_AT}/glowplug", LAYER_AT, SOURCE_AT}
        image_env = self.brought.image.env if self.brought.image is not None else {}
        return targets <= own and not any(
            name.startswith(_BEGINNING) for name in (*spec.env, *image_env, *self.secret_env)
        )


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was forked. `loaded`: with its code imported."""

    running: RunningContainer
    loaded: bool


class _Kept(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A template, where it stands, and what is told about it."""

    template: template.Template
    folder: Path
    view: TemplateView


class Templates:
    """See the module."""

    def __init__(  # noqa: PLR0913 - a bill of materials
        self,
        *,
        backend: Backend,
        networks: Networks,
        nursery: Nursery,
        cgroups: Cgroups,
        directory: Path,
        sdk: Path,
        clock: _Clock,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        keeping: Keeping,
    ) -> None:
        self.backend = backend
        self.networks = networks
        self._nursery = nursery
        self.cgroups = cgroups
        self._directory = directory
        self._sdk = sdk
        self._clock = clock
        self._spawn = spawn
        self._keeping = keeping
        self._templates: dict[Key, _Kept] = {}
        self._making: set[asyncio.Task[None]] = set()
        self._count = 0
        self._closed = False

    @property
    def memory_bytes(self) -> int:
        """Return what they use: nobody else may be promised it."""
        return self._keeping.memory_bytes

    def deployments(self) -> tuple[DeploymentId, ...]:
        """Return the deployments whose containers are forked here."""
        return tuple(
            DeploymentId(key.owner)
            for key in self._templates
            if not key.bare and self._keeping.usable(key)
        )

    def names(self) -> tuple[Key, ...]:
        """Return those that containers are forked from now."""
        return tuple(key for key in self._templates if self._keeping.usable(key))

    def unsafe(self) -> dict[DeploymentId, str]:
        """Return why containers of deployments are not forked, for the latest of them."""
        found = [
            (DeploymentId(key.owner), why) for key, why in self._keeping.unsafe.items() if key.owner
        ]
        return dict(found[-TOLD_MAX:])

    def views(self) -> tuple[TemplateView, ...]:
        """Return all that live, those with containers that are used no more, too."""
        found = []
        for key, each in self._templates.items():
            memory_bytes, containers = self._keeping.use(key)
            found.append(
                msgspec.structs.replace(each.view, memory_bytes=memory_bytes, containers=containers)
            )
        return tuple(found[:TOLD_MAX])

    # -- containers -----------------------------------------------------------------------------

    async def fork(self, start: Start, plan: StartPlan) -> Fork | None:
        """Fork a container if there is a template for it; None = it needs a plain start."""
        # Devices of the host, files that come with them, and disks are in no template's namespace.
        different = plan.devices or plan.binds != start.places.binds
        different = different or "disk" in plan.limits.named
        if not start.suits or different or self._closed:
            return None
        source = tuple(bind for bind in start.places.binds if bind.target == SOURCE_AT)
        choices: list[tuple[Key, tuple[Bind, ...]]] = [(start.key, ())]
        if start.suits_bare:
            choices.append((start.bare_key, source))
        for key, binds in choices:
            if self._keeping.usable(key) and (running := await self._fork(key, plan, binds)):
                return Fork(running=running, loaded=not key.bare)
        return None

    async def _fork(
        self, key: Key, plan: StartPlan, binds: tuple[Bind, ...]
    ) -> RunningContainer | None:
        found = self._templates[key].template
        self._step(keeping.Forked(key=key))
        try:
            return await found.fork(
                self._nursery, self.cgroups, plan, binds, lambda: self._child_ended(key, found)
            )
        except PlatformError as error:
            # What does not fork once is not trusted again; the containers that came from it go on.
            log.warning("template.failed", owner=key.owner, error=str(error))
            self._child_ended(key, found)
            self._step(keeping.Retired(key=key))
        except BaseException:
            self._child_ended(key, found)
            raise
        return None

    def _child_ended(self, key: Key, parent: template.Template) -> None:
        kept = self._templates.get(key)
        if kept is not None and kept.template is parent:
            self._step(keeping.ChildEnded(key=key))

    def served(self, start: Start, import_s: float, *, forked: bool) -> None:
        """A container is ready that had to import its code, plainly started or `forked` from a bare one."""
        if not start.suits or start.binding.gpu_ids or self._closed:
            return
        if not forked and start.suits_bare:
            self._step(keeping.Served(key=start.bare_key), start)
        self._step(keeping.Served(key=start.key, import_s=import_s), start)

    # -- templates ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at the clock, and whether those that should sleep do."""
        for key, each in list(self._templates.items()):
            if each.template.busy():
                log.warning("template.busy", owner=key.owner)
                self._step(keeping.Retired(key=key))
        self._step(keeping.Passed())

    def forget(self, deployment_ids: Sequence[DeploymentId]) -> None:
        """Drop what is kept of deployments that are over, as soon as it has no containers."""
        for deployment_id in deployment_ids:
            self._step(keeping.Forgotten(owner=deployment_id))

    def empty(self) -> None:
        """Drop all: no container starts here now."""
        if self._templates:
            self._step(keeping.Emptied())

    def _step(self, event: keeping.Event, start: Start | None = None) -> None:
        for decision in self._keeping.step(event, self._clock.now()):
            match decision:
                case keeping.Make() if start is not None:
                    making = self._spawn(self._make(decision.key, start), "make template")
                    self._making.add(making)
                    making.add_done_callback(self._making.discard)
                case keeping.Drop():
                    self._drop(decision.key)

    def _drop(self, key: Key) -> None:
        found = self._templates.pop(key, None)
        if found is not None:
            self._spawn(self._end(found), "end template")

    async def _end(self, found: _Kept) -> None:
        await found.template.close()
        await asyncio.to_thread(_remove, found.folder)

    async def _make(self, key: Key, start: Start) -> None:
        self._count += 1
        name = f"template-{self._count}"
        folder = self._directory / "containers" / name
        try:
            made = await self._start(key, start, name, folder)
        except template.UnsafeError as error:
            log.info("template.unsafe", owner=key.owner, why=str(error))
            self._step(keeping.Unsafe(key=key, reason=str(error)))
        except (PlatformError, OSError) as error:
            log.warning("template.failed", owner=key.owner, error=str(error))
            self._step(keeping.Failed(key=key, reason=f"it could not be started: {error}"))
        except BaseException:
            self._step(keeping.Died(key=key))
            _remove(folder)
            raise
        else:
            kept = _Kept(template=made, folder=folder, view=view_of(key, start.binding.spec))
            self._templates[key] = kept
            memory = await asyncio.to_thread(made.memory_bytes)
            log.info("template.made", owner=key.owner, memory_bytes=memory)
            self._step(keeping.Made(key=key, memory_bytes=memory))
            self._spawn(self._watch(key, kept), "watch template")
            return
        await asyncio.to_thread(_remove, folder)

    async def _start(self, key: Key, start: Start, name: str, folder: Path) -> template.Template:
        binding = template_binding(start.binding, name, bare=key.bare)
        brought = start.brought
        if key.bare:
            brought = msgspec.structs.replace(brought, source=None, volumes=())
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        places = lay_out(brought, sdk=self._sdk, scratch=scratch, mounts=self.backend.mounts)

        def plan_with(fds: tuple[int, ...]) -> StartPlan:
            plan = plan_start(binding, brought, places, scratch=scratch, fds=fds[:1])
            return msgspec.structs.replace(
                plan,
                limits=with_room(plan.limits),
                argv=(*plan.argv, "--template", str(fds[1])),
                fds=fds,
                home=self._nursery.home,
                directories=(SOURCE_AT,) if key.bare else (),
            )

        env = {**environment(binding, brought, places), **({} if key.bare else start.secret_env)}
        init = Init(mode="bare", env=env) if key.bare else init_for(binding, brought, places, env)
        attachment = await attach(self, binding.spec, name)
        try:
            return await template.make(
                lambda fds: self._run(plan_with(fds), attachment), init, brought
            )
        except BaseException:
            await attachment.close()
            raise

    async def _run(self, plan: StartPlan, attachment: Attachment) -> RunningContainer:
        return Networked(await self.backend.start(join(plan, attachment)), attachment)

    async def _watch(self, key: Key, kept: _Kept) -> None:
        await kept.template.running.wait()
        if self._templates.get(key) is kept and not self._closed:
            del self._templates[key]
            self._step(keeping.Died(key=key))
            await self._end(kept)

    async def close(self) -> None:
        """End them all. Nothing that was forked may live any more."""
        self._closed = True
        making = list(self._making)
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        for key, each in list(self._templates.items()):
            del self._templates[key]
            await self._end(each)


def view_of(key: Key, spec: ContainerSpec) -> TemplateView:
    """Return what is told about a template."""
    return TemplateView(
        workspace=spec.workspace,
        deployment_id=DeploymentId(key.owner),
        name="" if key.bare else spec.name,
        image_digest=spec.image_digest,
    )


def template_binding(binding: BindContainer, name: str, *, bare: bool) -> BindContainer:
    """Return what a template is started as: without GPUs, and a bare one without anything of its users'."""
    spec: ContainerSpec = binding.spec
    if bare:
        spec = ContainerSpec(
            kind=spec.kind,
            workspace=spec.workspace,
            name="template",
            image_digest=spec.image_digest,
            base_python=spec.base_python,
            resources=Resources(),
        )
    return BindContainer(
        container_id=ContainerId(name), generation=binding.generation, spec=spec, gpu_ids=()
    )


def with_room(limits: Limits) -> Limits:
    """Return a template's limits: what its code may have, and room for what the kernel keeps of its children."""
    if not limits.memory_bytes:
        return limits
    room = keeping.CHILDREN_MAX * keeping.CHILD_BYTES
    return msgspec.structs.replace(limits, memory_bytes=limits.memory_bytes + room)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _digest(parts: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()
