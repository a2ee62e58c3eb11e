"""A build's container: wanted, given a command, asked for its layer, and let go."""

from __future__ import annotations

import asyncio
import contextlib

from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import ContainerId, WorkspaceId
from glowplug_contracts.messages.container import (
    CommitLayer,
    ContainerKind,
    ContainerSpec,
    ContainerWanted,
    ExecInContainer,
    ExecReply,
    LayerCommitted,
)
from glowplug_contracts.messages.deployment import ImageSpec, Resources
from glowplug_contracts.streams import WANTED
from glowplug_contracts.subjects import COMMIT, EXEC
from glowplug_runtime.service import Shell

from glowplug_imagecache.build import COMMIT_MAX_S
from glowplug_imagecache.build_types import (
    ContainerEnded,
    LayerStored,
    RunStep,
    StoreLayer,
    WantContainer,
)
from glowplug_imagecache.files import read_manifest
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.store import Store

RESOURCES = Resources(cpu_millis=250, memory_bytes=256 * 1024 * 1024)
EXEC_TIMEOUT_S = 10.0
# Who came last is the likeliest to be waiting still.
ASKS_MAX = 8


class BuildContainer:
    """The container of one build, as far as it has one.

    Attributes:
        exec_id, container_id: what events are routed to the build by; "" for none.
    """

    def __init__(
        self,
        shell: Shell[ImagecacheSettings],
        store: Store,
        spec: ImageSpec,
        workspace: WorkspaceId,
    ) -> None:
        self.container_id = ContainerId("")
        self.exec_id = ""
        self._shell = shell
        self._store = store
        self._spec = spec
        self._workspace = workspace
        self._wanted = shell.bus.bucket(WANTED)

    async def want(
        self, decision: WantContainer, python_version: str, *, writes_root: bool
    ) -> None:
        """Have placement start one."""
        settings = self._shell.settings
        self.container_id = decision.container_id
        spec = ContainerSpec(
            kind=ContainerKind.BUILD,
            workspace=self._workspace,
            name="build",
            image_digest=decision.parent,
            base_python=python_version,
            env=self._spec.env,
            resources=RESOURCES,
            timeout_s=settings.step_timeout_s,
            writes_root=writes_root,
            expires_s=settings.container_wait_s
            + (settings.step_timeout_s + COMMIT_MAX_S) * len(self._spec.steps),
        )
        wanted = ContainerWanted(
            container_id=decision.container_id,
            spec=spec,
            requested_at=self._shell.clock.unix(),
            owner=self._shell.instance,
        )
        await self._wanted.put(decision.container_id, wanted)

    async def drop(self, container_id: ContainerId) -> None:
        """Let it go; "" is none."""
        if not container_id:
            return
        self.container_id = ContainerId("")
        with contextlib.suppress(PlatformError):  # else the sweep of orphans removes it
            await self._wanted.delete(container_id)

    async def run_step(
        self,
        decision: RunStep,
        command: tuple[str, ...],
        env: dict[str, str],
        asks: tuple[str, ...],
    ) -> ContainerEnded | None:
        """Give it a command; return how it ended if it takes none. Raises: PlatformError.

        `asks` are what the worker may open the step's secrets with.
        """
        self.exec_id = decision.exec_id
        request = ExecInContainer(
            container_id=decision.container_id,
            exec_id=decision.exec_id,
            reply_to=self._shell.instance,
            mode="command",
            argv=command,
            env=env,
            timeout_s=self._shell.settings.step_timeout_s,
            secrets=tuple(ref.name for ref in decision.step.spec.secrets),
            asks=asks[:ASKS_MAX],
        )
        reply = await self._shell.bus.request(
            EXEC.at(worker_id=decision.worker_id), request, ExecReply, timeout_s=EXEC_TIMEOUT_S
        )
        if reply.accepted:
            return None
        return ContainerEnded(decision.container_id, f"it took no command: {reply.reason}")

    async def store_layer(self, decision: StoreLayer) -> LayerStored:
        """Have its layer stored as an image. Raises: PlatformError."""
        if decision.parent:  # the layer's manifest will name the base's tree, too
            await asyncio.to_thread(read_manifest, self._store, decision.parent)
        committed = await self._shell.bus.request(
            COMMIT.at(worker_id=decision.worker_id),
            CommitLayer(
                container_id=decision.container_id,
                parent=decision.parent,
                exec_id=self.exec_id,
                reply_to=self._shell.instance,
            ),
            LayerCommitted,
            timeout_s=COMMIT_MAX_S,
        )
        return LayerStored(decision.container_id, committed)
