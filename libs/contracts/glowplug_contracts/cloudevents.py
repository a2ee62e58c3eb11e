"""CloudEvents 1.0, read from what strangers send and written for functions. Pure.

Three content modes: *binary* (attributes in headers that begin with "ce-", the body is the data),
*structured* (one JSON object) and *batch* (an array of them). The HTTP and NATS bindings share all but
the name of the content type's header. Everything here is an argument from outside: sizes, counts and
characters are checked, and what is wrong raises `InvalidRequestError` with the attribute's name.
Source: the CloudEvents specification, its HTTP binding and its JSON format, version 1.0.2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import EventId, WorkspaceId, derive_id
from glowplug_contracts.messages.event import CloudEvent, DataForm

SPECVERSION: Final = "1.0"
BINARY_PREFIX: Final = "ce-"
STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

# One event in its JSON form: it must fit into an invocation's arguments, which stand in its record.
EVENT_BYTES_MAX: Final = 224 * 1024
EVENTS_MAX: Final = 1_000
EXTENSIONS_MAX: Final = 64
NAME_CHARS_MAX: Final = 64
VALUE_CHARS_MAX: Final = 2_048
DEPTH_MAX: Final = 64
# Sources and types that only the platform itself writes.
RESERVED_SOURCE: Final = "glowplug:"
RESERVED_TYPE: Final = "glowplug."

_REQUIRED = ("id", "source", "type")
_OPTIONAL = ("subject", "time", "datacontenttype", "dataschema")
_NOT_EXTENSIONS = frozenset({*_REQUIRED, *_OPTIONAL, "specversion", "data", "data_base64"})
_NAME = re.compile(r"[a-z0-9]+")
# What no attribute may hold: control characters, half surrogates and code points without a character.
_BAD_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_URI_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`]+")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - of a media type
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(\s*;\s*{_TOKEN}=({_TOKEN}|\"[^\"]*\"))*")
_TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_INTEGER_MAX = 2**31 - 1

_Members = dict[str, msgspec.Raw]
_OBJECT = msgspec.json.Decoder(_Members)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def event_key(workspace: WorkspaceId, source: str, event_id: str) -> EventId:
    """Return the id that stands for an event within a workspace: the same pair, the same id."""
    hashed = hashlib.blake2b(
        digest_size=16, key=hashlib.blake2b(workspace.encode()).digest(), person=b"event"
    )
    hashed.update(len(source.encode()).to_bytes(4) + source.encode() + event_id.encode())
    return EventId(derive_id("event", hashed.digest()))


# -- reading -------------------------------------------------------------------------------------


def read_events(
    headers: Iterable[tuple[str, str]], body: bytes, *, content_header: str = "content-type"
) -> tuple[CloudEvent, ...]:
    """Return the events in a message, whichever content mode it is in.

    Args:
        headers: as they came, repeated ones too; the case of names does not matter.
        body: the message's bytes.
        content_header: the header that says what the body is.

    Raises: InvalidRequestError (event.invalid).
    """
    found = _lowered(headers)
    content_type = found.get(content_header, "")
    essence = content_type.partition(";")[0].strip().lower()
    if essence == BATCH_TYPE:
        return read_batch(body)
    if essence == STRUCTURED_TYPE:
        return (read_structured(body),)
    if essence.startswith("application/cloudevents"):
        raise _bad("content-type", f"{essence[:80]} is not read; send {STRUCTURED_TYPE}")
    return (read_binary(found, body, content_type),)


def read_binary(headers: Mapping[str, str], body: bytes, content_type: str) -> CloudEvent:
    """Return the event whose attributes are in headers (lower-case names). Raises: InvalidRequestError."""
    attributes: dict[str, str] = {}
    for header, value in headers.items():
        if not header.startswith(BINARY_PREFIX):
            continue
        name = header.removeprefix(BINARY_PREFIX)
        if name in ("datacontenttype", "data"):
            raise _bad(name, "belongs into Content-Type, or is the body")
        attributes[name] = _from_header(name, value)
    if content_type:
        attributes["datacontenttype"] = content_type.strip()
    if "specversion" not in attributes:
        raise _bad(
            "specversion", "is missing: send ce-specversion: 1.0, or application/cloudevents+json"
        )
    form, data = _form_of(attributes.get("datacontenttype", ""), body)
    return _event(attributes, form, data)


def read_structured(body: bytes) -> CloudEvent:
    """Return the event in a JSON object. Raises: InvalidRequestError."""
    if len(body) > EVENT_BYTES_MAX * 2:
        raise _bad("data", _too_long(len(body)))
    try:
        members = _OBJECT.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as err:
        raise _bad("", f"is no JSON object: {err}") from err
    attributes = {
        name: text
        for name, raw in members.items()
        if name not in ("data", "data_base64") and (text := _canonical(name, raw)) is not None
    }
    form, data = _data_of(members, attributes.get("datacontenttype", ""))
    return _event(attributes, form, data)


def read_batch(body: bytes) -> tuple[CloudEvent, ...]:
    """Return the events in a JSON array; it may be empty. Raises: InvalidRequestError."""
    try:
        raws = _ARRAY.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as err:
        raise _bad("", f"batch is no JSON array: {err}") from err
    if len(raws) > EVENTS_MAX:
        raise _bad("", f"batch has {len(raws)} events and may have {EVENTS_MAX}")
    events = []
    for number, raw in enumerate(raws):
        try:
            events.append(read_structured(bytes(raw)))
        except InvalidRequestError as error:
            raise InvalidRequestError(
                error.code, f"event {number} of the batch: {error}", details=error.details
            ) from error
    return tuple(events)


def _lowered(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        low = name.lower()
        if low in found and (low.startswith(BINARY_PREFIX) or low == "content-type"):
            raise _bad(low.removeprefix(BINARY_PREFIX), "is there twice")
        found[low] = value
    return found


def _from_header(name: str, value: str) -> str:
    """Return a header's value: unquoted, then percent-decoded once."""
    text = value.strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        text = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError as err:
        raise _bad(name, "is not UTF-8 once it is percent-decoded") from err


