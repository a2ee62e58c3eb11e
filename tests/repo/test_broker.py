"""The broker's configuration for services that are started on their own."""

from __future__ import annotations

import os
import subprocess

from glowplug_contracts.permissions import APP, SERVICES

from tests.repo.tree import ROOT
from tests.support.nats import find_nats_server


def test_a_broker_accepts_the_configuration_that_we_ship() -> None:
    secrets = {f"GLOWPLUG_BROKER_{service.upper()}": "a-secret" for service in (*SERVICES, APP)}
    done = subprocess.run(
        [find_nats_server(), "-t", "-c", str(ROOT / "deploy/nats/server.conf")],
        env=os.environ | secrets,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stdout + done.stderr


def test_a_broker_does_not_start_without_the_services_passwords() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GLOWPLUG_BROKER_")}
    done = subprocess.run(
        [find_nats_server(), "-t", "-c", str(ROOT / "deploy/nats/server.conf")],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
