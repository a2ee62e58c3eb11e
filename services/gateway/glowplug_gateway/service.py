"""Put the gateway together, top-down; what is opened first is closed last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glowplug_contracts.addresses import parse_networks
from glowplug_runtime.bus import Bus
from glowplug_runtime.clock import Clock
from glowplug_runtime.service import Shell, spawn, version
from glowplug_runtime.settings import read_secret
from glowplug_runtime.tls import LOOK_S as LOOK_AT_TLS_S
from glowplug_runtime.tls import ServerCertificate, open_certificate

from glowplug_gateway.blobs import Blobs, open_blobs
from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.deployments import Deployer
from glowplug_gateway.dispatch import Dispatch
from glowplug_gateway.ending import LOOK_S as UNUSED_LOOK_S
from glowplug_gateway.ending import Ending
from glowplug_gateway.events import Events
from glowplug_gateway.http.blobs import BlobRoutes
from glowplug_gateway.http.builds import BuildRoutes
from glowplug_gateway.http.callbacks import CallbackRoutes
from glowplug_gateway.http.calls import CallRoutes
from glowplug_gateway.http.compositions import CompositionRoutes
from glowplug_gateway.http.containers import ContainerRoutes
from glowplug_gateway.http.dead_letters import DeadLetterRoutes
from glowplug_gateway.http.deployments import DeploymentRoutes
from glowplug_gateway.http.door import Door, Listening, open_door
from glowplug_gateway.http.endpoints import EndpointRoutes
from glowplug_gateway.http.events import EventRoutes
from glowplug_gateway.http.health import HealthRoutes
from glowplug_gateway.http.images import ImageRoutes
from glowplug_gateway.http.links import LinkRoutes
from glowplug_gateway.http.logs import LogRoutes
from glowplug_gateway.http.maps import MapRoutes
from glowplug_gateway.http.models import ModelRoutes
from glowplug_gateway.http.openapi import OpenApiRoutes
from glowplug_gateway.http.outputs import OutputRoutes
from glowplug_gateway.http.pulls import PullRoutes
from glowplug_gateway.http.puts import PutRoutes
from glowplug_gateway.http.queues import QueueRoutes
from glowplug_gateway.http.route import Route, Router
from glowplug_gateway.http.sandboxes import SandboxRoutes
from glowplug_gateway.http.schedules import ScheduleRoutes
from glowplug_gateway.http.secrets import SecretRoutes
from glowplug_gateway.http.task_views import TaskViewRoutes
from glowplug_gateway.http.tasks import TaskRoutes
from glowplug_gateway.http.volumes import VolumeRoutes
from glowplug_gateway.http.workers import WorkerRoutes
from glowplug_gateway.images import Images
from glowplug_gateway.intake import Intake
from glowplug_gateway.later import open_later
from glowplug_gateway.letters import Letters
from glowplug_gateway.links import Links
from glowplug_gateway.live import Live
from glowplug_gateway.logs import Logs
from glowplug_gateway.maps import Maps
from glowplug_gateway.models import open_models
from glowplug_gateway.outputs import Outputs
from glowplug_gateway.queues import Queues
from glowplug_gateway.quotas import Quota, Quotas
from glowplug_gateway.readmodel import Bounds, ReadModel
from glowplug_gateway.recordfeed import RecordFeed
from glowplug_gateway.records import Records
from glowplug_gateway.sandboxes import Sandboxes
from glowplug_gateway.schedules import Schedules
from glowplug_gateway.secrets import Secrets, read_key_file
from glowplug_gateway.settings import GatewaySettings
from glowplug_gateway.shelf import open_shelf
from glowplug_gateway.signing import SigningSecrets
from glowplug_gateway.telling import LEASE, Teller, Terms
from glowplug_gateway.tokens import open_tokens
from glowplug_gateway.volume_events import LOOK_S, VolumeEvents
from glowplug_gateway.volumes import Volumes

MEND_S = 30.0


@dataclass
class Origin:
    """Where others reach this gateway: as the settings say, else as it listens."""

    public: str
    own: str = ""


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
    certificate, origin = _certificate(process, settings), Origin(settings.public_url.rstrip("/"))
    async with contextlib.AsyncExitStack() as stack:
        readmodel = ReadModel(process, _readmodel_path(settings), _bounds(settings))
        await stack.enter_async_context(readmodel.open())
        tokens = await stack.enter_async_context(
            open_tokens(shell.bus, read_secret(settings.token_file), shell.clock.unix())
        )
        blobs = await stack.enter_async_context(open_blobs(shell.peers, shell.internal_token()))
        models = await stack.enter_async_context(
            open_models(process, shell.peers, shell.internal_token())
        )
        catalog = Catalog(shell.bus, shell.clock, settings.ephemeral_keep_s)
        live, logs = Live(process), Logs(process)
        links = Links()
        calls = _calls(process, links, settings)
        feed = RecordFeed(process, readmodel)
        networks = parse_networks(settings.callback_networks)
        records = Records(process, calls, blobs, feed, links, networks)
        intake = Intake(process, calls, records)
        schedules = Schedules(process, catalog, intake)
        for part in (catalog, live, logs, calls, feed, schedules):
            await stack.enter_async_context(part.open())
        vault, volumes = _open_kept(process, settings)
        secrets = SigningSecrets(shell.bus, vault)
        teller = Teller(process, records, feed, secrets, _callback_terms(settings))
        shell.hold(LEASE, teller.lead)
        images, events = Images(process), Events(process, catalog)
        deployer = Deployer(process, catalog, images, blobs, vault, volumes, models)
        sandboxes = Sandboxes(process, images, blobs, deployer.prepare)
        _keep_versions(process, deployer, catalog, calls)
        _watch_volumes(process, catalog, volumes)
        bytes_max = settings.body_bytes_max
        queues = Queues(process)
        await stack.enter_async_context(queues.open())
        areas = (
            CallRoutes(process, catalog, calls, intake, blobs, body_bytes_max=bytes_max),
            EndpointRoutes(
                process,
                catalog,
                calls,
                intake,
                blobs,
                body_bytes_max=bytes_max,
                errors_shown=settings.errors_shown,
            ),
            PutRoutes(catalog, intake, body_bytes_max=bytes_max),
            CompositionRoutes(process, catalog, calls, records, body_bytes_max=bytes_max),
            TaskRoutes(records),
            CallbackRoutes(secrets),
            TaskViewRoutes(catalog, records, feed, readmodel),
            DeadLetterRoutes(catalog, Letters(process, catalog, calls, records, feed, readmodel)),
            EventRoutes(events, body_bytes_max=bytes_max),
            ScheduleRoutes(schedules),
            DeploymentRoutes(catalog, deployer, calls, live, readmodel),
            LogRoutes(logs, readmodel, catalog),
            SandboxRoutes(sandboxes),
            HealthRoutes(process, shell.peers.services, version()),
            WorkerRoutes(process, live),
            ContainerRoutes(catalog, live, readmodel),
            BlobRoutes(blobs, blob_bytes_max=settings.blob_bytes_max),
            MapRoutes(process, Maps(process)),
            SecretRoutes(catalog, sandboxes, vault),
            VolumeRoutes(volumes, file_bytes_max=settings.blob_bytes_max),
            ModelRoutes(models, vault),
            QueueRoutes(process, queues, body_bytes_max=bytes_max),
            _outputs(process, records, blobs, settings, origin),
            LinkRoutes(links),
            PullRoutes(images, vault),
            BuildRoutes(images, blobs),
            ImageRoutes(
                await stack.enter_async_context(open_shelf(shell.peers, shell.internal_token()))
            ),
        )
        routes: list[Route] = [route for area in areas for route in area.routes()]
        routes += OpenApiRoutes(version(), lambda: routes).routes()
        door = Door(
            Router(tuple(routes)),
            tokens,
            shell.clock,
            internal_token=shell.internal_token(),
            tls=certificate is not None,
        )
        listening = await stack.enter_async_context(
            open_door(
                door,
                settings.host,
                settings.port,
                body_bytes_max=bytes_max,
                drain_s=settings.drain_s,
                on_closing=lambda: links.drain(settings.drain_s),
                tls=certificate.context if certificate is not None else None,
                plain_host=settings.plain_host,
            )
        )
        stack.callback(events.end_readers)
        stack.callback(feed.end_watchers)
        stack.callback(logs.end_followers)  # before the door waits for its requests to end
        if settings.grpc_port >= 0:

            def open_grpc() -> contextlib.AbstractAsyncContextManager[int]:
                from glowplug_gateway.rpc.door import RpcDoor, open_rpc  # noqa: PLC0415
                from glowplug_gateway.rpc.methods import RpcMethods  # noqa: PLC0415

                methods = RpcMethods(
                    process, catalog, deployer, calls, intake, records, blobs, logs, readmodel
                )
                return open_rpc(
                    RpcDoor(methods.methods(), tokens),
                    settings.host,
                    settings.grpc_port,
                    bytes_max=bytes_max,
                    drain_s=settings.drain_s,
                    certificate=certificate,
                )

            await stack.enter_async_context(
                open_later(
                    ("glowplug_gateway.rpc.methods",),
                    open_grpc,
                    lambda port: shell.ready_note(grpc=port),
                    shell.tasks,
                )
            )
        origin.own, shell.url = _urls(settings, listening)
        shell.ready_note(url=origin.own)
        _say_open_networks(shell)
        yield


def _say_open_networks(shell: Shell[GatewaySettings]) -> None:
    if shell.settings.callback_networks:
        shell.ready_note(callbacks_also_to=shell.settings.callback_networks)


def _open_kept(process: Process, settings: GatewaySettings) -> tuple[Secrets, Volumes]:
    """Return what this platform keeps for users: secrets and volumes, as far as it was told where."""
    return (
        Secrets(process, read_key_file(settings.master_key_file)),
        Volumes(
            Path(settings.volumes_dir) if settings.volumes_dir else None,
            Quotas(
                Quota(files_max=settings.volume_files_max, bytes_max=settings.volume_bytes_max),
                process.clock.now,
            ),
        ),
    )


def _keep_versions(process: Process, deployer: Deployer, catalog: Catalog, calls: Calls) -> None:
    process.every(MEND_S, deployer.mend_flags, "latest flags")
    ending = Ending(catalog, process.clock, lambda one: one in calls.backlogs)
    process.every(UNUSED_LOOK_S, ending.look, "unused versions")


def _watch_volumes(process: Process, catalog: Catalog, volumes: Volumes) -> None:
    if volumes.there:
        process.every(LOOK_S, VolumeEvents(process, catalog, volumes).look, "files of volumes")


def _certificate(process: Process, settings: GatewaySettings) -> ServerCertificate | None:
    """Return the certificate, kept fresh. Raises: StartError."""
    certificate = open_certificate(settings.tls_cert_file, settings.tls_key_file)
    if certificate is None:
        return None
    looking = certificate.look

    async def look() -> None:
        await asyncio.to_thread(looking)

    process.every(LOOK_AT_TLS_S, look, "the certificate")
    return certificate


def _urls(settings: GatewaySettings, listening: Listening) -> tuple[str, str]:
    """Return where programs reach this gateway, and where the platform's own parts do."""
    if not settings.tls_cert_file:
        url = f"http://{settings.host}:{listening.port}"
        return url, url
    # Past the certificate, which names no loopback address.
    plain = f"http://{settings.plain_host}:{listening.plain_port}"
    return f"https://{settings.host}:{listening.port}", plain


