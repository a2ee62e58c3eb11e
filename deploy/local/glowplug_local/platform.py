"""One machine's platform: broker first, then the services; stopped in the reverse order.

"Ready" is said only after the health of every part was seen *and* a real call went through gateway,
dispatcher, placement, worker and runner and came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import ssl
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import msgspec
from blake3 import blake3
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.deployment import (
    AutoscalerSpec,
    DeploymentSpec,
    FunctionKind,
    Resources,
    SourceRef,
)
from glowplug_contracts.permissions import APP, SERVICES
from glowplug_runtime.failures import StartError
from glowplug_runtime.tls import open_certificate

from glowplug_local.broker import GO_LIMITS, find_broker, server_config
from glowplug_local.layout import Layout, Running
from glowplug_local.mender import keep_mending
from glowplug_local.ports import free_port, holder_of, is_free
from glowplug_local.supervisor import Child

CPU_OVERCOMMIT = 8
CALLBACK_NETWORKS = "GLOWPLUG_GATEWAY_CALLBACK_NETWORKS"
PUBLIC_URL = "GLOWPLUG_GATEWAY_PUBLIC_URL"
LOOPBACK = "127.0.0.0/8, ::1/128"
STORE = "store"  # in the broker's directory
READY_S = 60.0
POLL_S = 0.02
SELF_CHECK = "def echo(value):\n    return value\n"
SELF_CHECK_NAME = "glowplug-self-check"

Tell = Callable[..., None]


class PortHeldError(Exception):
    """Somebody listens on the port that we were told to use."""


class NotReadyError(Exception):
    """The platform did not become ready; the message names the part and shows its log."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `glowplug up` was asked for.

    `port` and `grpc_port` 0 take a free one, `grpc_port` −1 opens none;
    `gpus` are simulated ("A10G:2"); `profile`: tell the user's programs;
    `tls_cert` and `tls_key`: files for HTTP and gRPC over TLS, without which only loopback is listened on;
    `name`: under which programs come, as in the certificate ("" = `host`);
    `in_memory`: no fsync and nothing kept, for trying things out.
    """

    data: Path
    port: int = 1994
    grpc_port: int = 1993
    host: str = "127.0.0.1"
    workers: int = 1
    gpus: str = ""
    nats_server: str = ""
    profile: bool = True
    in_memory: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    name: str = ""


LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
EVERY_HOST = ("0.0.0.0", "::", "")  # noqa: S104 - only compared with
DEFAULT_PORT = 1994
DEFAULT_GRPC_PORT = 1993


def grpc_port_of(port: int, given: int | None) -> int:
    """Return the port for gRPC: beside a port of one's own choice a second platform may stand."""
    if given is not None:
        return given
    return DEFAULT_GRPC_PORT if port == DEFAULT_PORT else 0


def check_transport(options: Options) -> None:
    """Raise StartError unless what is listened on is loopback, or has a certificate that can be used."""
    certificate = open_certificate(options.tls_cert, options.tls_key)
    if certificate is None and options.host not in LOOPBACK_HOSTS:
        raise StartError(
            f"--host {options.host} would send tokens over the network in the clear: give --tls-cert and "
            "--tls-key, or put a proxy that speaks TLS before 127.0.0.1"
        )


def _urls(options: Options, port: int) -> tuple[str, str]:
    """Return where programs come, and where this process does."""
    scheme = "https" if options.tls_cert else "http"
    here = "127.0.0.1" if options.host in EVERY_HOST else options.host
    return f"{scheme}://{options.name or here}:{port}", f"{scheme}://{here}:{port}"


def _just_this(cert_file: str) -> ssl.SSLContext | bool:
    """Return what trusts this very certificate, whatever name it has: we come to our own address."""
    if not cert_file:
        return True
    context = ssl.create_default_context(cafile=cert_file)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


