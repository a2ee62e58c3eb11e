"""What containers of the platform reach of the network."""

from __future__ import annotations

import json
import socket
import urllib.parse

import pytest
from glowplug import Sandbox, errors

from tests.support.internet import lacks

LOOK = """
names = sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line)
import json; print(json.dumps(names))
"""


@pytest.fixture(scope="module")
def networked(basics):
    import networked

    return networked


@pytest.fixture(scope="module")
def gateway(platform):
    url = urllib.parse.urlsplit(platform.url)
    return url.hostname, url.port


def test_block_network_leaves_nothing_but_loopback(networked, gateway):
    seen, found = networked.sealed_off.remote(*gateway)
    assert seen == ["lo"]
    assert found in ("ConnectionRefusedError", "OSError")


def test_what_runs_on_this_machine_is_out_of_reach_where_the_worker_is_root(networked, gateway):
    with socket.create_server(("0.0.0.0", 0)) as here:
        # The address by which this machine reaches others; nothing is sent.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(("192.0.2.250", 9))
            own_address = out.getsockname()[0]
        places = [gateway, (own_address, here.getsockname()[1])]
        seen, found = networked.open_to_the_world.remote(places)
    if lacks():
        assert found == ["connected", "connected"]
    else:
        assert seen == ["eth0", "lo"]
        assert found == ["ConnectionRefusedError", "ConnectionRefusedError"]


def test_a_list_takes_a_network_of_its_own(networked):
    if lacks():
        with pytest.raises(
            errors.GlowplugError, match="block_network=True works without"
        ) as caught:
            networked.listed.remote()
        assert caught.value.code == "network.unsupported"
    else:
        assert networked.listed.remote() == ["eth0", "lo"]


def test_a_sandbox_reaches_nothing_unless_it_is_said(platform):
    with Sandbox().create() as sandbox:
        assert json.loads(sandbox.process.run_code(LOOK).stdout) == ["lo"]
    with Sandbox(block_network=False).create() as sandbox:
        assert len(json.loads(sandbox.process.run_code(LOOK).stdout)) > 1


def test_a_list_that_can_not_be_meant_is_refused_before_anything_starts(platform):
    with pytest.raises(errors.InvalidInputError, match="no host name"):
        Sandbox(allow_list=["https://pypi.org/"]).create()
