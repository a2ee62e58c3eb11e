"""Reading a pickled result in the command line: plain data only, never code."""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from glowplug.errors import GlowplugError

PLAIN = {
    ("builtins", name): value
    for name, value in {
        "set": set,
        "frozenset": frozenset,
        "complex": complex,
        "bytearray": bytearray,
        "range": range,
        "slice": slice,
    }.items()
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        return _refuse(f"{module}.{name}")


def load_plain(data: bytes) -> Any:
    """Return a pickled value made of plain data.

    Raises: GlowplugError if it holds objects of other classes: loading those would run code here.
    """
    return _PlainUnpickler(io.BytesIO(data)).load()


def _refuse(name: str) -> NoReturn:
    raise GlowplugError(
        f"the result holds a {name}, which only a program can load: "
        "glowplug.FunctionCall.from_id(ID).get()"
    )
