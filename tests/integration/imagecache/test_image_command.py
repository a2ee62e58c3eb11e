"""`glowplug image` through a real gateway to the real service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import DEFAULT_WORKSPACE, WorkspaceId
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep, Principal
from glowplug_contracts.streams import DEPLOYMENTS, TOKENS
from glowplug_gateway.auth import token_digest
from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_runtime.bus_nats import NatsBus
from glowplug_runtime.service import Shell
from glowplug_worker.images import LocalImages

from tests.integration.imagecache.conftest import Ask
from tests.integration.imagecache.test_eviction import a_deployment
from tests.support.eventually import eventually
from tests.support.gateway_world import TOKEN, Web, open_gateway_service
from tests.support.pretend_worker import PretendWorker

Commands = Callable[..., Awaitable[list[tuple[int, str, str]]]]
OTHERS = "gp_others"


@pytest.fixture
def internal_token() -> str:
    return "internal"


@pytest.fixture
async def gateway(
    imagecache: Shell[ImagecacheSettings], nats_server: Any, tmp_path: Path
) -> AsyncIterator[Web]:
    folder = tmp_path / "gateway"
    folder.mkdir()
    async with (
        open_gateway_service(nats_server.url, folder) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Web(url, session)


# All commands in one process, since starting one costs more than any of them.
SCRIPT = """
import contextlib, io, json, sys
from glowplug.cli.main import main
done = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["glowplug", "image", *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


@pytest.fixture
def commands(gateway: Web, tmp_path: Path) -> Commands:
    """Run `glowplug image …` several times; return exit codes, stdouts and stderrs."""

    async def run(*lines: str) -> list[tuple[int, str, str]]:
        env = {"GLOWPLUG_URL": gateway.url, "GLOWPLUG_TOKEN": TOKEN}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", SCRIPT, json.dumps([line.split() for line in lines])),
            env=os.environ | env | {"XDG_CONFIG_HOME": str(tmp_path / "config")},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return [tuple(one) for one in json.loads(out)]

    return run


async def test_images_from_the_command_line(
    ask: Ask, worker: PretendWorker, commands: Commands, bus: NatsBus, gateway: Web
) -> None:
    needed, free = [
        (await ask(ImageSpec(steps=steps))).done.image_digest
        for steps in (
            (ImageStep(kind="run", args=("echo 1 > a",)),),
            (ImageStep(kind="run", args=("echo 1 > a; echo 2 > b",)),),
        )
    ]
    await bus.bucket(DEPLOYMENTS).put("default.dep_1", a_deployment(needed))
    listed, as_json, shown, diff, usage, in_use, unknown, dry, pruned = await commands(
        "list",
        "list --json",
        f"show {needed[:10]}",
        f"diff {needed[:10]} {free[:10]}",
        "usage",
        f"rm {needed[:10]}",
        f"show {'f' * 12}",
        "prune --dry-run",
        "prune --yes --json",
    )
    assert needed[:12] in listed[1]
    assert free[:12] in listed[1]
    assert {row["image_digest"] for row in json.loads(as_json[1])} == {needed, free}
    assert "needed by  f v1\n" in shown[1]
    assert "step 1     run echo 1 > a\n" in shown[1]
    assert diff[1].startswith("+ b  2\n1 added, 0 removed, 0 changed; ")
    assert "your images: 2, " in usage[1]
    # Six bytes together, four of them distinct; compressing makes such files larger.
    assert " (33% shared, 0% of the rest compressed away)" in usage[1]
    assert (in_use[0], "is needed by f v1" in in_use[2]) == (1, True)
    assert (unknown[0], "glowplug image list" in unknown[2]) == (1, True)
    assert "1 would be given up" in dry[1]
    assert free[:12] in dry[1]
    assert needed[:12] not in dry[1]
    assert pruned[0] == 0
    assert [row["image_digest"] for row in json.loads(pruned[1])["images"]] == [free]
    left = await gateway.json("GET", "/api/v1/images")
    assert [row["image_digest"] for row in left["images"]] == [needed]
    await asyncio.gather(
        gateway.json("GET", "/api/v1/images/..%2Fusage", status=404),
        gateway.json("GET", "/api/v1/images/nothexatall", status=404),
        gateway.json("GET", "/api/v1/images", status=401, token=None),
    )
    others = Principal(workspace=WorkspaceId("others"), name="o")
    await bus.bucket(TOKENS).put(token_digest(OTHERS), others)

    async def others_see_none() -> bool:
        async with gateway("GET", "/api/v1/images", token=OTHERS) as answer:
            return answer.status == 200 and await answer.json() == {"images": []}

    await eventually(others_see_none)
    await gateway.json("GET", f"/api/v1/images/{needed}", status=404, token=OTHERS)
    await gateway.json("DELETE", f"/api/v1/images/{needed}", status=404, token=OTHERS)


@pytest.mark.parametrize("told", [{"workspace_bytes_max": 5}])
async def test_a_workspace_beyond_its_quota_builds_and_uploads_nothing_more(
    ask: Ask, worker: PretendWorker, images: LocalImages, gateway: Web, told: dict[str, int]
) -> None:
    spec = ImageSpec(steps=(ImageStep(kind="run", args=("echo 1 > a",)),))
    assert (await ask(spec)).done.error is None  # 2 bytes
    blob = await images.client.put(b"123", DEFAULT_WORKSPACE)
    with pytest.raises(InvalidRequestError) as caught:
        await images.client.put(b"4", DEFAULT_WORKSPACE)
    assert caught.value.code == "store.full"
    said = await gateway.json("PUT", f"/api/v1/blobs/{digest_of(b'4')}", status=429, data=b"4")
    assert said["error"]["code"] == "store.full"
    assert "come to 5 bytes" in said["error"]["message"]
    refused = (await ask(ImageSpec(steps=(ImageStep(kind="run", args=("echo 2 > b",)),)))).done
    assert refused.error is not None
    assert refused.error.code == "store.full"
    # What is there is there, for itself and for others.
    assert (await ask(spec)).done.error is None
    assert await images.client.get(blob, DEFAULT_WORKSPACE) == b"123"
    await images.client.put(b"4", WorkspaceId("other"))
    await images.client.put(b"a manifest", keep_s=0)
