"""Models of a hub: brought by content, gone on with where they broke off, and never by somebody else's token."""

from __future__ import annotations

import random

import pytest
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.model import PullState
from glowplug_contracts.streams import MODELS
from glowplug_imagecache.asking_gateways import Gateways

from tests.integration.imagecache.test_models import W, ask, ended
from tests.support.scripted_hub import COMMIT, open_hub

SOURCE = "hf:org/name"
FILES = {
    "model-00001-of-00002.safetensors": random.Random(5).randbytes(3_000_000),
    "deep/model 2.bin": random.Random(6).randbytes(5000),
    "config.json": b'{"layers": 1}',
    "empty": b"",
}


@pytest.fixture
async def hub():
    async with open_hub() as hub:
        hub.files |= FILES
        yield hub


@pytest.fixture
def told(hub, monkeypatch):
    async def token(_, record):
        return "hf_secret" if record.pull.credentials == "mine" else ""

    monkeypatch.setattr(Gateways, "model_token", token)
    return {"hub_url": hub.url}


async def pulled(bus, source=SOURCE, **more):
    await ask(bus, source, **more)
    return await ended(bus)


async def failed(bus, **more):
    record = await pulled(bus, **more)
    assert record.pull.state is PullState.FAILED, record
    return record.pull.error


def kept(tmp_path):
    folder = tmp_path / "store" / "pulls" / "0"
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


async def test_a_repository_becomes_a_model(bus, imagecache, images, hub, tmp_path):
    record = await pulled(bus, "hf:org/name@v1")
    assert record.pull is None, record.pull.error
    version = record.versions[0]
    assert (version.revision, version.source, version.files) == (COMMIT, "hf:org/name@v1", 4)
    root = await images.hold_tree(version.tree, "ctr_1", mounts=True)
    assert {path: (root / path).read_bytes() for path in FILES} == FILES
    assert kept(tmp_path) == []
    # The same files are the same version, whatever the source; each is one file of the table.
    again = await pulled(bus)
    assert [one.tree for one in again.versions] == [version.tree]


async def test_what_breaks_off_is_gone_on_with(bus, imagecache, hub, tmp_path):
    hub.files = {"a": FILES["model-00001-of-00002.safetensors"]}
    hub.breaks = [2_000_000]
    error = await failed(bus)
    assert error.code == "model.unavailable"
    parts = list((tmp_path / "store" / "pulls" / "0").glob("*.part"))
    size = sum(part.stat().st_size for part in parts)
    assert 0 < size <= 2_000_000
    record = await pulled(bus)
    assert record.versions[0].bytes_total == 3_000_000
    assert hub.asked("/large/a")[-1]["Range"] == f"bytes={size}-"
    assert kept(tmp_path) == []


async def test_bytes_that_are_not_what_they_are_called_are_no_model(bus, imagecache, hub):
    for name, data in (("a", b"x" * 5000), ("b", b"small")):
        hub.files = {name: data}
        hub.wrong_bytes = 99
        assert (await failed(bus)).code == "model.corrupt"
        hub.wrong_bytes = 0
        assert (await pulled(bus)).pull is None


async def test_a_token_goes_to_the_hub_alone(bus, imagecache, hub):
    hub.token = "hf_secret"
    assert (await failed(bus)).code == "model.denied"
    hub.requests.clear()
    assert (await pulled(bus, credentials="mine")).pull is None
    assert all("Authorization" not in headers for headers in hub.asked("/large/"))
    assert hub.asked("/resolve/")[-1]["Authorization"] == "Bearer hf_secret"


async def test_a_listing_that_leads_elsewhere_is_refused(bus, imagecache, hub):
    for path in ("../../etc/cron.d/x", "/etc/passwd", "a/../../b", "a\nb", "config.json/x", ""):
        hub.siblings = [
            hub.sibling("config.json"),
            hub.sibling("config.json") | {"rfilename": path},
        ]
        assert (await failed(bus)).code == "model.refused", path
    assert hub.asked("/resolve/") == []


async def test_what_a_hub_answers_has_one_error_each(bus, imagecache, hub):
    codes = {404: "no_source", 503: "unavailable", 429: "unavailable", 418: "no_source"}
    for status, code in codes.items():
        hub.statuses = [status]
        assert (await failed(bus)).code == f"model.{code}", status
    assert (await pulled(bus)).pull is None


async def test_a_hub_that_says_too_much_is_refused_and_can_be_asked_again(bus, imagecache, hub):
    hub.files = {"a": bytes(100)}
    hub.siblings = [hub.sibling("a") | {"size": 1 << 60}]
    assert (await failed(bus)).code == "model.too_large"
    await bus.bucket(MODELS).delete(f"{W}.m")
    hub.siblings = None
    assert (await pulled(bus)).versions[0].tree != Digest("")
