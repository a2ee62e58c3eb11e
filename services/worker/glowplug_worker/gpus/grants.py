"""What a container gets of this host for its GPUs: device nodes, driver files, environment.

By the host's CDI descriptions where there are any; else by what the driver's own naming says: /dev/nvidia0,
the control nodes, the nodes of MIG's parts, and the driver's libraries that the linker's cache lists.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
from glowplug_contracts.errors import UnavailableError

from glowplug_worker.gpus import cdi
from glowplug_worker.gpus.model import Found
from glowplug_worker.ports import Bind, DeviceNode

log = structlog.get_logger()

CONTROL_NODES: Final = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
)
LINKER_CACHE: Final = Path("/etc/ld.so.cache")
MIG_CAPABILITIES: Final = Path("/proc/driver/nvidia/capabilities")
SPEC_BYTES_MAX: Final = 4 << 20
# Every container sees these directories of the host already.
SEEN: Final = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_LIBRARY: Final = re.compile(
    rb"/[\x21-\x7e]*/lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler|nvidia-nvvm|nvidia-gpucomp"
    rb"|cudadebugger)\.so[.0-9]*"
)
_CAP_MINOR: Final = re.compile(r"DeviceFileMinor:\s*(\d+)")


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    devices: tuple[DeviceNode, ...] = ()
    binds: tuple[Bind, ...] = ()
    env: dict[str, str] = {}


def read_specs(directories: Iterable[Path]) -> list[cdi.Spec]:
    """Return the host's descriptions; a file that can't be read is said, and left out."""
    specs = []
    for directory in directories:
        for path in sorted(
            (*directory.glob("*.yaml"), *directory.glob("*.yml"), *directory.glob("*.json"))
        ):
            try:
                spec = cdi.read_spec(_decode(path))
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                log.warning("gpu.cdi_unreadable", path=str(path), error=str(error))
                continue
            if spec is not None:
                specs.append(spec)
    return specs


def grant(wanted: Sequence[Found], specs: Sequence[cdi.Spec]) -> Granted:
    """Return what a container with these devices gets. Raises: UnavailableError if a node is missing."""
    if not wanted:
        return Granted()
    edits = cdi.edits_for(specs, wanted)
    if edits is None:
        nodes = _own_nodes(wanted)
        files = [(path, path) for path in driver_files(LINKER_CACHE)]
        env: dict[str, str] = {}
    else:
        nodes = [_node(n.host_path or n.path, n.path) for e in edits for n in e.device_nodes or ()]
        files = [(m.host_path, m.container_path) for e in edits for m in e.mounts or ()]
        pairs = (line.partition("=") for e in edits for line in e.env or ())
        env = {name: value for name, _, value in pairs}
    binds = _binds(files)
    folders = dict.fromkeys(str(Path(b.target).parent) for b in binds if ".so" in b.target)
    if folders:
        env["LD_LIBRARY_PATH"] = ":".join(folders)
    ids = ",".join(each.gpu_id for each in wanted)
    # CUDA counts what is visible from 0, in this order.
    env |= {"CUDA_VISIBLE_DEVICES": ids, "NVIDIA_VISIBLE_DEVICES": ids}
    unique = {node.path: node for node in nodes}
    return Granted(devices=tuple(unique.values()), binds=binds, env=env)


def driver_files(cache: Path) -> list[str]:
    """Return the driver's libraries that the linker's cache lists."""
    try:
        found = _LIBRARY.findall(cache.read_bytes())
    except OSError:
        return []
    return sorted({path.decode("ascii") for path in found})


def _own_nodes(wanted: Sequence[Found]) -> list[DeviceNode]:
    nodes = [_node(f"/dev/nvidia{each.minor}") for each in wanted]
    nodes += [_node(path) for path in CONTROL_NODES if Path(path).exists()]
    for each in wanted:
        if each.parent:
            nodes += [_node(path) for path in _capabilities(each)]
    return nodes


def _capabilities(part: Found) -> list[str]:
    """Return the nodes that let a process use a part of a GPU."""
    base = MIG_CAPABILITIES / f"gpu{part.minor}" / "mig" / f"gi{part.gpu_instance}"
    paths = []
    for access in (base / "access", base / f"ci{part.compute_instance}" / "access"):
        try:
            found = _CAP_MINOR.search(access.read_text(encoding="ascii"))
        except OSError as error:
            raise UnavailableError(
                "platform.unavailable", f"the part {part.gpu_id} of a GPU can't be used: {error}"
            ) from error
        if found:
            paths.append(f"/dev/nvidia-caps/nvidia-cap{found[1]}")
    return paths


def _node(source: str, path: str = "") -> DeviceNode:
    try:
        found = Path(source).stat()
    except OSError as error:
        raise UnavailableError(
            "platform.unavailable",
            f"the GPU's device node {source} can't be used: {error.strerror}",
        ) from error
    if not stat.S_ISCHR(found.st_mode):
        raise UnavailableError("platform.unavailable", f"{source} is no device node")
    return DeviceNode(
        path=path or source,
        source="" if path in ("", source) else source,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
    )


def _binds(files: Iterable[tuple[str, str]]) -> tuple[Bind, ...]:
    binds = {}
    for source, target in files:
        seen = any(target == top or target.startswith(f"{top}/") for top in SEEN)
        if not seen and target.startswith("/") and Path(source).exists():
            binds[target] = Bind(source=Path(source), target=target, shared=True)
    return tuple(binds.values())


def _decode(path: Path) -> object:
    data = path.read_bytes()[:SPEC_BYTES_MAX]
    if path.suffix == ".json":
        return msgspec.json.decode(data)
    import yaml  # noqa: PLC0415 - only hosts with NVIDIA's toolkit have such files

    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