class Platform:
    """A running platform."""

    def __init__(self, layout: Layout, options: Options, urls: tuple[str, str], tell: Tell) -> None:
        url, direct_url = urls
        self.layout = layout
        self.options = options
        self.url = url
        self.direct_url = direct_url
        self.grpc = ""
        self.token = layout.secret("token")
        self.children: dict[str, Child] = {}
        self._tell = tell

    async def await_ready(self) -> dict[str, object]:
        """Return the health of every part once all are well and a call has gone through.

        Where every worker is cordoned nothing can go through, and nothing is tried.

        Raises: NotReadyError.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        deadline = time.monotonic() + READY_S
        connector = aiohttp.TCPConnector(ssl=_just_this(self.options.tls_cert))
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            health = await self._await_health(http, deadline)
            if not await self._all_cordoned(http):
                await self._call_through(http, deadline)
        return health

    async def keep_mending(self) -> None:
        """Restart the broker where a full disk has stopped it, once there is room."""
        connector = aiohttp.TCPConnector(ssl=_just_this(self.options.tls_cert))
        store = self.layout.broker / STORE
        await keep_mending(self.children["broker"], self.direct_url, store, connector, self._tell)

    async def _all_cordoned(self, http: aiohttp.ClientSession) -> bool:
        async with http.get(f"{self.direct_url}/api/v1/workers") as answer:
            workers = (await answer.json()).get("workers", [])
        return bool(workers) and all(worker.get("cordoned") for worker in workers)

    async def _await_health(
        self, http: aiohttp.ClientSession, deadline: float
    ) -> dict[str, object]:
        health: dict[str, object] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.get(f"{self.direct_url}/health") as answer:
                    health = await answer.json()
                    if health.get("status") == "ok":
                        return health
            await asyncio.sleep(POLL_S)
        raise NotReadyError(self._why_not(health))

    async def _call_through(self, http: aiohttp.ClientSession, deadline: float) -> None:
        source = _self_check_source()
        digest = Digest(blake3(source).hexdigest())
        spec = DeploymentSpec(
            name=SELF_CHECK_NAME,
            kind=FunctionKind.FUNCTION,
            source=SourceRef(blob=digest, handler="self_check:echo"),
            resources=Resources(cpu_millis=1, memory_bytes=1024 * 1024),
            autoscaler=AutoscalerSpec(keep_warm_s=0),
            timeout_s=30,
        )
        proof = os.urandom(8).hex()
        error = ""
        while time.monotonic() < deadline:
            try:
                async with http.put(
                    f"{self.direct_url}/api/v1/blobs/{digest}", data=source
                ) as answer:
                    answer.raise_for_status()
                deployment = await self._deploy(http, spec)
                call = f"{self.direct_url}/api/v1/deployments/{deployment}/call"
                body = msgspec.json.encode({"args": [proof], "kwargs": {}})
                headers = {"Glowplug-Format": "json"}
                async with http.post(call, data=body, headers=headers) as answer:
                    if answer.status == 200 and await answer.json(content_type=None) == proof:  # noqa: PLR2004
                        return
                    error = (await answer.text())[:500]
            except (aiohttp.ClientError, ValueError, OSError) as err:
                error = repr(err)
            await asyncio.sleep(POLL_S)
        raise NotReadyError(f"every part is well, but an internal call failed: {error}")

    async def _deploy(self, http: aiohttp.ClientSession, spec: DeploymentSpec) -> str:
        url = f"{self.direct_url}/api/v1/deployments?ephemeral=1"
        async with http.post(url, data=msgspec.json.encode(spec)) as answer:
            last = msgspec.json.decode((await answer.text()).strip().splitlines()[-1])
        if last.get("event") != "deployed":
            raise ValueError(f"deploying the self-check failed: {last}")
        return str(last["deployment"]["deployment_id"])

    def _why_not(self, health: dict[str, object]) -> str:
        ill = {}
        parts = health.get("parts")
        if isinstance(parts, dict):
            ill = {k: v for k, v in parts.items() if not (isinstance(v, dict) and v.get("ready"))}
        lines = [
            f"not ready after {READY_S:.0f} s: {', '.join(ill) or 'the gateway does not answer'}"
        ]
        for name, child in self.children.items():
            if name.split("-")[0] in (ill or {"gateway": 0}):
                lines.append(f"--- last lines of {name}\n{child.tail(8)}")
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def open_platform(options: Options, tell: Tell) -> AsyncIterator[Platform]:
    """Start everything; on leaving stop it in order, the broker last.

    Args:
        options: see Options.
        tell: called with an event name and fields, for whoever watches.

    Raises: PortHeldError, DirectoryTakenError, BrokerMissingError.
    """
    check_transport(options)
    layout = Layout(options.data)
    layout.open()
    try:
        if options.port and not is_free(options.port):
            raise PortHeldError(
                f"port {options.port} is held by {holder_of(options.port)}; "
                "end it, or choose another with --port"
            )
        if options.grpc_port > 0 and not is_free(options.grpc_port):
            raise PortHeldError(
                f"port {options.grpc_port}, for gRPC, is held by {holder_of(options.grpc_port)}; "
                "end it, or choose another with --grpc-port (-1: none)"
            )
        port = options.port or free_port()
        grpc_port = options.grpc_port or free_port()
        urls = _urls(options, port)
        platform = Platform(layout, options, urls, tell)
        platform.grpc = f"{options.name or options.host}:{grpc_port}" if grpc_port > 0 else ""
        children = platform.children = _children(layout, options, (port, grpc_port), tell)
        async with asyncio.TaskGroup() as tasks:
            keeping = [tasks.create_task(child.keep_running()) for child in children.values()]
            if not options.in_memory:  # a restart would cost it everything, and it has no disk
                keeping.append(tasks.create_task(platform.keep_mending()))
            try:
                layout.write_running(
                    Running(
                        pid=os.getpid(),
                        url=platform.url,
                        token_file=str(layout.secret_file("token")),
                        started_at=time.time(),
                        events_file=str(layout.secret_file("events.json")),
                    )
                )
                yield platform
            finally:
                await _stop(children)
                for task in keeping:
                    task.cancel()
    finally:
        layout.close()


def _children(
    layout: Layout, options: Options, ports: tuple[int, int], tell: Tell
) -> dict[str, Child]:
    def on_restart(name: str, how: str, pause_s: float) -> None:
        tell("restarted", part=name, ended=how, again_in_s=pause_s)

    nats_port = free_port()
    config = layout.broker / "nats.conf"
    secrets = {s: layout.secret(f"broker-{s}").partition(":")[2] for s in (*SERVICES, APP)}
    layout.write_events_file(f"nats://127.0.0.1:{nats_port}")
    config.touch(mode=0o600)
    store = layout.broker / ("memory" if options.in_memory else STORE)
    config.write_text(server_config(nats_port, store, secrets, in_memory=options.in_memory))
    broker = find_broker(options.nats_server)
    tell("broker", version=broker.version, origin=broker.origin, port=nats_port)
    if options.in_memory:
        tell("in_memory")

    def child(name: str, argv: list[str], env: dict[str, str]) -> Child:
        log = layout.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        return Child(name, argv, {**os.environ, **env}, log, on_restart)

    found = {"broker": child("broker", [broker.path, "-c", str(config)], GO_LIMITS)}
    for name in _instances(options.workers):
        service = name.split("-")[0]
        env = {
            "NATS_URL": f"nats://127.0.0.1:{nats_port}",
            "NATS_CREDENTIALS": str(layout.secret_file(f"broker-{service}")),
            "INTERNAL_TOKEN_FILE": str(layout.secret_file("internal-token")),
            "INSTANCE": name,
            "DATA_DIR": str(layout.service_dir(name)),
        }
        if service == "gateway":
            env |= {
                "PUBLIC_URL": os.environ.get(PUBLIC_URL, _urls(options, ports[0])[0]),
                "PORT": str(ports[0]),
                "GRPC_PORT": str(ports[1]),
                "HOST": options.host,
                "TLS_CERT_FILE": options.tls_cert,
                "TLS_KEY_FILE": options.tls_key,
                "TOKEN_FILE": str(layout.secret_file("token")),
                "MASTER_KEY_FILE": str(layout.secret_file("master-key")),
                "VOLUMES_DIR": str(layout.root / "volumes"),
                # Receivers of callbacks run beside the platform here; elsewhere loopback is refused.
                "CALLBACK_NETWORKS": os.environ.get(CALLBACK_NETWORKS, LOOPBACK),
            }
        if service == "scheduler" and options.in_memory:
            env["DURABILITY"] = "memory"
        if service == "imagecache":
            env["VOLUMES_DIR"] = str(layout.root / "volumes")
        if service == "worker":
            env |= _share_of_machine(options)
            env["VOLUMES_DIR"] = str(layout.root / "volumes")
        prefix = f"GLOWPLUG_{service.upper()}_"
        command = str(Path(sys.executable).with_name(f"glowplug-{service}"))
        found[name] = child(name, [command], {prefix + key: value for key, value in env.items()})
    return found


def _share_of_machine(options: Options) -> dict[str, str]:
    """Return what each worker offers: requests of cpu are no caps, so one machine overcommits it."""
    cpu = CPU_OVERCOMMIT * len(os.sched_getaffinity(0)) / options.workers
    share = {"CPU": str(cpu), "GPUS": options.gpus}
    if options.workers > 1:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        share["MEMORY"] = str(total // options.workers)
    return share


def _instances(workers: int) -> list[str]:
    """Return what is started, first what takes longest until it is ready."""
    names = [name for name in SERVICES if name not in {"worker", "gateway"}]
    return [*(f"worker-{number}" for number in range(1, workers + 1)), "gateway", *names]


async def _stop(children: dict[str, Child]) -> None:
    """Stop the gateway (no new work), then the workers, then the rest, and the broker last."""
    waves: tuple[Callable[[str], bool], ...] = (
        lambda name: name == "gateway",
        lambda name: name.startswith("worker"),
        lambda name: name != "broker",
        lambda _name: True,
    )
    for wave in waves:
        await asyncio.gather(*(child.stop() for name, child in children.items() if wave(name)))


def _self_check_source() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("self_check.py", (1980, 1, 1, 0, 0, 0)), SELF_CHECK)
    return target.getvalue()
