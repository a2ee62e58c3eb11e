"""Where things are under the data directory, and who holds it.

broker/        the broker's store and configuration
secrets/       one broker credential per service, the internal token, the user's token (0700/0600);
               events.json: how users' programs publish events straight to the broker
gateway/ imagecache/ worker-*/   the services' own directories
logs/          one file per service
run.json       the running platform: pid and URLs; lock: held as long as it runs
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

import msgspec
import platformdirs
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.permissions import APP, SERVICES
from glowplug_contracts.subjects import INGRESS

TOKEN_BYTES = 32


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What run.json says about the platform that runs on this directory."""

    pid: int
    url: str
    token_file: str
    started_at: float
    events_file: str = ""


class DirectoryTakenError(Exception):
    """Another platform runs on the data directory."""

    def __init__(self, running: Running | None, path: Path) -> None:
        who = f"pid {running.pid} at {running.url}" if running else "another process"
        super().__init__(f"a platform already runs on {path} ({who}); `glowplug down` ends it")
        self.running = running


def default_data_dir() -> Path:
    """Return the user's own data directory for the platform."""
    return Path(platformdirs.user_data_dir("glowplug", appauthor=False))


class Layout:
    """Paths under one data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.broker = self.root / "broker"
        self.secrets = self.root / "secrets"
        self.logs = self.root / "logs"
        self.run_file = self.root / "run.json"
        self._lock_fd = -1

    def open(self) -> None:
        """Make the directories, take the lock, and make the secrets that are missing.

        Raises: DirectoryTakenError.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise DirectoryTakenError(self.running(), self.root) from err
        for directory in (self.broker, self.secrets, self.logs):
            directory.mkdir(exist_ok=True, mode=0o700)
        for service in (*SERVICES, APP):
            self._ensure_secret(
                f"broker-{service}", f"{service}:{secrets.token_urlsafe(TOKEN_BYTES)}"
            )
        self._ensure_secret("internal-token", secrets.token_urlsafe(TOKEN_BYTES))
        self._ensure_secret("master-key", secrets.token_hex(TOKEN_BYTES))
        self._ensure_secret("token", "gp_local_" + secrets.token_urlsafe(TOKEN_BYTES))

    def write_events_file(self, broker_url: str) -> Path:
        """Write how users' programs publish events to the broker: address, user, password, subject."""
        user, _, password = self.secret(f"broker-{APP}").partition(":")
        told = {
            "url": broker_url,
            "user": user,
            "password": password,
            "subject": INGRESS.at(workspace=DEFAULT_WORKSPACE).subject,
        }
        path = self.secret_file("events.json")
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
        return path

    def secret_file(self, name: str) -> Path:
        """Return the path of a secret."""
        return self.secrets / name

    def secret(self, name: str) -> str:
        """Return a secret."""
        return self.secret_file(name).read_text().strip()

    def service_dir(self, name: str) -> Path:
        """Return (and make) a service's own directory."""
        path = self.root / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    def running(self) -> Running | None:
        """Return what runs on this directory, if its process lives."""
        try:
            found = msgspec.json.decode(self.run_file.read_bytes(), type=Running)
            os.kill(found.pid, 0)
        except (OSError, msgspec.MsgspecError):
            return None
        return found

    def write_running(self, running: Running) -> None:
        """Say who runs here."""
        temporary = self.run_file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(running))
        temporary.rename(self.run_file)

    def close(self) -> None:
        """Nobody runs here any more."""
        self.run_file.unlink(missing_ok=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _ensure_secret(self, name: str, value: str) -> None:
        path = self.secret_file(name)
        if path.exists() and path.read_text().strip():
            return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(value + "\n")
