"""Real processes: brokers and two replicas of every service, each started alone so that it can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from faults.hosts import CLIENT_PORT, GATEWAY_PORT, ROUTE_PORT, Spread

SERVICES = ("gateway", "scheduler", "autoscaler", "imagecache", "sandbox", "worker")
TOKEN = "gp_campaign_token"
STOP_S = 30.0
MARK = "GLOWPLUG_CAMPAIGN"  # in the environment of everything we start: how leftovers are found
ATTEMPTS_TO_START = 200


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Part:
    """One process that can be killed, paused, and started again as it was."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.argv = argv
        self.env = dict(env)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.said_before = 0

    @property
    def ready(self) -> bool:
        """Return whether it has said so since it was started last."""
        with self.log.open("rb") as log:
            log.seek(self.said_before)
            return b"service.ready" in log.read()

    @property
    def pid(self) -> int:
        """Return the pid, 0 if it does not run."""
        return self.process.pid if self.process and self.process.poll() is None else 0

    def start(self) -> None:
        """Start it unless it runs."""
        if self.pid:
            return
        self.said_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_us(os.getpid()),  # noqa: PLW1509
            )

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with -9 and wait for its end."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self) -> None:
        """Wait for the end that it was asked for (once: a second SIGTERM says "at once"); then kill it."""
        if self.process is None:
            return
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()


