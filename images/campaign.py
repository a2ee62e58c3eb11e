"""One image, the whole way: pushed to a real registry, pulled by a real platform, started, compared."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from glowplug_local.ephemeral import open_ephemeral
from glowplug_worker.settings import WorkerSettings

from images.facts import Facts, differences, read_facts
from images.inside import LAZY, look_into, process_with
from images.recipes import Recipe
from images.workshop import Workshop, timing

# What an operator may choose; "extract" is what works everywhere.
METHODS = ("fanotify", "fuse", "extract")
SHOWN = 20


@contextlib.contextmanager
def a_platform(data: Path, method: str) -> Iterator[None]:
    """Start a platform whose worker mounts images in one way; this process's SDK talks to it."""
    from glowplug.client import session

    os.environ["GLOWPLUG_IMAGECACHE_REGISTRY_NETWORKS"] = "127.0.0.0/8"
    if "image_mounts" in WorkerSettings.__struct_fields__:
        os.environ["GLOWPLUG_WORKER_IMAGE_MOUNTS"] = method
    elif method != "extract":
        raise RuntimeError("this release extracts images only")
    with open_ephemeral(data) as (url, token):
        os.environ |= {
            "GLOWPLUG_URL": url,
            "GLOWPLUG_TOKEN": token,
            "GLOWPLUG_QUIET": "1",
            "XDG_CONFIG_HOME": str(data.parent / "config"),
        }
        try:
            yield
        finally:
            session.close_session()


def expected(shop: Workshop, name: str, *, keep: bool) -> Facts:
    """Return what umoci makes of an image; remembered, since unpacking is slow and large."""
    known = shop.root / f"{name}.facts"
    if not known.exists():
        facts = read_facts(shop.unpack(name))
        known.with_suffix(".new").write_bytes(msgspec.msgpack.encode(facts))
        known.with_suffix(".new").rename(known)
    if not keep:
        shop.forget_unpacked(name)
    return msgspec.msgpack.decode(known.read_bytes(), type=Facts)


def try_one(shop: Workshop, recipe: Recipe, host: str, method: str, data: Path) -> dict[str, Any]:
    """Bring one image through the platform with one method; return the line of its result."""
    result: dict[str, Any] = {"image": recipe.name, "about": recipe.about, "method": method}
    theirs = expected(shop, recipe.name, keep=False)
    result["entries"] = len(theirs)
    result["bytes"] = sum(fact.size for fact in theirs.values())
    with timing(result, "push_s"):
        name = shop.push(recipe.name, host)
    with a_platform(data, method):
        result |= compare(name, recipe, theirs, data)
        # A second start of the same image, by another container.
        with timing(result, "second_start_s"), started(name) as (said, _):
            result["second_said"] = said(recipe.says)
    result["good"] = not result["differ"] and result["said"] == result["second_said"] == "ok"
    return result


def compare(name: str, recipe: Recipe, theirs: Facts, data: Path) -> dict[str, Any]:
    """Start a container of an image and compare its root, and what its worker holds, with what is expected."""
    found: dict[str, Any] = {}
    before = held_roots(data)
    began = time.monotonic()
    with started(name) as (said, mark):
        found["start_s"] = round(time.monotonic() - began, 1)
        found["said"] = said(recipe.says)
        view = look_into(process_with(mark))
        found["as"] = sorted(view.methods)
        seen = {
            path: fact
            for path, fact in read_facts(view.root, view.skip).items()
            if path and (path in theirs or not view.on_the_way(path))
        }
        visible = {path: fact for path, fact in theirs.items() if path and not view.covered(path)}
        differ = [
            f"in the container: {each}" for each in differences(seen, visible, view.name_only)
        ]
        found["laid_over"] = len(theirs) - 1 - len(visible)
        found["made_on_the_way"] = sum(map(view.name_only, visible))
        roots = held_roots(data) - before
        if len(roots) != 1:
            differ.append(f"the worker holds {len(roots)} new trees: {sorted(roots)}")
        for root in roots:
            held = read_facts(root)
            differ += [f"as the worker holds it: {each}" for each in differences(held, theirs)]
    return found | {"differ": differ[:SHOWN], "differ_total": len(differ)}


@contextlib.contextmanager
def started(name: str) -> Iterator[tuple[Any, str]]:
    """Start a container of an image; yield what runs Python in it, and a word that its processes have."""
    from glowplug import Image, Sandbox

    mark = f"campaign-{uuid.uuid4().hex}"
    sandbox = Sandbox(image=Image.from_registry(name), env={"CAMPAIGN": mark}, memory="1Gi")
    with sandbox.create() as running:

        def said(code: str) -> str:
            done = running.process.exec("python3", "-c", code)
            return (done.stdout.strip() or done.stderr.strip())[-500:]

        yield said, mark


def held_roots(data: Path) -> set[Path]:
    """Return the roots of trees that a platform's worker has: extracted, or mounted."""
    found = {path for path in data.rglob("trees/*/layer") if path.is_dir()}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        if kind == LAZY and Path(point).is_relative_to(data):
            found.add(Path(point))
    return found


def clear(data: Path) -> None:
    """Remove a platform's directory."""
    shutil.rmtree(data, ignore_errors=True)
