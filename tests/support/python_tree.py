"""A root directory with the Python that runs the tests, and nothing else: the smallest image that runs code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages",
    "dist-packages", "config-*", "*.a", "turtledemo", "pydoc_data", "_tkinter*", "_test*", "distutils",
)  # fmt: skip
# A shell, and what builds use.
PROGRAMS = ("sh", "mktemp", "mkdir", "cp", "rm")
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def make_python_tree(
    root: Path,
    prefix: str = "/opt/own",
    needed_by: Sequence[Path] = (),
    programs: Sequence[str] = (),
) -> Path:
    """Fill `root`: the interpreter below `prefix` in it, its library, a module `of_the_image`, a few programs and
    those that are asked for, and the C library's files where programs look for them, also those that are only
    `needed_by` others."""
    binary = Path(os.path.realpath(sys._base_executable))
    home = root / prefix.lstrip("/")
    (home / "bin").mkdir(parents=True)
    shutil.copy(binary, home / "bin" / f"python{VERSION}")
    (home / "bin/python3").symlink_to(f"python{VERSION}")
    library = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}))
    shutil.copytree(library, home / f"lib/python{VERSION}", ignore=LEFT_OUT)
    # Debian's interpreters look elsewhere than others, and elsewhere again in a virtual environment.
    asking = f"import site; print(site.getsitepackages([{prefix!r}])[0])"
    told = subprocess.run([binary, "-I", "-c", asking], check=True, capture_output=True, text=True)
    packages = root / told.stdout.strip().lstrip("/")
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "of_the_image.py").write_text("NAME = 'of the image'\n")
    (root / "bin").mkdir()
    copied = {
        name: Path(os.path.realpath(shutil.which(name) or ""))
        for name in dict.fromkeys((*PROGRAMS, *programs))
    }
    for name, program in copied.items():
        shutil.copy(program, root / "bin" / name)
    extensions = (home / f"lib/python{VERSION}/lib-dynload").glob("*.so")
    for path in {
        each
        for file in (binary, *needed_by, *copied.values(), *extensions)
        for each in _libraries(file)
    }:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(path, target)  # what a link leads to
    return root


def _libraries(file: Path) -> list[str]:
    done = subprocess.run(["ldd", file], capture_output=True, text=True, timeout=30, check=False)
    return _LIBRARY.findall(done.stdout)
