"""Where in a container a volume may be seen. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from glowplug_contracts.messages.deployment import VolumeMount

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
_PATH = re.compile(r"^(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){1,8}\Z")


def check_volumes(volumes: Sequence[VolumeMount]) -> dict[str, str]:
    """Return what is wrong, by field."""
    wrong: dict[str, str] = {}
    if len(volumes) > VOLUMES_MAX:
        wrong["volumes"] = f"may be {VOLUMES_MAX}"
    paths: set[str] = set()
    for number, mount in enumerate(volumes):
        field = f"volumes[{number}]"
        if not _NAME.match(mount.name):
            wrong[f"{field}.name"] = "is no name"
        if not _PATH.match(mount.path) or mount.path.split("/")[1] in _TAKEN:
            wrong[f"{field}.path"] = (
                f"{mount.path[:100]!r}: give an absolute path of its own, such as /data"
            )
        if any(mount.path == one or _within(mount.path, one) for one in paths):
            wrong[f"{field}.path"] = f"{mount.path[:100]!r} is in another volume's place"
        if any(_within(one, mount.path) for one in paths):
            wrong[f"{field}.path"] = f"{mount.path[:100]!r} covers another volume's place"
        paths.add(mount.path)
    return wrong


def _within(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")
