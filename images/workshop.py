"""Where images are made, by tools that no one here wrote: debootstrap, buildah, pip, npm, skopeo, umoci.

Everything is kept in one directory outside the repository, so that a campaign that is cut off goes on.

    graph/, run/         buildah's storage
    oci/<name>/          the image as an OCI layout, tag "1"
    unpacked/<name>/     what umoci makes of it: what ours is compared with
    registry/            the registry's own store
    <name>.json          what making it took
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.real_registry import TOOLS

TAG = "1"
SCRATCH = "scratch"
TOOL_S = 3600.0  # against a hang
TAIL = 2000


class Workshop:
    """See the module. `squeezed`: whether layers are compressed, as usual."""

    def __init__(self, root: Path, *, squeezed: bool = True) -> None:
        self.root = root
        self._options = () if squeezed else ("--disable-compression",)
        for name in ("graph", "run", "oci", "unpacked", "registry"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def oci(self, name: str) -> Path:
        """Return where an image's OCI layout is."""
        return self.root / "oci" / name

    def has(self, name: str) -> bool:
        """Return whether an image was made, and wholly."""
        return (self.oci(name) / "done").exists()

    @contextlib.contextmanager
    def image(self, name: str, base: str = SCRATCH, *config: str) -> Iterator[Path]:
        """Yield the root of a container of image `base`; commit it as `name` when the block ends."""
        container = self.buildah("from", "--pull-never", base if base == SCRATCH else local(base))
        try:
            yield Path(self.buildah("mount", container))
            self.buildah("umount", container)
            if config:
                self.buildah("config", *config, container)
            self.buildah("commit", container, local(name))
        finally:
            self.buildah("rm", container)

    def dockerfile(self, name: str, folder: Path) -> None:
        """Build `name` of a folder's Dockerfile."""
        self.buildah("bud", "--pull-never", "--isolation", "chroot", "-t", local(name), str(folder))

    def made(self, name: str) -> bool:
        """Return whether buildah has the image."""
        return bool(self.buildah("images", "--quiet", "--filter", f"reference={local(name)}"))

    def export(self, name: str) -> Path:
        """Write the image as an OCI layout, once."""
        layout = self.oci(name)
        if not self.has(name):
            shutil.rmtree(layout, ignore_errors=True)
            self.buildah("push", *self._options, local(name), f"oci:{layout}:{TAG}")
            (layout / "done").touch()
        return layout

    def unpack(self, name: str) -> Path:
        """Return what umoci unpacks of it."""
        target = self.root / "unpacked" / name
        done = target.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(target, ignore_errors=True)
            tool("umoci", "raw", "unpack", "--image", f"{self.oci(name)}:{TAG}", str(target))
            done.touch()
        return target

    def forget_unpacked(self, name: str) -> None:
        """Remove what `unpack` made: large, and soon made again."""
        target = self.root / "unpacked" / name
        target.with_suffix(".done").unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)

    def push(self, name: str, host: str) -> str:
        """Copy the image to a registry; return the name that it has there."""
        there = f"{host}/campaign/{name}:{TAG}"
        source = f"oci:{self.export(name)}:{TAG}"
        tool("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{there}")
        return there

    def buildah(self, *command: str) -> str:
        """Run buildah on the workshop's own storage."""
        places = ("--root", str(self.root / "graph"), "--runroot", str(self.root / "run"))
        return tool("buildah", *places, "--storage-driver", "overlay", *command)


def local(name: str) -> str:
    """Return an image's whole name in buildah's storage; a short one is looked for elsewhere."""
    return f"localhost/{name}"


def lacking(*tools: str) -> str:
    """Return why images can't be made here, or ""."""
    missing = [each for each in (*TOOLS, *tools) if shutil.which(each) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "images with owners take root"


def pip_install(target: Path, *packages: str) -> None:
    """Install packages where Debian's own Python looks for them, bytecode and all."""
    where = target / "usr/local/lib/python3.11/dist-packages"
    where.mkdir(parents=True, exist_ok=True)
    tool(
        "pip", "install", "--quiet", "--root-user-action", "ignore",
        "--python-version", "3.11", "--only-binary", ":all:", "--target", str(where), *packages,
    )  # fmt: skip


def tool(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program; return what it said. Raises: RuntimeError with its last words."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TOOL_S,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} …: {done.stderr[-TAIL:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def timing(figures: dict[str, object], what: str) -> Iterator[None]:
    """Note how long a block took."""
    began = time.monotonic()
    yield
    figures[what] = round(time.monotonic() - began, 1)
