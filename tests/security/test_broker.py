"""Containers share the host's network until networks come; the broker refuses them all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_local.broker import server_config
from glowplug_worker.runtime.choose import choose_backend

from tests.support.containers import open_container
from tests.support.nats import Server, free_port

# Speaks the broker's protocol without a client library: there is none inside a container.
CODE = """
import socket
def ask(options):
    with socket.create_connection(("127.0.0.1", int(os.environ["BROKER_PORT"])), 30) as broker:
        stream = broker.makefile("rwb")
        info = json.loads(stream.readline()[5:])
        stream.write(b"CONNECT " + json.dumps({"verbose": False, **options}).encode() + b"\\r\\nPING\\r\\n")
        stream.flush()
        return info.get("auth_required", False), stream.readline().decode().strip()
say([ask({}), ask({"user": "gateway", "pass": "guessed"}), ask(json.loads(os.environ["KNOWN"]))])
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    """A broker configured as `glowplug up` configures it."""
    directory = tmp_path / "broker"
    directory.mkdir()
    port = free_port()
    config = directory / "nats.conf"
    config.write_text(server_config(port, directory / "js", {"gateway": "the-credential"}))
    server = Server(port=port, store=directory, config=config)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def test_the_broker_refuses_who_has_no_credential(broker, tmp_path):
    try:
        backend = await choose_backend("bwrap", tmp_path / "data")
    except UnavailableError as error:
        pytest.skip(f"bwrap does not work here: {error.message}")
    env = {
        "BROKER_PORT": str(broker.port),
        # The control: it is reachable from inside, and opens to the credential.
        "KNOWN": '{"user": "gateway", "pass": "the-credential"}',
    }
    async with open_container(backend, tmp_path / "c", CODE, env=env) as inside:
        nothing, guessed, known = await inside.said()
    assert nothing == [True, "-ERR 'Authorization Violation'"]
    assert guessed == [True, "-ERR 'Authorization Violation'"]
    assert known == [True, "PONG"]


async def test_no_secret_file_is_in_sight(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "broker-gateway").write_text("gateway:the-credential")
    try:
        backend = await choose_backend("bwrap", tmp_path / "data")
    except UnavailableError as error:
        pytest.skip(f"bwrap does not work here: {error.message}")
    code = "say(os.path.exists(os.environ['SECRET']))"
    env = {"SECRET": str(secrets / "broker-gateway")}
    async with open_container(backend, tmp_path / "c", code, env=env) as inside:
        assert await inside.said() is False
