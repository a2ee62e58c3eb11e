"""The worker's composition root: reads top-down like a bill of materials."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import Digest, WorkerId
from glowplug_runtime.http import open_http
from glowplug_runtime.replicas import Replicas
from glowplug_runtime.service import Shell, run
from glowplug_runtime.settings import SettingsError

from glowplug_worker import janitor
from glowplug_worker.blobs import CachedBlobs
from glowplug_worker.door import open_gateways
from glowplug_worker.gpus.nvml import open_nvml
from glowplug_worker.gpus.watch import LOOK_S, Gpus
from glowplug_worker.images import LocalImages, Mounting, open_images
from glowplug_worker.images.aptconfig import apt_config
from glowplug_worker.images.client import open_session
from glowplug_worker.images.mounts.files import Whole
from glowplug_worker.images.mounts.lazy import LazyMounts
from glowplug_worker.images.peers.door import PeerDoor
from glowplug_worker.inventory import open_directory, open_offers
from glowplug_worker.links import Links
from glowplug_worker.notices import Notices
from glowplug_worker.opening_templates import open_templates
from glowplug_worker.outbox import Outbox
from glowplug_worker.runtime.bytecode import Bytecode
from glowplug_worker.runtime.cgroups import open_cgroups
from glowplug_worker.runtime.child import allow_open_files
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.launcher.client import open_launcher
from glowplug_worker.runtime.network.choose import open_networks
from glowplug_worker.runtime.python import find_pythons
from glowplug_worker.runtime.rooted.backend import Rooted
from glowplug_worker.runtime.seccomp_files import describe, load_profile
from glowplug_worker.runtime.seccomp_rules import Profile, ProfileError
from glowplug_worker.service import BEAT_S, FACTS_S, MEMORY_POLL_S, TICK_S, WorkerService
from glowplug_worker.settings import WorkerSettings, io_limits, parse_bytes
from glowplug_worker.starting import ensure_sdk
from glowplug_worker.workshop import FACTS_KEPT_MAX, Changes, Workshop

log = structlog.get_logger()

LINKS_S = 0.25
NETWORKS_S = 2.0
IMAGES_S = 5.0


@contextlib.asynccontextmanager
async def open_service(shell: Shell[WorkerSettings]) -> AsyncIterator[None]:
    """Open the worker's parts; close them in reverse."""
    settings, worker_id = shell.settings, WorkerId(shell.instance)
    allow_open_files()
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(_open_data(settings))
        stack.enter_context(open_directory(directory))
        await asyncio.to_thread(janitor.sweep, directory)
        await asyncio.to_thread(janitor.sweep_siblings, directory)
        claims = Path(settings.claims_dir or directory.parent / "claims")
        gpus = await _open_gpus(settings, stack)
        offers = stack.enter_context(open_offers(settings, worker_id, claims, gpus.offered))
        offer = offers.renew()
        profile = _profile(settings)
        cgroups = open_cgroups(directory, _volumes(settings))
        stack.callback(cgroups.close)
        launcher = open_launcher()
        if launcher is not None:
            stack.callback(launcher.close)
        backend = await choose_backend(
            settings.backend, directory, cgroups, settings.runtime, profile, launcher
        )
        spawn = _spawner(shell)
        images = await stack.enter_async_context(
            open_images(
                directory,
                Replicas(lambda: shell.peers.urls("imagecache")),
                _mounting(shell, settings, spawn),
                _apt_proxy(settings),
            )
        )
        peers = await _open_peers(shell, images, stack)
        gateways = await stack.enter_async_context(
            open_gateways(shell.internal_token(), lambda: shell.peers.urls("gateway"))
        )
        session = await stack.enter_async_context(open_session(shell.internal_token()))
        networks, network_words = await stack.enter_async_context(
            open_networks(
                settings.network,
                f"{worker_id} {directory}",
                spawn,
                directory / "network",
                between=settings.network_between,
                opened=settings.network_open,
            )
        )
        sdk = ensure_sdk(directory)
        bytecode = Bytecode((sdk / "glowplug").resolve(), spawn)
        templates, about_templates = await stack.enter_async_context(
            open_templates(
                settings,
                backend,
                networks,
                cgroups,
                directory,
                sdk,
                shell.clock,
                spawn,
                offered_bytes=offer.memory_bytes,
            )
        )
        links = Links(session, worker_id, lambda: _gateways(shell), spawn)
        workshop = Workshop(
            gateways=gateways,
            networks=networks,
            volumes_dir=next(iter(_volumes(settings)), None),
            worker_id=worker_id,
            bus=shell.bus,
            clock=shell.clock,
            spawn=spawn,
            backend=backend,
            pythons=find_pythons(),
            images=images,
            blobs=CachedBlobs(images.client),
            directory=directory,
            gpus=gpus,
            sdk=sdk,
            compile_for=bytecode.want,
            templates=templates,
            rooted=Rooted(backend, cgroups, profile),
            changes=Changes(),
            facts=deque(maxlen=FACTS_KEPT_MAX),
            answers=links,
            notices=Notices(),
            outbox=Outbox(spawn),
            cancel_grace_s=settings.cancel_grace_s,
            pids=settings.pids if "pids" in backend.enforces else 0,
            io=io_limits(settings),
            refuses_unenforced=settings.unenforced == "refuse",
            trees=lambda: tuple(peers()),
        )
        own = workshop.pythons.find("")
        if own is not None:
            bytecode.want(own)
        service = WorkerService(
            workshop, offers.renew, pool=settings.pool, started_at=shell.clock.unix()
        )
        shell.ready_note(
            backend=f"{backend.name}: {backend.reason}",
            **(_filter_words(profile) if backend.mounts else {}),
            memory="cgroup" if "memory" in backend.enforces else "polled, best effort",
            offers=f"{offer.cpu_millis} m cpu, {offer.memory_bytes >> 20} MiB, "
            f"{len(offer.gpus)} gpus{' (simulated)' if settings.gpus else ''}",
            **({"gpus": gpus.describe()} if gpus.found else {}),
            pythons=", ".join(workshop.pythons.versions()),
            templates=about_templates,
            network=network_words,
            images=f"{images.mounts.method}: {images.mounts.reason}",
        )
        links.serve(service)
        stack.push_async_callback(links.close)
        await service.listen()
        await service.send_beat()
        loops = [
            shell.tasks.create_task(_repeat(period_s, loop, name), name=name)
            for period_s, loop, name in (
                (BEAT_S, service.send_beat, "keep_heard"),
                (TICK_S, service.tick, "keep_time"),
                (FACTS_S, service.send_facts, "keep_history"),
                (MEMORY_POLL_S, service.watch_memory, "keep_memory_limits"),
                (LINKS_S, links.keep, "keep_links"),
                (LOOK_S, service.watch_gpus, "keep_gpus"),
                (IMAGES_S, images.tend, "keep_images"),
                (NETWORKS_S, lambda: networks.tend(_doors(shell)), "keep_networks"),
            )
        ]
        try:
            yield
            await service.drain(settings.stop_grace_s)
        finally:
            for each in loops:
                each.cancel()


