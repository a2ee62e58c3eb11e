"""What containers of the platform reach of the network."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from glowplug import Sandbox, errors

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


def test_a_sandbox_reaches_nothing_unless_it_is_said(platform):
    with Sandbox().create() as sandbox:
        assert json.loads(sandbox.process.run_code(LOOK).stdout) == ["lo"]
    with Sandbox(block_network=False).create() as sandbox:
        assert len(json.loads(sandbox.process.run_code(LOOK).stdout)) > 1


def test_a_list_that_can_not_be_meant_is_refused_before_anything_starts(platform):
    with pytest.raises(errors.InvalidInputError, match="no host name"):
        Sandbox(allow_list=["https://pypi.org/"]).create()
