"""Where this program runs: at its author's, or inside a container of the platform.

Inside a container decorators are inert: the function is only itself. Imported there, so it takes
nothing but the standard library, and as little of it as it can.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_RUNNER = "glowplug.runner.start"


def is_remote() -> bool:
    """Return whether this code runs inside a Glowplug container."""
    runner = sys.modules.get(_RUNNER)
    return runner is not None and sys.modules.get("__main__") is getattr(runner, "USER_MAIN", None)


def load_attribute(module: str, qualname: str) -> Any:
    """Return what `qualname` names in a module.

    Pickles of a script's own classes lead here: what the author's program calls `__main__.Point` is
    `app.Point` in the container, and must be the same class there as in the function that runs.
    """
    __import__(module)
    value: Any = sys.modules[module]
    for part in qualname.split("."):
        value = getattr(value, part)
    return value


def open_project(folder: str, paths: Sequence[str], module: str) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` that finds names in a project's module.

    A project whose modules are not importable from its root (a script in a sub-folder, a `src`
    layout) is shipped with a start module that calls this.
    """
    sys.path[1:1] = [f"{folder}/{path}" for path in paths]

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return load_attribute(module, name)

    return find
