"""Pickles, between Python programs. Loaded with the first one: `_pickle` brings `functools` and `collections` along."""

from __future__ import annotations

import sys
from _pickle import Pickler, loads
from io import BytesIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["loads", "write_pickle"]

PROTOCOL = 5


class _NeedsCloudpickleError(Exception):
    pass


class _ByReferencePickler(Pickler):
    """Pickles what importable names describe, and stops where cloudpickle would write code by value.

    cloudpickle costs 40 ms to import, so the first call should not pay it for a dict of floats.
    """

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, type) or hasattr(obj, "__code__"):
            module = getattr(obj, "__module__", None) or "__main__"
            found: Any = sys.modules.get(module) if module != "__main__" else None
            for name in getattr(obj, "__qualname__", "<").split("."):
                found = getattr(found, name, None)
            if found is not obj:
                raise _NeedsCloudpickleError
        elif isinstance(obj, type(sys)):
            raise _NeedsCloudpickleError
        return NotImplemented


def write_pickle(value: object) -> bytes:
    """Return a pickle that needs cloudpickle's help on neither side unless the value asks for it."""
    if "glowplug._vendor.cloudpickle" not in sys.modules:
        try:
            buffer = BytesIO()
            _ByReferencePickler(buffer, PROTOCOL).dump(value)
            return buffer.getvalue()
        except _NeedsCloudpickleError:
            pass
    from glowplug._vendor import cloudpickle  # noqa: PLC0415 - 40 ms

    data: bytes = cloudpickle.dumps(value, PROTOCOL)  # type: ignore[no-untyped-call]
    return data
