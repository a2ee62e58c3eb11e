"""Put the gateway together, top-down; what is opened first is closed last."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock
from glowplug_runtime.service import Shell, spawn, version
from glowplug_runtime.settings import read_secret

from glowplug_gateway.blobs import open_blobs
from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.deployments import Deployer
from glowplug_gateway.dispatch import Dispatch
from glowplug_gateway.http.blobs import BlobRoutes
from glowplug_gateway.http.calls import CallRoutes
from glowplug_gateway.http.deployments import DeploymentRoutes
from glowplug_gateway.http.door import Door, open_door
from glowplug_gateway.http.endpoints import EndpointRoutes
from glowplug_gateway.http.health import HealthRoutes
from glowplug_gateway.http.links import LinkRoutes
from glowplug_gateway.http.logs import LogRoutes
from glowplug_gateway.http.openapi import OpenApiRoutes
from glowplug_gateway.http.route import Route, Router
from glowplug_gateway.http.sandboxes import SandboxRoutes
from glowplug_gateway.http.tasks import TaskRoutes
from glowplug_gateway.images import Images
from glowplug_gateway.links import Links
from glowplug_gateway.live import Live
from glowplug_gateway.logs import Logs
from glowplug_gateway.readmodel import Bounds, ReadModel
from glowplug_gateway.records import Records
from glowplug_gateway.sandboxes import Sandboxes
from glowplug_gateway.settings import GatewaySettings
from glowplug_gateway.tokens import open_tokens

MEND_S = 30.0


class Process:
    """The shell as the gateway's parts see it (`ports.Platform`)."""

    def __init__(self, shell: Shell[GatewaySettings]) -> None:
        self._shell = shell
        self.bus: Bus = shell.bus
        self.clock: Clock = shell.clock
        self.instance: str = shell.instance
        self.shards: int = shell.shards

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` in the service's task group."""
        spawn(self._shell, work, name)

    def every(self, period_s: float, loop: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `loop` again and again until the service stops."""
        self._shell.every(period_s, loop, name)


@contextlib.asynccontextmanager
async def open_gateway(shell: Shell[GatewaySettings]) -> AsyncIterator[None]:
    """Open every part, serve, and close in reverse."""
    settings = shell.settings
    process = Process(shell)
    async with contextlib.AsyncExitStack() as stack:
        readmodel = ReadModel(process, _readmodel_path(settings), _bounds(settings))
        await stack.enter_async_context(readmodel.open())
        tokens = await stack.enter_async_context(
            open_tokens(shell.bus, read_secret(settings.token_file), shell.clock.unix())
        )
        blobs = await stack.enter_async_context(open_blobs(shell.peers, shell.internal_token()))
        catalog, live, logs = Catalog(shell.bus), Live(process), Logs(process)
        links = Links()
        dispatch = Dispatch(shell.bus, links, shell.shards)
        calls = Calls(process, dispatch, workspace_max=settings.in_hand_max)
        links.listen(calls)
        records = Records(process, calls, blobs)
        for part in (catalog, live, logs, calls, records):
            await stack.enter_async_context(part.open())
        images = Images(process)
        deployer = Deployer(process, catalog, images, blobs)
        shell.every(MEND_S, deployer.mend_flags, "latest flags")
        bytes_max = settings.body_bytes_max
        areas = (
            CallRoutes(process, catalog, calls, records, blobs, body_bytes_max=bytes_max),
            EndpointRoutes(
                process,
                catalog,
                calls,
                records,
                blobs,
                body_bytes_max=bytes_max,
                errors_shown=settings.errors_shown,
            ),
            TaskRoutes(records, readmodel),
            DeploymentRoutes(catalog, deployer, calls, live),
            LogRoutes(logs, readmodel),
            SandboxRoutes(Sandboxes(process, images, blobs)),
            HealthRoutes(process, live, shell.peers.services, version()),
            BlobRoutes(blobs, blob_bytes_max=settings.blob_bytes_max),
            LinkRoutes(links),
        )
        routes: list[Route] = [route for area in areas for route in area.routes()]
        routes += OpenApiRoutes(version(), lambda: routes).routes()
        door = Door(Router(tuple(routes)), tokens, shell.clock, shell.internal_token())
        port = await stack.enter_async_context(
            open_door(
                door,
                settings.host,
                settings.port,
                body_bytes_max=bytes_max,
                drain_s=settings.drain_s,
                on_closing=lambda: links.drain(settings.drain_s),
            )
        )
        stack.callback(logs.end_followers)  # before the door waits for its requests to end
        shell.url = f"http://{settings.host}:{port}"
        shell.ready_note(url=shell.url)
        yield


def _readmodel_path(settings: GatewaySettings) -> Path | None:
    return Path(settings.data_dir) / "readmodel.sqlite" if settings.data_dir else None


def _bounds(settings: GatewaySettings) -> Bounds:
    return Bounds(
        spans=settings.spans_kept, segments=settings.segments_kept, calls=settings.calls_kept
    )
