"""One platform for the module tests, as `glowplug up` starts it, and what it must not leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from glowplug_local.ephemeral import open_ephemeral

APPS = Path(__file__).parent / "apps"


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Running(msgspec.Struct):
    """A platform that runs, and the two ways to it: HTTP and the CLI."""

    url: str
    token: str
    data: Path

    def http(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        headers = {"Content-Type": content_type}
        token = self.token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = (
            None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def env(self) -> dict[str, str]:
        return os.environ | {
            "GLOWPLUG_URL": self.url,
            "GLOWPLUG_TOKEN": self.token,
            "XDG_CONFIG_HOME": str(self.data.parent / "config"),
        }

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "glowplug.cli.main", *arguments],
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=APPS,
        )
        assert not check or done.returncode == 0, (done.stdout, done.stderr)
        return done

    def containers(self, name: str = "") -> list[dict[str, Any]]:
        found = self.http("GET", "/api/v1/containers").json()["containers"]
        return [one for one in found if not name or one.get("name") == name]


@contextlib.contextmanager
def a_platform(data: Path, *extra: str) -> Iterator[Running]:
    with open_ephemeral(data, *extra) as (url, token):
        yield Running(url, token, data)


@pytest.fixture(scope="session")
def platform(tmp_path_factory) -> Iterator[Running]:
    """The platform that most tests share; the SDK in this process talks to it."""
    # The tests' registries are on this machine.
    os.environ["GLOWPLUG_IMAGECACHE_REGISTRY_NETWORKS"] = "127.0.0.0/8"
    # Where they fail, they fail again.
    os.environ["GLOWPLUG_IMAGECACHE_REGISTRY_TRIES"] = "2"
    with a_platform(tmp_path_factory.mktemp("platform") / "data") as running:
        os.environ["GLOWPLUG_URL"] = running.url
        os.environ["GLOWPLUG_TOKEN"] = running.token
        os.environ["XDG_CONFIG_HOME"] = str(running.data.parent / "config")
        yield running


@pytest.fixture(scope="session")
def basics(platform) -> Any:
    """The module of functions, imported as a user's program would."""
    sys.path.insert(0, str(APPS))
    try:
        import basics

        yield basics
    finally:
        sys.path.remove(str(APPS))
