"""The Container Device Interface: which nodes, files and variables belong to a device. Pure.

NVIDIA's toolkit writes such descriptions to /etc/cdi and /var/run/cdi. Their hooks are not run: what they
do (links, the linker's cache) is not needed where a container sees the host's /usr.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from glowplug_worker.gpus.model import Found

KIND: Final = "nvidia.com/gpu"


class Node(msgspec.Struct, rename="camel"):
    """A device node; `host_path` where it has another name outside."""

    path: str
    host_path: str = ""


class Mount(msgspec.Struct, rename="camel"):
    """A file or directory of the host."""

    host_path: str
    container_path: str


class Edits(msgspec.Struct, rename="camel"):
    """What a container gets."""

    device_nodes: list[Node] | None = None
    mounts: list[Mount] | None = None
    env: list[str] | None = None


class Device(msgspec.Struct, rename="camel"):
    """One device by one of its names: an index, "0" or "0:1", or a UUID."""

    name: str
    container_edits: Edits = msgspec.field(default_factory=Edits)


class Spec(msgspec.Struct, rename="camel"):
    """A file."""

    kind: str = ""
    devices: list[Device] | None = None
    container_edits: Edits = msgspec.field(default_factory=Edits)


def read_spec(value: object) -> Spec | None:
    """Return a decoded file of NVIDIA's, None for anything else. Raises: msgspec.ValidationError."""
    spec = msgspec.convert(value, Spec)
    return spec if spec.kind == KIND else None


def edits_for(specs: Sequence[Spec], wanted: Iterable[Found]) -> list[Edits] | None:
    """Return what containers get for these devices; None if one of them is described nowhere."""
    edits: list[Edits] = []
    used: list[Spec] = []
    for found in wanted:
        for spec in specs:
            named = {each.name: each for each in spec.devices or ()}
            device = named.get(found.gpu_id) or named.get(found.index)
            if device is not None:
                edits.append(device.container_edits)
                if not any(each is spec for each in used):
                    used.append(spec)
                break
        else:
            return None
    return [*(spec.container_edits for spec in used), *edits]
