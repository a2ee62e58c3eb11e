"""Bytes ⇄ message, with one encoder and one decoder per type.

Control facts travel as JSON, so that a person can read the bus; what carries users' bytes or is hot
travels as msgpack. The registry says which, per subject. "raw" is what strangers wrote: bytes that are
not looked at here, as the `data` of their message.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal, TypeVar, cast

import msgspec

from glowplug_contracts.errors import ContractError

Wire = Literal["json", "msgpack", "raw"]
M = TypeVar("M")

# What decoders raise for bytes of others: no such value, nested beyond the stack, no UTF-8.
UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_JSON = msgspec.json.Encoder()
_MSGPACK = msgspec.msgpack.Encoder()


def encode(message: object, wire: Wire) -> bytes:
    """Return the message's bytes."""
    if wire == "raw":
        return cast("bytes", cast("Any", message).data)
    return _JSON.encode(message) if wire == "json" else _MSGPACK.encode(message)


def decode(data: bytes, payload: type[M], wire: Wire) -> M:
    """Return the message in `data`.

    Raises: ContractError (platform.contract) if the bytes are no such message.
    """
    if wire == "raw":
        return cast("Any", payload)(data=data)  # type: ignore[no-any-return]
    try:
        message: M = _decoder(cast("Any", payload), wire).decode(data)
    except UNREADABLE as err:
        raise ContractError(
            "platform.contract", f"{len(data)} bytes are no {payload!r}: {err}"
        ) from err
    return message


@cache
def _decoder(payload: Any, wire: Wire) -> Any:  # Any: a type is hashable, mypy does not know
    if wire == "json":
        return msgspec.json.Decoder(payload)
    return msgspec.msgpack.Decoder(payload)