def _outputs(
    process: Process,
    records: Records,
    blobs: Blobs,
    settings: GatewaySettings,
    origin: Origin,
) -> OutputRoutes:
    outputs = Outputs(
        process, blobs, bytes_max=settings.output_bytes_max, keep_s=settings.output_keep_s
    )
    return OutputRoutes(outputs, records, process.clock, lambda: origin.public or origin.own)


def _calls(process: Process, links: Links, settings: GatewaySettings) -> Calls:
    """Return what holds the calls, and listens to the linked workers."""
    dispatch = Dispatch(process.bus, links, process.shards)
    calls = Calls(process, dispatch, workspace_max=settings.in_hand_max)
    links.listen(calls)
    return calls


def _readmodel_path(settings: GatewaySettings) -> Path | None:
    return Path(settings.data_dir) / "readmodel.sqlite" if settings.data_dir else None


def _callback_terms(settings: GatewaySettings) -> Terms:
    return Terms(
        timeout_s=settings.callback_timeout_s,
        tries_max=settings.callback_tries_max,
        retry_s=settings.callback_retry_s,
        networks=parse_networks(settings.callback_networks),
    )


def _bounds(settings: GatewaySettings) -> Bounds:
    return Bounds(
        spans=settings.spans_kept,
        segments=settings.segments_kept,
        segments_s=settings.logs_kept_s,
        calls=settings.calls_kept,
    )
