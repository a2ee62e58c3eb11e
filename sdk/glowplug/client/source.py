"""Which files a function needs, and what it is called among them.

The project's root is the nearest parent folder of the function's file with pyproject.toml, .git or
.glowplugignore, never the home folder or `/`. Without one, the file goes along with the modules that it
imports from its own folder. A function that no importable name leads to (a closure, a lambda, a
notebook's or a REPL's) ships by value.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKERS = ("pyproject.toml", ".git", ".glowplugignore")
START_MODULE = "_glowplug_start"
_MAIN = "__main__"


@dataclass(frozen=True)
class Project:
    """The files that go along.

    Attributes:
        root: folder that becomes the archive's root.
        only: files to take, relative to root; None = the whole folder.
        paths: folders of the archive from which modules are imported, besides its root.
    """

    root: Path
    only: tuple[str, ...] | None
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where a function comes from.

    Attributes:
        project: its files; None where there is no file.
        module: its module's importable name; "" where there is none.
        qualname: its name in the module; "" = no name leads to it, ship it by value.
    """

    project: Project | None
    module: str
    qualname: str

    @property
    def handler(self) -> str:
        """What the runner loads, as module:qualname inside the archive; empty = by value."""
        if not self.qualname:
            return ""
        start = self.project is not None and self.project.paths
        return f"{START_MODULE if start else self.module}:{self.qualname}"


def find_origin(function: Callable[..., Any], wrapper: object = None) -> Origin:
    """Return where a function comes from, as it stands now."""
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = _module_file(module)
    if module is None or file is None:
        return Origin(None, "", "")
    name, base = _import_name(module, file)
    project = find_project(file, base)
    qualname = function.__qualname__ if _leads_to(module, function, wrapper) else ""
    return Origin(project, name, qualname)


def find_project(file: Path, base: Path) -> Project:
    """Return the files that go along with one file whose modules are imported from `base`."""
    root = find_root(file)
    if root is None or not base.is_relative_to(root):
        only = tuple(sorted(path.relative_to(base).as_posix() for path in needed_files(file, base)))
        return Project(base, only, ())
    candidates = [base, *(Path(entry).absolute() for entry in sys.path if entry)]
    paths: list[str] = []
    for path in candidates:
        inside = path.is_relative_to(root) and path != root and path.is_dir()
        if inside and "site-packages" not in path.parts and not _in_environment(path, root):
            relative = path.relative_to(root).as_posix()
            if relative not in paths:
                paths.append(relative)
    return Project(root, None, tuple(paths))


def find_root(file: Path, home: Path | None = None) -> Path | None:
    """Return the nearest parent that marks a project; None if there is none below home and `/`."""
    stop = {Path("/"), (home or Path.home()).absolute()}
    for folder in file.parents:
        if folder in stop:
            return None
        if any((folder / marker).exists() for marker in MARKERS):
            return folder
    return None


def needed_files(file: Path, base: Path) -> set[Path]:
    """Return the file and, followed from import to import, what it imports from `base`."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".py":
            for name in _imported_names(path):
                waiting.extend(_files_of(base, name))
    return found


def start_module(origin_module: str, paths: tuple[str, ...]) -> str:
    """Return the text of the start module for a project with import folders of its own."""
    return (
        '"""Made by Glowplug: lets this project\'s modules be imported as they are at home."""\n'
        "import os\n"
        "from glowplug.remote import open_project\n"
        f"__getattr__ = open_project(os.path.dirname(os.path.abspath(__file__)), {list(paths)!r}, "
        f"{origin_module!r})\n"
    )


def _module_file(module: Any) -> Path | None:
    name = getattr(module, "__file__", None)
    if not name:
        return None
    file = Path(name).absolute()
    return file if file.is_file() and file.suffix == ".py" else None


def _import_name(module: Any, file: Path) -> tuple[str, Path]:
    """Return a module's importable name, and the folder from which it is imported."""
    name = module.__name__
    if name == _MAIN:
        spec = getattr(module, "__spec__", None)
        if spec is None or not spec.name or spec.name == _MAIN:
            return file.stem, file.parent
        name = spec.name
    parts = name.split(".")
    base = file.parent if file.stem != "__init__" else file.parent.parent
    for _ in parts[1:]:
        base = base.parent
    return name, base


def _leads_to(module: Any, function: Callable[..., Any], wrapper: object) -> bool:
    if "<" in function.__qualname__:
        return False
    found = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not None and (
        found is function or found is wrapper or getattr(found, "__glowplug_fn__", None) is function
    )


def _in_environment(path: Path, root: Path) -> bool:
    return any(
        (folder / "pyvenv.cfg").exists()
        for folder in (path, *path.parents)
        if folder.is_relative_to(root)
    )


def _imported_names(path: Path) -> set[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def _files_of(base: Path, name: str) -> list[Path]:
    module, package = base / f"{name}.py", base / name
    if module.is_file():
        return [module]
    if (package / "__init__.py").is_file():
        return [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return []
