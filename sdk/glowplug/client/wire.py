"""Python values ⇄ bytes, and framed answers.

Arguments and results travel as pickles. The fast pickler of the standard library is tried first; what
it can't do (lambdas, closures), or would do wrongly (classes of the running script, which has another
name in the container), is done by the vendored cloudpickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import struct
import sys
from collections.abc import AsyncIterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from glowplug.client.answers import BrokenAnswerError
from glowplug.errors import PythonVersionMismatchError
from glowplug.remote import load_attribute

if TYPE_CHECKING:
    import aiohttp

M = TypeVar("M")
PROTOCOL = 5
FRAME_BYTES_MAX = 64 * 1024 * 1024
_MAIN = "__main__"
_script: list[str] = []


def name_script(module: str) -> None:
    """Say under which module name the running script is shipped.

    From then on its classes are pickled under that name, and what comes back under that name is the
    script itself: `except MyError` catches what the container raised.
    """
    _script[:] = [module]
    if module not in sys.modules and _MAIN in sys.modules:
        sys.modules[module] = sys.modules[_MAIN]


def python_here() -> str:
    """Return this interpreter's minor version: "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def dump(value: Any, python_there: str = "") -> bytes:
    """Return a value's pickle for a container that runs `python_there` ("" = the same as here).

    Raises: PythonVersionMismatchError if it holds code and the versions differ; otherwise whatever
        the pickler says.
    """
    try:
        data = pickle.dumps(value, PROTOCOL)
    except Exception:  # noqa: BLE001 - cloudpickle may know better, or says it better
        data = b""
    if data and b"__main__" not in data:
        return data
    if python_there and python_there != python_here():
        raise PythonVersionMismatchError(
            f"these arguments hold code or classes of this program, which Python {python_here()} "
            f"can't send to Python {python_there}; run the program with Python {python_there}, set "
            f'Image(python_version="{python_here()}"), or pass plain data'
        )
    return dump_code(value)


def fingerprint(value: Any, data: bytes) -> str:
    """Return what a value is, in a word: equal arguments give equal words in any process.

    A pickle alone would not: it depends on which equal parts are one object. `data`, the value's
    pickle, is the last resort for what neither JSON nor a pickle without memory can write.
    """
    written = data
    try:
        written = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, PROTOCOL)
        pickler.fast = True  # no memory: equal parts are written out each time
        with contextlib.suppress(Exception):
            pickler.dump(value)
            written = buffer.getvalue()
    return hashlib.blake2b(written, digest_size=16).hexdigest()


def dump_code(value: Any) -> bytes:
    """Return the pickle of something that may hold code, by value where it has no importable name."""
    buffer = io.BytesIO()
    _code_pickler()(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()


def load(data: bytes, python_there: str = "") -> Any:
    """Return the value in a pickle that one of our own calls brought.

    Raises: PythonVersionMismatchError instead of a pickle error where the versions differ.
    """
    try:
        return pickle.loads(data)  # noqa: S301 - only what our own function wrote
    except Exception as err:
        if python_there and python_there != python_here():
            raise PythonVersionMismatchError(
                f"the result was pickled by Python {python_there} and can't be read by Python "
                f'{python_here()}; set Image(python_version="{python_here()}"), or return plain data'
            ) from err
        raise


def frame(data: bytes) -> bytes:
    """Return one framed message."""
    return struct.pack(">I", len(data)) + data


async def frames(response: aiohttp.ClientResponse, message: type[M]) -> AsyncIterator[list[M]]:
    """Yield the messages of a framed body, in lists as they arrive together.

    Raises: BrokenAnswerError if the body ends inside a frame.
    """
    from glowplug_contracts.codec import decode  # noqa: PLC0415 - not in containers

    rest = bytearray()
    async for piece in response.content.iter_any():
        rest += piece
        found: list[M] = []
        at = 0
        while len(rest) - at >= 4:  # noqa: PLR2004 - the length's own bytes
            (size,) = struct.unpack_from(">I", rest, at)
            if size > FRAME_BYTES_MAX:
                raise BrokenAnswerError(f"a frame of {size} bytes")
            if len(rest) - at - 4 < size:
                break
            found.append(decode(bytes(rest[at + 4 : at + 4 + size]), message, "msgpack"))
            at += 4 + size
        del rest[:at]
        if found:
            yield found
    if rest:
        raise BrokenAnswerError("the answer ended inside a frame")


def _code_pickler() -> Any:
    from glowplug._vendor import cloudpickle  # noqa: PLC0415 - 13 ms, and most calls need none

    class CodePickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if (
                _script
                and isinstance(obj, type | FunctionType)
                and getattr(obj, "__module__", "") == _MAIN
                and _is_named(obj)
            ):
                return load_attribute, (_script[0], obj.__qualname__)
            return super().reducer_override(obj)  # type: ignore[no-untyped-call]

    return CodePickler


def _is_named(thing: type | FunctionType) -> bool:
    found: Any = sys.modules.get(_MAIN)
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is thing or getattr(found, "__glowplug_fn__", None) is thing