def _canonical(name: str, raw: msgspec.Raw) -> str | None:
    """Return a JSON attribute as the specification's canonical string; null is no attribute."""
    nested = bytes(raw).lstrip()[:1] in (b"{", b"[")
    value = {} if nested else _plain(name, raw)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX + 1 and value <= _INTEGER_MAX:
        return str(value)
    raise _bad(name, "must be a string, true, false or a 32-bit integer")


def _plain(name: str, raw: msgspec.Raw) -> object:
    """Return what a member is. What skips over one does not look whether it is UTF-8."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as err:
        raise _bad(name, f"is not readable: {err}") from err


def _data_of(members: _Members, content_type: str) -> tuple[DataForm, bytes]:
    data, encoded = members.get("data"), members.get("data_base64")
    if data is not None and encoded is not None:
        raise _bad("data", "is there, and data_base64 too")
    if encoded is not None:
        text = _plain("data_base64", encoded)
        if not isinstance(text, str):
            raise _bad("data_base64", "must be a string")
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as err:
            raise _bad("data_base64", f"is no base64: {err}") from err
        return _form_of(content_type, raw) if _is_json(content_type) else (DataForm.BYTES, raw)
    if data is None:
        return DataForm.NONE, b""
    if content_type and not _is_json(content_type):
        text = _plain("data", data)
        if not isinstance(text, str):
            raise _bad("data", f"must be a string, for {content_type[:80]} is not JSON")
        return DataForm.TEXT, _utf8("data", text)
    return DataForm.JSON, _checked_json(bytes(data))


def _form_of(content_type: str, body: bytes) -> tuple[DataForm, bytes]:
    if not body:
        return DataForm.NONE, b""
    if _is_json(content_type):
        return DataForm.JSON, _checked_json(body)
    if _is_text(content_type):
        try:
            body.decode()
        except UnicodeError:
            return DataForm.BYTES, body
        return DataForm.TEXT, body
    return DataForm.BYTES, body


def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence.endswith(("/json", "+json"))


def _is_text(content_type: str) -> bool:
    essence, _, rest = content_type.lower().partition(";")
    charset = re.search(r"charset=\"?([^\";\s]+)", rest)
    utf8 = charset is None or charset[1] in ("utf-8", "utf8", "us-ascii")
    return utf8 and essence.strip().startswith("text/")


def _checked_json(data: bytes) -> bytes:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as err:
        raise _bad("data", f"is no JSON, as its content type says: {err}") from err
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise _bad("data", f"is nested deeper than {DEPTH_MAX}")
    return data


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > DEPTH_MAX:
            return deepest
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        level = below
    return deepest


# -- checking ------------------------------------------------------------------------------------


def _event(attributes: Mapping[str, str], form: DataForm, data: bytes) -> CloudEvent:
    version = attributes.get("specversion", "")
    if version != SPECVERSION:
        raise _bad("specversion", f"is {version[:16]!r}; {SPECVERSION} is read")
    extensions = {n: text for n, text in attributes.items() if n not in _NOT_EXTENSIONS}
    if len(extensions) > EXTENSIONS_MAX:
        raise _bad("", f"has {len(extensions)} extensions and may have {EXTENSIONS_MAX}")
    event = CloudEvent(
        id=attributes.get("id", ""),
        source=attributes.get("source", ""),
        type=attributes.get("type", ""),
        subject=attributes.get("subject", ""),
        time=attributes.get("time", ""),
        datacontenttype=attributes.get("datacontenttype", ""),
        dataschema=attributes.get("dataschema", ""),
        extensions=extensions,
        form=form,
        data=data,
    )
    for name in _OPTIONAL:
        if name in attributes and not attributes[name]:
            raise _bad(name, "is there and empty; leave it out")
    check_event(event)
    return event


def check_event(event: CloudEvent) -> None:
    """Raise InvalidRequestError unless the attributes are what CloudEvents wants."""
    for name in _REQUIRED:
        if not getattr(event, name):
            raise _bad(name, "is missing")
    for name in (*_REQUIRED, *_OPTIONAL):
        _check_text(name, getattr(event, name))
    for name, value in event.extensions.items():
        if not _NAME.fullmatch(name) or len(name) > NAME_CHARS_MAX or name in _NOT_EXTENSIONS:
            raise _bad(
                name, f"is no attribute's name: 1 to {NAME_CHARS_MAX} lower-case letters and digits"
            )
        _check_text(name, value)
    forms = {
        "source": (_URI_REFERENCE, "a URI reference"),
        "time": (_TIME, "a time as in RFC 3339"),
        "datacontenttype": (_MEDIA_TYPE, "a media type"),
        "dataschema": (_ABSOLUTE_URI, "an absolute URI"),
    }
    for name, (form, words) in forms.items():
        value = getattr(event, name)
        if value and not form.fullmatch(value):
            raise _bad(name, f"is {value[:80]!r}, which is not {words}")
    size = len(event.data)
    if size <= EVENT_BYTES_MAX:
        size = len(write_structured(event))
    if size > EVENT_BYTES_MAX:
        raise _bad("data", _too_long(size))


def check_unreserved(event: CloudEvent) -> None:
    """Raise InvalidRequestError if an event from outside pretends to be the platform's own."""
    if event.source.startswith(RESERVED_SOURCE):
        raise _bad("source", f"begins with {RESERVED_SOURCE!r}, which is the platform's own")
    if event.type.startswith(RESERVED_TYPE):
        raise _bad("type", f"begins with {RESERVED_TYPE!r}, which is the platform's own")


