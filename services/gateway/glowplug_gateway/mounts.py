"""Where in a container volumes and models may be seen. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from glowplug_contracts.messages.deployment import ModelMount, VolumeMount
from glowplug_contracts.weights import MODELS_MAX

VOLUMES_MAX: Final = 16
# What the container has there already, or must never be covered.
_TAKEN: Final = frozenset(
    (
        *("app", "glowplug", "layer", "tmp"),
        *("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32"),
        *("proc", "root", "run", "sbin", "sys", "usr"),
    )
)
_NAME = re.compile(r"^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\Z")
_VERSION = re.compile(r"^([0-9a-f]{64})?\Z")
_PATH = re.compile(r"^(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){1,8}\Z")


def check_mounts(volumes: Sequence[VolumeMount], models: Sequence[ModelMount]) -> dict[str, str]:
    """Return what is wrong, by field."""
    wrong: dict[str, str] = {}
    if len(volumes) > VOLUMES_MAX:
        wrong["volumes"] = f"may be {VOLUMES_MAX}"
    if len(models) > MODELS_MAX:
        wrong["models"] = f"may be {MODELS_MAX}"
    if len({mount.name for mount in models}) < len(models):
        wrong["models"] = "has one model twice"
    paths: set[str] = set()
    mounts: list[tuple[str, VolumeMount | ModelMount]] = [
        *((f"volumes[{number}]", volume) for number, volume in enumerate(volumes)),
        *((f"models[{number}]", model) for number, model in enumerate(models)),
    ]
    for field, mount in mounts:
        if not _NAME.match(mount.name):
            wrong[f"{field}.name"] = "is no name"
        if isinstance(mount, ModelMount) and not _VERSION.match(mount.version):
            wrong[f"{field}.version"] = "is no digest of a version"
        if not _PATH.match(mount.path) or mount.path.split("/")[1] in _TAKEN:
            wrong[f"{field}.path"] = (
                f"{mount.path[:100]!r}: give an absolute path of its own, such as /data"
            )
        if any(mount.path == one or _within(mount.path, one) for one in paths):
            wrong[f"{field}.path"] = f"{mount.path[:100]!r} is in another mount's place"
        if any(_within(one, mount.path) for one in paths):
            wrong[f"{field}.path"] = f"{mount.path[:100]!r} covers another mount's place"
        paths.add(mount.path)
    return wrong


def _within(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")
