"""Turn a binding into what a backend starts and what its runners are told. Pure: paths in, plans out.

Inside a container with its own root the places are fixed; without one, the same things are seen where
they lie on the host. Code that is run in a build or sandbox may name the fixed places: `Places.seen`
translates them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.container import BindContainer, ContainerKind, ContainerSpec

from glowplug_worker.frames import Init
from glowplug_worker.ports import (
    FDS,
    Bind,
    BuildNeeds,
    HostPython,
    Interpreter,
    IoLimits,
    Limits,
    LocalImage,
    StartPlan,
)

SDK_AT: Final = "/glowplug/sdk"
NO_IO_LIMITS: Final = IoLimits()
BYTES_PER_INODE: Final = 16_384  # what file systems of a disk take as usual
SIMULATED: Final = "simulated-"  # how the ids of GPUs that exist only in accounting begin
LAYER_AT: Final = "/layer"
SOURCE_AT: Final = "/app"
TMP_AT: Final = "/tmp"  # noqa: S108 - a private one inside the container
ROOT_HOME: Final = "/root"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
# Where an image of a registry says nothing.
BASE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What pulling brought to this host, as host paths.

    `image` is None for the bare host base. `volumes` has the models' binds, too; `trees` are the models'. A build
    has `needs` instead of the image: a layer of its own to write to, among other things. One that may change its
    root has `rooted`: what runs in it.
    """

    interpreter: Interpreter
    image: LocalImage | None = None
    needs: BuildNeeds | None = None
    source: Path | None = None
    pickled: bytes = b""
    on_start_pickled: bytes = b""
    on_exit_pickled: bytes = b""
    volumes: tuple[Bind, ...] = ()
    trees: tuple[Digest, ...] = ()
    rooted: HostPython | None = None


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where the container sees what."""

    binds: tuple[Bind, ...]
    mounts: bool
    tmp: str

    def seen(self, path: str) -> str:
        """Return a fixed place, or something below one, as this container sees it."""
        if self.mounts:
            return path
        for bind in self.binds:
            if path == bind.target or path.startswith(bind.target + "/"):
                return str(bind.source) + path[len(bind.target) :]
        return path

    def has(self, target: str) -> bool:
        """Return whether this container has something at the fixed place."""
        return any(bind.target == target for bind in self.binds)


def lay_out(brought: Brought, *, sdk: Path, scratch: Path, mounts: bool) -> Places:
    """Return the places of a container. `sdk` holds a link to the package `glowplug`."""
    # A symbolic link means nothing in another root, so there the package itself is bound.
    package = (sdk / "glowplug").resolve()
    binds = [
        Bind(source=package, target=f"{SDK_AT}/glowplug")
        if mounts
        else Bind(source=sdk, target=SDK_AT)
    ]
    if brought.needs is not None:
        binds += brought.needs.binds
    elif brought.image is not None:
        binds.append(Bind(source=brought.image.root, target=LAYER_AT))
    if brought.source is not None:
        binds.append(Bind(source=brought.source, target=SOURCE_AT))
    if brought.rooted is not None:
        binds += brought.rooted.binds
    binds += brought.volumes
    return Places(binds=tuple(binds), mounts=mounts, tmp=TMP_AT if mounts else str(scratch))


def plan_start(
    binding: BindContainer,
    brought: Brought,
    places: Places,
    *,
    scratch: Path,
    fds: tuple[int, ...],
    pids: int = 0,
    io: IoLimits = NO_IO_LIMITS,
) -> StartPlan:
    """Return what the backend starts."""
    spec = binding.spec
    base = brought.image.base if brought.image is not None else None
    boot = f"{places.seen(SDK_AT)}/glowplug/runner/boot.py"
    python: tuple[str, ...] = (str(brought.interpreter.executable),)
    if brought.rooted is not None:
        python = brought.rooted.command
    return StartPlan(
        container_id=binding.container_id,
        kind=spec.kind,
        interpreter=brought.interpreter,
        argv=(*python, "-I", "-S", boot, "--fds", FDS),
        fds=fds,
        env=environment(binding, brought, places),
        cwd=places.seen(SOURCE_AT) if places.has(SOURCE_AT) else _cwd(brought) or places.tmp,
        scratch=scratch,
        root=base.root if base is not None else None,
        binds=places.binds,
        hostname=hostname(spec),
        limits=limits_of(spec, pids, io),
    )


def limits_of(spec: ContainerSpec, pids: int = 0, io: IoLimits = NO_IO_LIMITS) -> Limits:
    """Return what a container is held to; `pids` and `io` are this worker's limits for each."""
    resources = spec.resources
    return Limits(
        memory_bytes=resources.memory_limit_bytes,
        cpu_millis=resources.cpu_limit_millis,
        cpu_share_millis=resources.cpu_millis,
        pids=pids,
        disk_bytes=resources.disk_bytes,
        disk_inodes=resources.disk_bytes // BYTES_PER_INODE,
        io=io,
    )


