"""Replicas of imagecache as processes, which tests kill."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
from glowplug_contracts.messages.worker import ServiceBeat
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.clock import Clock
from glowplug_runtime.peers import Peers

from tests.support.builders_images import TOKEN
from tests.support.eventually import eventually

SERVICE = "imagecache"


class Processes(msgspec.Struct):
    """Replicas by name, and who of them is heard."""

    folder: Path
    env: Mapping[str, str]
    peers: Peers
    running: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> None:
        own = {"GLOWPLUG_INSTANCE": name, "GLOWPLUG_DATA_DIR": str(self.folder / name)}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "glowplug_imagecache"],
                env=os.environ | self.env | own,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def url(self, name: str) -> str:
        return next(
            (one.url for one in self._beats() if one.instance == name), "http://127.0.0.1:1"
        )

    def ready(self) -> set[str]:
        """Return who is heard and was not killed."""
        return {one.instance for one in self._beats() if one.ready} & self.running.keys()

    async def start_again(self, name: str) -> None:
        """Start one that was killed, and wait until it is heard anew."""
        before = self.url(name)
        self.start(name)
        await eventually(lambda: self.url(name) != before)
        await eventually(lambda: name in self.ready())

    def _beats(self) -> list[ServiceBeat]:
        return [one for one in self.peers.services() if one.service == SERVICE]


@contextlib.asynccontextmanager
async def open_imagecaches(
    bus: NatsBus, nats_url: str, folder: Path, *names: str, **settings: object
) -> AsyncIterator[Processes]:
    """Start replicas and wait until all are ready; end those that are left."""
    token = _write_token(folder)
    own = {"free_bytes_min": 0, "scrub_bytes_per_s": 0, **settings}
    env = {
        "GLOWPLUG_NATS_URL": nats_url,
        "GLOWPLUG_INTERNAL_TOKEN_FILE": str(token),
        **{f"GLOWPLUG_IMAGECACHE_{name.upper()}": str(value) for name, value in own.items()},
    }
    peers = Peers(bus, Clock())
    await peers.open("test")
    processes = Processes(folder, env, peers, {})
    try:
        for name in names:
            processes.start(name)
        await eventually(lambda: processes.ready() == set(names))
        yield processes
    finally:
        for name in list(processes.running):
            processes.kill(name)


def _write_token(folder: Path) -> Path:
    folder.mkdir()
    token = folder / "token"
    token.write_text(TOKEN)
    return token
