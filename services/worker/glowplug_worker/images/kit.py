"""What a build container gets beside its layer: uv, the way to packages, and a cache.

Build steps are shell scripts written by imagecache, which knows no path of this machine; they find
everything through the variables set here:

    GLOWPLUG_LAYER       the writable layer
    GLOWPLUG_PYTHON      the interpreter that the image is for
    GLOWPLUG_UV          the uv binary, and GLOWPLUG_UV_FLAGS what it is always told
    UV_*, SSL_CERT_FILE  the machine's pip configuration, in uv's words

The cache of downloaded wheels is shared by the builds of one workspace and by nobody else, since a
build may write to it. One build at a time has it; another that runs meanwhile has an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import uv

from glowplug_worker.images.aptconfig import APT_TARGET
from glowplug_worker.images.pipconfig import PipConfig
from glowplug_worker.ports import Bind

UV_TARGET = "/glowplug/bin/uv"
CACHE_TARGET = "/glowplug/uv-cache"
LAYER_TARGET = "/layer"
# These every container has from its base.
FROM_BASE = (Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin"))
# Never bound, however the machine's pip is configured.
TOO_MUCH = (Path("/"), Path("/home"), Path("/root"), Path("/etc"), Path("/var"), Path("/tmp"))  # noqa: S108


class BuildKit(msgspec.Struct, frozen=True, kw_only=True):
    """What to add to a build container's start.

    Attributes:
        binds: to be mounted; the layer and the cache are writable.
        env: to be added to the container's environment; the user's own variables win.
    """

    binds: tuple[Bind, ...]
    env: dict[str, str]


def find_uv() -> Path:
    """Return the uv binary that came with the worker."""
    return Path(uv.find_uv_bin()).resolve()


def make_kit(
    *,
    pip: PipConfig,
    uv_binary: Path,
    layer: Path,
    cache: Path,
    python: Path,
    mounts: bool,
    own_root: bool = False,
    apt: Path | None = None,
) -> BuildKit:
    """Return the kit.

    Args:
        layer, cache: directories of this host that only this build uses now.
        python: as the container sees it, which is as this host does, or as the image has it.
        mounts: whether the container sees binds at their targets (`Backend.mounts`).
        own_root: whether it has an image's root, and so nothing of this host's system.
        apt: what apt is told there.
    """
    layer_bind = Bind(source=layer, target=LAYER_TARGET, writable=True)
    cache_bind = Bind(source=cache, target=CACHE_TARGET, writable=True)
    uv_bind = Bind(source=uv_binary, target=UV_TARGET)

    def seen(bind: Bind) -> str:
        return bind.target if mounts else str(bind.source)

    env = {
        **pip.env,
        "GLOWPLUG_LAYER": seen(layer_bind),
        "GLOWPLUG_PYTHON": str(python),
        "GLOWPLUG_UV": seen(uv_bind),
        "GLOWPLUG_UV_FLAGS": " ".join(pip.flags),
        "UV_CACHE_DIR": seen(cache_bind),
        # The cache is another mount, and a hard link would let a build change what is cached.
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_DOWNLOADS": "never",
        # Images keep no times, so compiled modules must not be checked against any.
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
    }
    local = local_binds(pip.local, () if own_root else FROM_BASE)
    binds = (layer_bind, cache_bind, uv_bind, *local)
    if apt is not None:
        env["APT_CONFIG"] = APT_TARGET
        binds = (*binds, Bind(source=apt, target=APT_TARGET))
    return BuildKit(binds=binds, env=env)


def local_binds(paths: Sequence[Path], from_base: Sequence[Path] = FROM_BASE) -> tuple[Bind, ...]:
    """Return read-only binds for the machine's wheel directories, indexes and certificates.

    What the container has `from_base` already is left out, and so is what would show half of the machine.
    """
    return tuple(
        Bind(source=path.resolve(), target=str(path))
        for path in paths
        if path.exists()
        and path not in TOO_MUCH
        and not any(path.is_relative_to(base) for base in from_base)
    )


def unfit_locals(paths: Sequence[Path]) -> list[str]:
    """Return the configured local paths that builds will not see, for a warning."""
    return [str(path) for path in paths if not path.exists() or path in TOO_MUCH]


def choose_cache(busy: Mapping[Path, str], shared: Path, private: Path, container_id: str) -> Path:
    """Return the workspace's cache if no other build has it now, else this build's own."""
    return shared if busy.get(shared, container_id) == container_id else private