def _profile(settings: WorkerSettings) -> Profile:
    """Return what containers may not ask of the kernel."""
    try:
        return load_profile(settings.seccomp)
    except ProfileError as error:
        raise SettingsError(f"GLOWPLUG_WORKER_SECCOMP: {error}") from error


def _mounting(shell: Shell[WorkerSettings], settings: WorkerSettings, spawn: Any) -> Mounting:
    """Return how images of registries are to come here."""
    return Mounting(
        wanted=settings.image_mounts,
        clock=shell.clock,
        spawn=spawn,
        urls=lambda: shell.peers.urls("imagecache"),
        token=shell.internal_token(),
        keep_s=settings.image_keep_s,
        bytes_max=parse_bytes(settings.image_disk, "image_disk"),
    )


async def _open_peers(
    shell: Shell[WorkerSettings], images: LocalImages, stack: contextlib.AsyncExitStack
) -> Callable[[], Mapping[Digest, Whole]]:
    """Open the door for other workers, if that is wanted; return what says which trees they may have."""
    settings, mounts = shell.settings, images.mounts
    if not settings.peers:
        return dict
    if settings.peer_streams < 1:
        raise SettingsError(f"GLOWPLUG_WORKER_PEER_STREAMS={settings.peer_streams}: at least 1")
    if not isinstance(mounts, LazyMounts):
        shell.ready_note(peers="none: images are extracted here, which leaves no objects to give")
        return dict
    door = PeerDoor(
        mounts.whole,
        shell.clock,
        shell.internal_token(),
        streams=settings.peer_streams,
        bytes_per_s=parse_bytes(settings.peer_bytes, "peer_bytes"),
    )
    port = await stack.enter_async_context(open_http(door.app(), settings.host, settings.port))
    shell.url = f"http://{settings.host}:{port}"
    return mounts.whole


