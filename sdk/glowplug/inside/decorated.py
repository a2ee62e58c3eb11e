"""What the decorators are inside a container: they keep the function, and look no closer until they must.

What they were given was checked where the function was deployed. Checking it again takes `typing`, `dataclasses`,
`inspect` and the like, 20 ms of every cold start that most functions never need. So here the decorator's
own object is made when somebody asks for something of it: `f.remote`, `f.put`, `f.name`.
"""

from __future__ import annotations

from glowplug.remote import load_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Where each decorator lives. The first three may be used without parameters.
BARE = ("endpoint", "function", "task_queue")
HOMES = {
    **dict.fromkeys(BARE, "decorators"),
    "schedule": "schedules",
    "on_event": "triggers",
}


class Decorated:
    """A decorated function; `make` makes the decorator's own object of it."""

    def __init__(self, function: Callable[..., Any], make: Callable[[], Any]) -> None:
        self.__glowplug_fn__ = self.__wrapped__ = function
        self._make = make
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function right here."""
        return self.__glowplug_fn__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return getattr(self._whole(), name)

    def __reduce__(self) -> Any:
        module, qualname = self.__module__, self.__qualname__
        if module != "__main__" and "<" not in qualname and self._is_named(module, qualname):
            return load_attribute, (module, qualname)
        return self._whole().__reduce__()

    def __repr__(self) -> str:
        return repr(self._whole())

    def _whole(self) -> Any:
        """Return the decorator's own object, always the same one."""
        found = self.__dict__.get("_made")
        return self.__dict__.setdefault("_made", self._make()) if found is None else found

    def _is_named(self, module: str, qualname: str) -> bool:
        try:
            return load_attribute(module, qualname) is self
        except (ImportError, AttributeError):
            return False


def decorator(name: str) -> Callable[..., Any]:
    """Return the decorator of this name."""

    def own() -> Any:
        return load_attribute(f"glowplug.{HOMES[name]}", name)

    def use(*given: Any, **parameters: Any) -> Any:
        if name in BARE and given:
            return _keep(given[0], lambda function: own()(function, *given[1:], **parameters))

        def make(function: Any) -> Any:
            return own()(*given, **parameters)(function)

        return lambda function: _keep(function, make)

    use.__name__ = use.__qualname__ = name
    use.__module__ = f"glowplug.{HOMES[name]}"
    return use


def _keep(given: Any, make: Callable[[Any], Any]) -> Any:
    function = getattr(given, "__glowplug_fn__", given)
    if not callable(function) or isinstance(function, type):
        return make(given)  # which says what is wrong with it
    return Decorated(function, lambda: make(function))
