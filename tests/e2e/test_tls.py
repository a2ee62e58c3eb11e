"""A platform that speaks TLS: programs, the command line, gRPC and its own parts, end to end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.conftest import APPS
from tests.support.certificates import a_certificate
from tests.support.eventually import eventually_sync


@contextlib.contextmanager
def up(folder: Path, *extra: str):
    """Run `glowplug up` with arguments; yield what it said when it was ready."""
    env = os.environ | {"XDG_CONFIG_HOME": str(folder / "config")}
    for name in ("GLOWPLUG_URL", "GLOWPLUG_TOKEN"):
        env.pop(name, None)
    command = [sys.executable, "-m", "glowplug.cli.main", "up", "--json", "--port", "0"]
    said = folder / "said"
    with said.open("wb") as out:
        running = subprocess.Popen(
            [*command, "--data", str(folder / "data"), *extra], env=env, stdout=out, stderr=out
        )
    try:

        def ready() -> dict:
            assert running.poll() is None, said.read_text()
            lines = [json.loads(line) for line in said.read_text().splitlines()]
            return next((one for one in lines if one["event"] == "ready"), {})

        yield eventually_sync(ready, within_s=90), env
    finally:
        running.terminate()
        running.wait(60)


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = a_certificate(folder)
    with up(folder, "--tls-cert", str(cert), "--tls-key", str(key)) as (said, env):
        yield said, env, cert


def test_programs_and_commands_come_over_tls_and_code_inside_reaches_the_platform(secured):
    said, env, _ = secured
    assert said["url"].startswith("https://")
    program = (
        "from inside import asks_another\n"
        "from saves import saves\n"
        "if __name__ == '__main__':\n"
        "    print(asks_another.remote(4), saves.put('x', 1).result()[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env | {"PYTHONPATH": str(APPS)},
        cwd=APPS,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer, url = done.stdout.split()[-2:]
    assert answer == "9"
    assert url.startswith(said["url"] + "/output/")
    status = subprocess.run(
        [sys.executable, "-m", "glowplug.cli.main", "status"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert status.returncode == 0, status.stderr


def test_nobody_is_answered_in_the_clear_or_believed_without_the_certificate(secured):
    said, _, cert = secured
    port = int(said["url"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{said['url']}/health", timeout=10)
    trusting = ssl.create_default_context(cafile=str(cert))
    with urllib.request.urlopen(f"{said['url']}/health", timeout=10, context=trusting) as answer:
        assert answer.status == 200


def test_grpc_speaks_tls_on_its_port(secured):
    said, _, cert = secured
    credentials = grpc.ssl_channel_credentials(cert.read_bytes())
    with grpc.secure_channel(said["grpc"], credentials) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
    with grpc.insecure_channel(said["grpc"]) as channel, pytest.raises(grpc.RpcError) as refused:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_beyond_loopback_only_with_tls(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "glowplug.cli.main", "up", "--host", "0.0.0.0"),
            *("--port", "0", "--data", str(tmp_path / "data")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "--tls-cert" in done.stdout + done.stderr
