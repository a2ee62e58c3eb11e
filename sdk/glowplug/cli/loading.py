"""Loading a user's file for `run` and `deploy`, without the packages that only its image has."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from glowplug.wrappers import Wrapper


def split_target(target: str) -> tuple[Path, str]:
    """Return file and name of FILE, FILE:name or FILE::name.

    Raises: click.UsageError if there is no such file.
    """
    file, _, name = target.partition("::") if "::" in target else target.partition(":")
    path = Path(file)
    if not path.is_file():
        raise click.UsageError(f"there is no file {file!r}")
    if path.suffix != ".py":
        raise click.UsageError(f"{file!r} is no Python file")
    return path.absolute(), name


def load_file(path: Path) -> types.ModuleType:
    """Import a file as the module that its folder (or package) makes it."""
    base, parts = path.parent, [path.stem]
    while (base / "__init__.py").is_file():
        parts.insert(0, base.name)
        base = base.parent
    sys.path.insert(0, str(base))
    with missing_packages_allowed(path):
        return importlib.import_module(".".join(parts))


def wrappers_of(module: types.ModuleType) -> dict[str, Wrapper[Any, Any]]:
    """Return the decorated functions that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Wrapper) and value.__module__ == module.__name__
    }


def find_target(module: types.ModuleType, name: str) -> Any:
    """Return what a name in the module stands for; without a name, its only decorated function.

    Raises: click.UsageError if that is not clear.
    """
    found = wrappers_of(module)
    if name:
        value: Any = module
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            known = ", ".join(found) or "none that is decorated"
            raise click.UsageError(f"{module.__name__} has no {name!r}; it has {known}")
        return value
    if len(found) == 1:
        return next(iter(found.values()))
    if hasattr(module, "main") and not found:
        return module.main
    if not found:
        raise click.UsageError(f"{module.__name__} has no decorated function")
    raise click.UsageError(f"say which one: {module.__name__} has {', '.join(found)}")


@contextmanager
def missing_packages_allowed(path: Path) -> Iterator[None]:
    """Let imports of packages that are not installed here pass while a file is loaded."""
    finder = _AbsentFinder(path.parent)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:
            sys.modules.pop(name, None)


class _AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last in the line: makes a stand-in of whatever nobody else finds."""

    def __init__(self, folder: Path) -> None:
        self.made: list[str] = []
        self._folder = folder

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system's signature
        target: types.ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        installed = top in sys.modules and top not in self.made
        # A package that is there and lacks a module is the user's mistake, and is told.
        if installed or top in sys.stdlib_module_names or (self._folder / top).exists():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        self.made.append(spec.name)
        return _AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to do."""


class _AbsentModule(types.ModuleType):
    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")


class Absent:
    """Stands for something of a package that is not installed here; using it says so."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise ModuleNotFoundError(
            f"{self._name} is used while the file is loaded, but its package is not installed here; "
            "use it inside the function, or install it"
        )

    def __mro_entries__(self, _: object) -> tuple[type, ...]:
        return (object,)

    def __repr__(self) -> str:
        return f"<{self._name}, not installed here>"