def _check_text(name: str, value: str) -> None:
    if len(value) > VALUE_CHARS_MAX:
        raise _bad(name, f"has {len(value)} characters and may have {VALUE_CHARS_MAX}")
    if _BAD_TEXT.search(value):
        raise _bad(name, "holds a control character or one that is none")


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeError as err:
        raise _bad(name, "holds half a character") from err


def _too_long(size: int) -> str:
    return (
        f"has about {size} bytes and may have {EVENT_BYTES_MAX}: put large data where the function can "
        "read it, and its name into the event"
    )


def _bad(name: str, why: str) -> InvalidRequestError:
    where = f"the attribute {name[:64]}" if name else "the event"
    return InvalidRequestError(
        "event.invalid", f"{where} {why}", details={"fields": {name[:64]: why}} if name else None
    )


# -- writing -------------------------------------------------------------------------------------


def write_structured(event: CloudEvent) -> bytes:
    """Return the event as a JSON object; JSON data stands in it as it came."""
    members: dict[str, object] = {"specversion": SPECVERSION}
    for name in (*_REQUIRED, *_OPTIONAL):
        if value := getattr(event, name):
            members[name] = value
    members |= event.extensions
    if event.form is DataForm.JSON:
        members["data"] = msgspec.Raw(event.data)
    elif event.form is DataForm.TEXT:
        members["data"] = event.data.decode()
    elif event.form is DataForm.BYTES:
        members["data_base64"] = base64.b64encode(event.data).decode()
    return msgspec.json.encode(members)


def arguments_of_one(event: bytes) -> bytes:
    """Return the arguments of a function that takes one event (in its JSON form)."""
    return b'{"takes":"event","args":[' + event + b'],"kwargs":{}}'


def arguments_of_many(events: Iterable[bytes]) -> bytes:
    """Return the arguments of a function that takes a list of events."""
    return b'{"takes":"events","args":[[' + b",".join(events) + b']],"kwargs":{}}'