def environment(binding: BindContainer, brought: Brought, places: Places) -> dict[str, str]:
    """Return a container's whole environment: ours, then the image's, then the user's."""
    spec = binding.spec
    layer = places.seen(LAYER_AT) if places.has(LAYER_AT) else ""
    base = brought.image.base if brought.image is not None else None
    path = [f"{layer}/bin"] if layer else []
    if base is None:
        path += [str(brought.interpreter.executable.parent), _PATH]
    else:
        path.append(base.path or BASE_PATH)
    env = {
        "PATH": ":".join(path),
        "HOME": places.tmp,
        "TMPDIR": places.tmp,
        "LANG": "C.UTF-8",
        "GLOWPLUG_CONTAINER_ID": binding.container_id,
    }
    if brought.rooted is not None:
        env["HOME"] = ROOT_HOME
        env["GLOWPLUG_HOST_PYTHON"] = " ".join(brought.rooted.command)
    if layer:
        env["GLOWPLUG_LAYER"] = layer
    if layer and brought.needs is None:
        # For Python tools of the image that user code starts; the runner itself ignores it (-I).
        env["PYTHONPATH"] = f"{layer}/site-packages"
    own = env.get("PYTHONPATH", "")
    env |= brought.image.env if brought.image is not None else {}
    if base is not None and own and env["PYTHONPATH"] != own:
        env["PYTHONPATH"] = f"{own}:{env['PYTHONPATH']}"
    env |= brought.needs.env if brought.needs is not None else {}
    env |= spec.env
    if spec.volumes:
        # Where a backend can't mount, code finds its volumes only so.
        seen = {mount.name: places.seen(mount.path) for mount in spec.volumes}
        env["GLOWPLUG_VOLUMES"] = msgspec.json.encode(seen).decode()
    if spec.models:
        seen = {mount.name: places.seen(mount.path) for mount in spec.models}
        env["GLOWPLUG_MODELS"] = msgspec.json.encode(seen).decode()
    env["GLOWPLUG_GPUS"] = ",".join(binding.gpu_ids)
    real = [each for each in binding.gpu_ids if not each.startswith(SIMULATED)]
    env["CUDA_VISIBLE_DEVICES"] = ",".join(real)
    return env


def init_for(binding: BindContainer, brought: Brought, places: Places, env: dict[str, str]) -> Init:
    """Return the first frame of every runner process of the container."""
    spec = binding.spec
    source = spec.source
    return Init(
        mode="function" if spec.kind is ContainerKind.FUNCTION else "session",
        handler=source.handler if source else "",
        source=places.seen(SOURCE_AT) if places.has(SOURCE_AT) else "",
        layer=places.seen(LAYER_AT) if places.has(LAYER_AT) else "",
        pickled=len(brought.pickled),
        on_start=source.on_start if source else "",
        on_start_pickled=len(brought.on_start_pickled),
        on_exit=source.on_exit if source else "",
        on_exit_pickled=len(brought.on_exit_pickled),
        share_on_start=source is not None and source.sharing == "on_start",
        is_generator=spec.is_generator,
        outputs_schema=spec.outputs,
        concurrency=spec.concurrency,
        env=env,
        name=spec.name,
        container_id=binding.container_id,
        deployment_id=spec.deployment_id,
        timeout_s=spec.timeout_s,
        site=brought.rooted is None
        and brought.image is not None
        and brought.image.base is not None,
    )


def _cwd(brought: Brought) -> str:
    """Return the working directory that an image asks for, "" where it names none."""
    base = brought.image.base if brought.image is not None else None
    return base.cwd if base is not None else ""


def hostname(spec: ContainerSpec) -> str:
    """Return a host name made of the container's name: letters, digits and '-', at most 63."""
    letters = "".join(each if each.isalnum() else "-" for each in spec.name.lower())
    return letters.strip("-")[:63] or "glowplug"