class Fleet:
    """All parts of a platform under one directory.

    Attributes:
        parts: by name: broker-0 …, gateway-0, gateway-1, …
        gateways: where the gateways listen, and `doors`: for gRPC.
        broker: what the services are told; through proxies, perhaps.
        direct: the brokers' own addresses, for those who watch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 1,
        replicas: int = 2,
        env: Mapping[str, str] | None = None,
        store: Path | None = None,
        data: Path | None = None,
        sync: str = "always",
        clocks: bool = False,
        spread: Spread | None = None,
        shards: int = 1,
    ) -> None:
        self.directory = directory
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.parts: dict[str, Part] = {}
        self._env = {MARK: self.mark, **(env or {})}
        self._clocks = clocks
        self._spread = spread
        self._sync = sync
        self._shards = shards
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "logs").mkdir(exist_ok=True)
        self._store, self._data = store or directory / "nats", data or directory
        self._data.mkdir(parents=True, exist_ok=True)
        self._secrets = {service: os.urandom(12).hex() for service in SERVICES}
        self.tap = ("tap", os.urandom(12).hex())
        for service, secret in self._secrets.items():
            self._secret_file(f"broker-{service}", f"{service}:{secret}")
        self._secret_file("token", TOKEN)
        self._secret_file("internal", os.urandom(12).hex())
        self._brokers(brokers, self._store)
        self.broker = self.direct
        self._ports = [free_port() for _ in range(replicas)]
        self.gateways = [f"http://127.0.0.1:{port}" for port in self._ports]
        if spread:
            self.gateways = [
                f"http://{spread.hosts[turn].address}:{GATEWAY_PORT}" for turn in range(replicas)
            ]
        self._grpc_ports = [free_port() for _ in range(replicas)]
        self.doors = [
            f"{gateway.rpartition('/')[2].partition(':')[0]}:{port}"
            for gateway, port in zip(self.gateways, self._grpc_ports, strict=True)
        ]
        self._brokers_wanted = brokers
        for replica in range(replicas):
            for service in SERVICES:
                self._service(service, replica)

    # -- Starting and stopping ------------------------------------------------------------------

    def start(self) -> None:
        """Start everything."""
        for part in self.parts.values():
            part.start()

    def stop(self) -> None:
        """Stop gateways, then workers, then the rest, the brokers last."""
        for wave in ("gateway", "worker", "", "broker"):
            found = [
                part
                for name, part in self.parts.items()
                if name.startswith(wave) and (wave == "broker" or not name.startswith("broker"))
            ]
            for part in found:
                part.signal(signal.SIGCONT)
                part.signal(signal.SIGTERM)
            for part in found:
                part.stop()

    def kill(self) -> None:
        """Kill everything at once, as a machine that goes down."""
        for part in self.parts.values():
            part.signal(signal.SIGKILL)
        for part in self.parts.values():
            part.kill()

    def of(self, service: str) -> list[Part]:
        """Return the replicas of a service, or the brokers."""
        return [part for name, part in self.parts.items() if name.startswith(service + "-")]

    def store_of(self, broker: str) -> Path:
        """Return where a broker keeps its streams."""
        return self._store / f"n{broker.rpartition('-')[2]}"

    def set_clock(self, name: str, by_s: float) -> None:
        """Let a part's wall clock be off by so many seconds from now on; its monotonic clock stays."""
        file = self.directory / f"clock-{name}"
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{by_s:+g}\n")
        fresh.rename(file)

    def _clock_of(self, name: str) -> dict[str, str]:
        self.set_clock(name, 0)
        return {
            "LD_PRELOAD": find_faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self.directory / f"clock-{name}"),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "0",
        }

    def tell_broker(self, url: str) -> None:
        """Let services reach the broker at another address (a proxy's), from their next start."""
        self.broker = url
        for name, part in self.parts.items():
            service = name.rpartition("-")[0]
            if service != "broker":
                part.env[f"GLOWPLUG_{service.upper()}_NATS_URL"] = url

    # -- Making parts ---------------------------------------------------------------------------

    def _secret_file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def _brokers(self, count: int, store: Path) -> None:
        ports = [free_port() for _ in range(count)]
        routes = [free_port() for _ in range(count)]
        self.direct = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        if self._spread:
            hosts = self._spread.hosts
            self.direct = ",".join(f"nats://{host.address}:{CLIENT_PORT}" for host in hosts)
        binary = find_nats_server()
        for number, port in enumerate(ports):
            name = f"broker-{number}"
            config = self.directory / f"{name}.conf"
            host = self._spread.hosts[number] if self._spread else None
            config.write_text(self._broker_config(number, port, routes, store))
            self.parts[name] = Part(
                name,
                [*(host.prefix if host else []), binary, "-c", str(config)],
                {**self._env, "GOMEMLIMIT": "512MiB"},
                self.directory / "logs" / f"{name}.log",
            )

    def _broker_config(self, number: int, port: int, routes: list[int], store: Path) -> str:
        from glowplug_local.broker import FILE_STORE_BYTES, accounts_config

        # The platform's own permissions, and one more user who may watch and disturb.
        accounts = accounts_config(self._secrets)
        name, password = self.tap
        everything = json.dumps({"user": name, "password": password})
        accounts = accounts.replace('"users": [', f'"users": [{everything},', 1)
        cluster, listen = "", f"127.0.0.1:{port}"
        if len(routes) > 1:
            mine, ways = f"127.0.0.1:{routes[number]}", [f"127.0.0.1:{one}" for one in routes]
            if self._spread:
                address = self._spread.hosts[number].address
                listen, mine = f"{address}:{CLIENT_PORT}", f"{address}:{ROUTE_PORT}"
                ways = [way for (here, _), way in self._spread.routes.items() if here == number]
            others = ", ".join(f'"nats-route://{way}"' for way in ways)
            cluster = (
                f"cluster {{\n  name: campaign\n  listen: {mine}\n"
                f"  routes: [{others}]\n  no_advertise: true\n}}\n"
            )
        return (
            f'listen: "{listen}"\nserver_name: n{number}\n'
            f"max_payload: 8388608\nmax_control_line: 32KB\n"
            f'jetstream {{ store_dir: "{store / f"n{number}"}", max_mem: 1073741824, '
            f"max_file: {FILE_STORE_BYTES}, sync_interval: {self._sync} }}\n"
            f"{cluster}{accounts}"
        )

    def _service(self, service: str, replica: int) -> None:
        name = f"{service}-{replica}"
        # Replicas of imagecache on one host share their directory.
        data = self._data / (service if service == "imagecache" else name)
        data.mkdir(exist_ok=True)
        values = {
            "NATS_URL": self.broker,
            "NATS_CREDENTIALS": str(self.directory / f"broker-{service}"),
            "INTERNAL_TOKEN_FILE": str(self.directory / "internal"),
            "INSTANCE": name,
            "DATA_DIR": str(data),
            "TRACE_SAMPLE": "0",
        }
        if service == "gateway":
            values |= {
                "PORT": str(self._ports[replica]),
                "TOKEN_FILE": str(self.directory / "token"),
                "GRPC_PORT": str(self._grpc_ports[replica]),
            }
        if service == "scheduler" and self._brokers_wanted > 1:
            values["REPLICAS"] = "3"
        if service == "scheduler" and self._shards > 1:
            values["SHARDS"] = str(self._shards)
        if service == "worker":
            # What the code inside saw is told to the campaign, outside, over the host's own network.
            values |= {"CPU": "8", "MEMORY": "4Gi", "GPUS": "A10G:2", "NETWORK": "shared"}
        before: list[str] = []
        if self._spread:
            host = self._spread.hosts[replica]
            before = host.prefix
            ways = [way for (here, _), way in self._spread.clients.items() if here == replica]
            near = [f"{host.address}:{CLIENT_PORT}", *ways]
            values |= {"NATS_URL": ",".join(f"nats://{way}" for way in near), "HOST": host.address}
            if service == "gateway":
                values["PORT"] = str(GATEWAY_PORT)
        prefix = f"GLOWPLUG_{service.upper()}_"
        # Not the worker: containers and the Pythons it looks for can't run under the fake.
        clock = self._clock_of(name) if self._clocks and service != "worker" else {}
        self.parts[name] = Part(
            name,
            [*before, str(Path(sys.executable).with_name(f"glowplug-{service}"))],
            {**self._env, **clock, **{prefix + key: value for key, value in values.items()}},
            self.directory / "logs" / f"{name}.log",
        )


def die_with_us(parent: int) -> Callable[[], None]:
    """Let a part be killed when the campaign is: a campaign that is stopped must leave nothing, either."""
    from glowplug_local.supervisor import die_with

    return lambda: die_with(parent)


def find_faketime() -> str:
    """Return the library that fakes clocks, or "" where it is not installed (Debian: libfaketime)."""
    for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"):
        return str(path)
    return ""


def find_nats_server() -> str:
    """Return the server's program."""
    from glowplug_local.broker import find_broker

    return find_broker().path
