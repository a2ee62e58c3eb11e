"""The ten images, each made by others' tools: what is in them, and what a container of each must be able to say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from images.workshop import SCRATCH, Workshop, local, pip_install, tool
from tests.support.real_registry import later_changes, strange_files

DEBIAN = "debian"
MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
# 79,000 files of the kernel's sources, and icons, of which each is a file.
SOURCES = "linux-source-6.1"
ICONS = (
    "@mui/icons-material@5.15.0", "@tabler/icons@2.47.0", "@fluentui/svg-icons@1.1.220", "material-design-icons@3.0.1",
)  # fmt: skip
FILES_WANTED = 200_000
DOCKERFILE = """
FROM debian
ARG GREETING=hello
ENV SAID=$GREETING APP=/srv/app
WORKDIR /srv/app
COPY --chown=1000:1000 app/ ./
RUN umask 027 && echo "$SAID" > said.txt && cp -l said.txt again.txt && mkdir -m 1770 made && rm -rf static
USER 1000
ENTRYPOINT ["python3"]
CMD ["main.py"]
"""


Make = Callable[[Workshop, str], None]
# Makes an image on top of another, which is there.
MakeOn = Callable[[Workshop, str, str], None]


class Recipe(msgspec.Struct, frozen=True):
    """One image. Attributes: says: Python that a container of it runs, and prints "ok"."""

    name: str
    about: str
    make: Make
    says: str


def debian(shop: Workshop, name: str) -> None:
    """Debian's own bootstrap, with its Python and node."""
    with shop.image(name, SCRATCH, "--env", "PATH=/usr/local/bin:/usr/bin:/bin") as root:
        tool("debootstrap", "--variant=minbase", "--include=python3", RELEASE, str(root), MIRROR)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def on_debian(make_on: MakeOn) -> Make:
    """Return what makes an image on Debian, which is made first if it is not there."""

    def make(shop: Workshop, name: str) -> None:
        if not shop.made(DEBIAN):
            debian(shop, DEBIAN)
        make_on(shop, name, DEBIAN)

    return make


def packages(*wanted: str) -> MakeOn:
    """Packages from PyPI, by pip."""

    def make(shop: Workshop, name: str, base: str) -> None:
        with shop.image(name, base) as root:
            pip_install(root, *wanted)

    return make


def node(shop: Workshop, name: str, base: str) -> None:
    """Debian's node, and packages by npm."""
    with shop.image(name, base) as root:
        apt_install(root, "nodejs")
        (root / "srv/app").mkdir(parents=True)
        npm_install(
            root / "srv/app", "express@4", "typescript@5", "lodash@4", "react-dom@18", "webpack@5"
        )


def many_files(shop: Workshop, name: str, base: str) -> None:
    """Sources of a kernel, and icons by npm: as many small files as anybody has."""
    with shop.image(name, base) as root:
        apt_install(root, SOURCES)
        sources = root / "usr/src" / f"{SOURCES}.tar.xz"
        tool("tar", "-C", str(root / "usr/src"), "-xf", str(sources))
        sources.unlink()
        (root / "srv/icons").mkdir(parents=True)
        npm_install(root / "srv/icons", *ICONS)
        count = sum(1 for _ in root.rglob("*"))
        if count < FILES_WANTED:
            raise RuntimeError(f"{count} files; {FILES_WANTED} were wanted")


def odd(shop: Workshop, name: str, base: str) -> None:
    """Names, modes, owners, links, holes and attributes that images have now and then; a layer that changes them."""
    with shop.image("odd-below", base) as root:
        strange_files(root / "odd")
    with shop.image(name, "odd-below") as root:
        later_changes(root / "odd")


def from_dockerfile(shop: Workshop, name: str, base: str) -> None:
    """buildah, with a Dockerfile."""
    folder = shop.root / "dockerfile"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "app/static").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("FROM debian", f"FROM {local(base)}"))
    (folder / "app/main.py").write_text("print('of the image')\n")
    (folder / "app/static/page.html").write_text("<p>" * 10_000)
    shop.dockerfile(name, folder)


def apt_install(root: Path, *wanted: str) -> None:
    """Install Debian's packages into a root."""
    quiet = ("-qq", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends")
    for command in (("update", "-qq"), ("install", "-y", *quiet, *wanted), ("clean",)):
        tool("chroot", str(root), "apt-get", *command, env={"DEBIAN_FRONTEND": "noninteractive"})
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)


def npm_install(folder: Path, *wanted: str) -> None:
    """Install packages by npm; what belongs to them runs nothing."""
    tool(
        "npm",
        "install",
        "--ignore-scripts",
        "--legacy-peer-deps",
        "--no-audit",
        "--no-fund",
        *wanted,
        cwd=folder,
    )


def imports(*modules: str) -> str:
    """Return a program that imports modules and says so."""
    return f"import {', '.join(modules)}; print('ok')"


ASK_NODE = (
    "import subprocess as s; print(s.check_output(['node', '-p', '\"ok\"'], text=True).strip())"
)
RECIPES = (
    Recipe(DEBIAN, "debootstrap, with python3", debian, imports("ssl", "sqlite3")),
    Recipe(
        "science",
        "numpy, scipy, pandas",
        on_debian(packages("numpy", "scipy", "pandas")),
        imports("numpy", "scipy", "pandas"),
    ),
    Recipe(
        "onnxruntime", "onnxruntime", on_debian(packages("onnxruntime")), imports("onnxruntime")
    ),
    Recipe(
        "torch", "torch 2.13.0, CPU", on_debian(packages("torch==2.13.0+cpu")), imports("torch")
    ),
    Recipe("opencv", "opencv", on_debian(packages("opencv-python-headless")), imports("cv2")),
    Recipe("node", "node and npm packages", on_debian(node), ASK_NODE),
    Recipe(
        "large",
        "torch 2.14.1 with CUDA's libraries",
        on_debian(packages("torch==2.14.1")),
        imports("torch"),
    ),
    Recipe("many", "a kernel's sources, and icons", on_debian(many_files), imports("ssl")),
    Recipe("odd", "odd names, modes, links, attributes", on_debian(odd), imports("ssl")),
    Recipe("dockerfile", "by a Dockerfile", on_debian(from_dockerfile), imports("ssl")),
)
