"""A service's life, the same for all six: settings → logs → traces → bus → its own parts → ready.

`run` is the whole main(). The service gives one context manager that opens its parts top-down and closes
them in reverse; between the two it is ready. SIGTERM only sets `stopping`: parts that look at it finish
what they have, the context is left, everything sent is flushed, and the connection is closed last. A second
signal ends the process at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.metadata
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
import structlog
import uvloop
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.ids import check_token
from glowplug_contracts.messages.worker import SILENT_STREAMS, ServiceBeat
from glowplug_contracts.streams import PLATFORM
from glowplug_contracts.subjects import SERVICE_BEAT, SERVICES_PROBED

from glowplug_runtime import logging, tracing
from glowplug_runtime.bus import Delivery
from glowplug_runtime.bus_nats import NatsBus, open_bus
from glowplug_runtime.clock import Clock
from glowplug_runtime.failures import StartError
from glowplug_runtime.groups import leaves
from glowplug_runtime.lease import Lease, hold_lease
from glowplug_runtime.peers import Peers
from glowplug_runtime.settings import Settings, SettingsError, load, read_secret, redacted
from glowplug_runtime.topology import PLATFORM_KEY, check_platform

S = TypeVar("S", bound=Settings)

log = structlog.get_logger()

BEAT_S = 1.0
TOPOLOGY_POLL_S = 0.02


class Shell(Generic[S]):
    """What the runtime gives a service.

    Attributes:
        settings, bus, clock, peers: as named.
        tasks: the group in which all of the service's tasks live.
        instance: this replica's name, one token.
        shards: how many the platform has.
        stopping: set on SIGTERM.
        ready: shown in beats; the runtime sets it.
        url: the service sets it if others reach it by HTTP.
        notes, leading: shown in beats and health.
    """

    def __init__(
        self, service: str, settings: S, bus: NatsBus, lease_bus: NatsBus, tasks: asyncio.TaskGroup
    ) -> None:
        self.service = service
        self.settings = settings
        self.bus = bus
        self._lease_bus = lease_bus
        self.tasks = tasks
        self.clock = Clock()
        self.peers = Peers(bus, self.clock)
        self.instance = ""
        self.shards = 1
        self.stopping = asyncio.Event()
        self.ready = False
        self.url = ""
        self.notes: dict[str, str] = {}
        self.leading: set[str] = set()
        self.log = log
        self._beat_now = asyncio.Event()

    def ready_note(self, **notes: str) -> None:
        """Add to what beats and health show about this replica."""
        self.notes.update(notes)

    def every(self, period_s: float, loop: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `loop` every `period_s` seconds until the service stops; what it raises is logged."""
        self.tasks.create_task(self._repeat(period_s, loop, name), name=name)

    def hold(self, key: str, on_held: Callable[[Lease], AbstractAsyncContextManager[None]]) -> None:
        """Contend for the lease `key` in the background; see `lease.hold_lease`."""
        # A connection of its own: a takeover that reads 100,000 records must not delay renewals.
        lease = Lease(self._lease_bus, self.clock, key, self.instance)

        @contextlib.asynccontextmanager
        async def shown(lease: Lease) -> AsyncIterator[None]:
            self.leading.add(key)
            self.beat_now()
            try:
                async with on_held(lease):
                    yield
            finally:
                self.leading.discard(key)

        self.tasks.create_task(hold_lease(lease, shown, self.stopping), name=f"hold {key}")

    def internal_token(self) -> str:
        """Return the token that services show each other over HTTP."""
        return read_secret(self.settings.internal_token_file)

    def beat_now(self) -> None:
        """Have a beat sent at once."""
        self._beat_now.set()

    async def _repeat(
        self, period_s: float, loop: Callable[[], Awaitable[None]], name: str
    ) -> None:
        while not self.stopping.is_set():
            try:
                await loop()
            except PlatformError as error:
                log.warning("loop.failed", loop=name, error=str(error))
            except Exception:  # the loop keeps something true: it must go on
                log.exception("loop.failed", loop=name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self.stopping.wait()

    async def keep_beating(self) -> None:
        """Send this replica's sign of life once a second, and when somebody asks."""
        while True:
            self._beat_now.clear()
            silent = {*self.bus.silent_streams(), *self._lease_bus.silent_streams()}
            told = {SILENT_STREAMS: ",".join(sorted(silent))} if silent else {}
            beat = ServiceBeat(
                service=self.service,
                instance=self.instance,
                ready=self.ready and not self.stopping.is_set(),
                url=self.url,
                at=self.clock.unix(),
                version=version(),
                notes=self.notes | told,
                leading=tuple(sorted(self.leading)),
            )
            with contextlib.suppress(Exception):  # while disconnected; the next one tells all
                await self.bus.send(
                    SERVICE_BEAT.at(service=self.service, instance=self.instance), beat
                )
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._beat_now.wait()

    async def on_services_probed(self, _delivery: Delivery[Any]) -> None:
        """Somebody wants to know who is here."""
        self.beat_now()


@functools.cache  # every beat says it
def version() -> str:
    """Return the platform's version."""
    return importlib.metadata.version("glowplug-contracts")


def run(
    service: str,
    settings_type: type[S],
    open_service: Callable[[Shell[S]], AbstractAsyncContextManager[None]],
) -> NoReturn:
    """Run a service until SIGTERM or SIGINT; the whole of its main()."""
    parser = argparse.ArgumentParser(
        prog=f"glowplug-{service}",
        description=f"The {service} service. It is configured by environment variables: "
        f"GLOWPLUG_{service.upper()}_<SETTING>; --print-settings shows them.",
    )
    parser.add_argument("--print-settings", action="store_true", help="print the settings and end")
    parser.add_argument("--version", action="version", version=version())
    arguments = parser.parse_args()
    try:
        settings = load(settings_type, service)
    except SettingsError as error:
        sys.exit(f"glowplug-{service}: {error}")
    if arguments.print_settings:
        print(msgspec.json.format(msgspec.json.encode(redacted(settings))).decode())  # noqa: T201
        sys.exit(0)
    failures: list[str] = []
    try:
        uvloop.run(_live(service, settings, open_service))
    except* (StartError, PlatformError) as group:
        failures = [str(error) for error in leaves(group)]
    sys.exit(f"glowplug-{service}: {'; '.join(failures)}" if failures else 0)


async def _live(
    service: str,
    settings: S,
    open_service: Callable[[Shell[S]], AbstractAsyncContextManager[None]],
) -> None:
    instance = settings.instance or f"{service}-{os.urandom(4).hex()}"
    check_token(instance)
    logging.configure(service, instance, settings.log_level)
    tracing.configure(service, instance, settings.trace_sample)
    log.info("service.starting", settings=redacted(settings))
    credentials = read_secret(settings.nats_credentials)
    async with contextlib.AsyncExitStack() as stack:
        bus, lease_bus = [
            await stack.enter_async_context(
                open_bus(
                    settings.nats_url,
                    instance=instance,
                    credentials=credentials,
                )
            )
            for _ in range(2)
        ]
        await serve(service, settings, instance, bus, open_service, lease_bus=lease_bus)
    tracing.shutdown()


async def serve(
    service: str,
    settings: S,
    instance: str,
    bus: NatsBus,
    open_service: Callable[[Shell[S]], AbstractAsyncContextManager[None]],
    *,
    lease_bus: NatsBus | None = None,
    on_ready: Callable[[Shell[S]], None] = lambda _shell: None,
) -> None:
    """Run a service on an open bus until its shell's `stopping` is set."""
    async with asyncio.TaskGroup() as tasks:
        shell = Shell(service, settings, bus, lease_bus or bus, tasks)
        shell.instance = instance
        with _signals(shell.stopping):
            if service != "scheduler":  # it is the one who makes the topology
                await _await_topology(shell)
            else:
                shell.shards = settings.shards or 1
            await shell.peers.open(instance)
            await bus.listen(SERVICES_PROBED.pattern(), shell.on_services_probed)
            background = [
                tasks.create_task(shell.keep_beating(), name="beat"),
                tasks.create_task(_keep_flushing_spans(shell), name="spans"),
            ]
            async with open_service(shell):
                shell.ready = True
                shell.beat_now()
                log.info("service.ready", url=shell.url, notes=shell.notes)
                on_ready(shell)
                await shell.stopping.wait()
                shell.ready = False
                shell.beat_now()
                log.info("service.stopping")
            for task in background:
                task.cancel()
            await tracing.flush(bus, service, instance)
    log.info("service.stopped")


async def _keep_flushing_spans(shell: Shell[Any]) -> None:
    while True:
        await asyncio.sleep(tracing.FLUSH_S)
        await tracing.flush(shell.bus, shell.service, shell.instance)


async def _await_topology(shell: Shell[Any]) -> None:
    """Wait for the key that says: streams and buckets are there."""
    bucket = shell.bus.bucket(PLATFORM)
    while True:
        with contextlib.suppress(PlatformError):
            found = await bucket.get(PLATFORM_KEY)
            if found is not None and found.value is not None:
                check_platform(found.value, shell.settings.shards)
                shell.shards = found.value.shards
                return
        if shell.stopping.is_set():
            raise asyncio.CancelledError
        await asyncio.sleep(TOPOLOGY_POLL_S)


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    names: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
    try:
        for name in names:
            loop.add_signal_handler(name, on_signal)
    except (ValueError, RuntimeError):  # not the main thread (tests): stopped by the event only
        names = ()
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


def spawn(shell: Shell[Any], work: Coroutine[Any, Any, None], name: str) -> None:
    """Run `work` in the service's group; what it raises is logged and does not end the service."""

    async def guarded() -> None:
        try:
            await work
        except PlatformError as error:
            log.warning("task.failed", task=name, error=str(error))
        except Exception:  # one piece of work must not take the service down
            log.exception("task.failed", task=name)

    shell.tasks.create_task(guarded(), name=name)