def _apt_proxy(settings: WorkerSettings) -> str:
    """Return what apt asks in builds. Raises: SettingsError."""
    try:
        apt_config(settings.apt_proxy, one_user=False)
    except ValueError as err:
        raise SettingsError(f"GLOWPLUG_WORKER_APT_PROXY: {err}") from err
    return settings.apt_proxy


def _volumes(settings: WorkerSettings) -> tuple[Path, ...]:
    """Return where volumes lie, if this worker has any."""
    return (Path(settings.volumes_dir),) if settings.volumes_dir else ()


def _filter_words(profile: Profile) -> dict[str, str]:
    return {"system_calls": describe(profile, platform.machine())}


async def _open_gpus(settings: WorkerSettings, stack: contextlib.AsyncExitStack) -> Gpus:
    """Open the host's real GPUs, unless simulated ones are asked for."""
    driver = None if settings.gpus else await asyncio.to_thread(open_nvml)
    gpus = Gpus(driver, cdi=[Path(each) for each in settings.cdi_dirs.split(":") if each])
    stack.callback(gpus.close)
    return gpus


def _gateways(shell: Shell[WorkerSettings]) -> dict[str, str]:
    """Return where each ready gateway answers."""
    beats = shell.peers.services()
    return {b.instance: b.url for b in beats if b.service == "gateway" and b.ready and b.url}


def _doors(shell: Shell[WorkerSettings]) -> list[tuple[str, int]]:
    """Return where the platform's own parts answer: containers have no business there."""
    urls = [beat.url for beat in shell.peers.services() if beat.url]
    parts = [urlsplit(url) for url in (*urls, *shell.settings.nats_url.split(","))]
    return [(part.hostname, part.port) for part in parts if part.hostname and part.port]


async def _repeat(period_s: float, loop: Any, name: str) -> None:
    """Run `loop` until cancelled: unlike the shell's `every`, also while the worker drains."""
    while True:
        try:
            await loop()
        except PlatformError as error:
            log.warning("loop.failed", loop=name, error=str(error))
        except Exception:  # it keeps something true, so it must go on
            log.exception("loop.failed", loop=name)
        await asyncio.sleep(period_s)


def _spawner(shell: Shell[WorkerSettings]) -> Any:
    def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return shell.tasks.create_task(_guard(work, name), name=name)

    return spawn


async def _guard(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except PlatformError as error:
        log.warning("task.failed", task=name, error=str(error))
    except Exception:  # one container's trouble must not take the others down
        log.exception("task.failed", task=name)


@contextlib.contextmanager
def _open_data(settings: WorkerSettings) -> Iterator[Path]:
    """Yield the data directory; without a setting, one that goes with the worker."""
    if settings.data_dir:
        yield Path(settings.data_dir).absolute()
        return
    base = Path(tempfile.mkdtemp(prefix="glowplug-worker-"))
    try:
        yield base / "data"
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    """Run the worker until SIGTERM."""
    run("worker", WorkerSettings, open_service)


if __name__ == "__main__":
    main()
