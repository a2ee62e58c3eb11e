"""Finds the user's function: sets the module path, imports it by name or unpickles it by value."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

UNNAMED = "nothing to run: neither a handler nor a pickled function was given"


def prepare_paths(source: str, layer: str, *, site: bool = False) -> None:
    """Extend the path that `-I -S` left: stdlib, then source, then layer, then the SDK (already last).

    `site`: the image brought its own Python, so what is installed for that (`.pth` files, a virtual
    environment) and what its PYTHONPATH says come after the layer.

    Source before layer, as a script's own directory comes before site-packages anywhere else.
    `.pth` files are not read: the layer is built with `--target`, where they have no meaning.
    """
    found = [path for path in (source, f"{layer}/site-packages" if layer else "") if path]
    if site:
        _add_site(found)
    else:
        sys.path[-1:-1] = found
    if source:
        os.chdir(source)


def _add_site(found: list[str]) -> None:
    sdk = sys.path.pop()
    said = os.environ.get("PYTHONPATH", "").split(":")
    sys.path += [*found, *(path for path in said if path.startswith("/") and path not in found)]
    import site  # noqa: PLC0415 - only images with a Python of their own need it

    site.main()
    sys.path.append(sdk)


def show_info_logs() -> None:
    """Make `logging` at INFO visible without set-up, once the user's code imports it.

    Only the root's level and the handler of last resort change, so that the user's own basicConfig
    still finds an unconfigured logger. Importing logging here would cost every start 6 to 16 ms.
    """
    if "logging" in sys.modules:
        _configure(sys.modules["logging"])
    else:
        sys.meta_path.insert(0, _LoggingFinder())


class _LoggingFinder:
    """Configures logging right after its first import, then is gone."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Answer for `logging` only, by asking the other finders and adding a step."""
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec: Any = next((spec for spec in specs if spec is not None), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _configure(module)

            spec.loader.exec_module = exec_module
        return spec


def _configure(logging: Any) -> None:
    logging.root.setLevel(logging.INFO)
    logging.lastResort.setLevel(logging.INFO)
    logging.lastResort.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))


def load_function(handler: str, pickled: bytes) -> Callable[..., object]:
    """Return the raw function that a deployment names ("module:qualname") or carries by value."""
    if pickled:
        from _pickle import loads  # noqa: PLC0415 - 10 ms cheaper than pickle

        found = loads(pickled)
    elif handler:
        module_name, _, qualname = handler.partition(":")
        __import__(module_name)
        found = sys.modules[module_name]
        for name in qualname.split("."):
            found = getattr(found, name)
    else:
        raise LookupError(UNNAMED)
    return unwrap(found)


def unwrap(found: object) -> Callable[..., object]:
    """Return the function below Glowplug's decorators, which show it as `__glowplug_fn__`."""
    inner = getattr(found, "__glowplug_fn__", found)
    if not callable(inner):
        raise TypeError(f"{found!r} can't be called")
    return inner
