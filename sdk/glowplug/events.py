"""Events: what a function made by `@on_event` gets, how it says which of a batch failed, and sending some.

The runner loads this in every container that handles events, so it is the standard library only and
imports next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping
    from typing import Any

SPECVERSION = "1.0"
STRUCTURED = "application/cloudevents+json"
_NAMES = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")


class Event:
    """A CloudEvent.

    Attributes:
        id, source, type: of every event; `source` and `id` together name it.
        subject, time, datacontenttype, dataschema: "" where the sender left them out.
        data: what JSON says, a text, bytes, or None.
        extensions: further attributes, as text.
    """

    __slots__ = (*_NAMES, "data", "extensions")

    def __init__(  # noqa: PLR0913 - CloudEvents' attributes
        self,
        *,
        id: str,  # noqa: A002 - CloudEvents' word
        source: str,
        type: str,  # noqa: A002 - likewise
        data: Any = None,
        subject: str = "",
        time: str = "",
        datacontenttype: str = "",
        dataschema: str = "",
        extensions: Mapping[str, str] | None = None,
    ) -> None:
        self.id = id
        self.source = source
        self.type = type
        self.subject = subject
        self.time = time
        self.datacontenttype = datacontenttype
        self.dataschema = dataschema
        self.data = data
        self.extensions = dict(extensions or {})

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Event:
        """Return the event that a JSON object in the CloudEvents format stands for."""
        data = members.get("data")
        if "data_base64" in members:
            from binascii import a2b_base64  # noqa: PLC0415 - only for bytes

            data = a2b_base64(members["data_base64"])
        known = {name: str(members[name]) for name in _NAMES if members.get(name) is not None}
        others = {
            name: str(value)
            for name, value in members.items()
            if name not in _NAMES and name not in ("specversion", "data", "data_base64")
        }
        return cls(**known, data=data, extensions=others)

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object in the CloudEvents format."""
        members: dict[str, Any] = {"specversion": SPECVERSION}
        members |= {name: value for name in _NAMES if (value := getattr(self, name))}
        members |= self.extensions
        if isinstance(self.data, bytes | bytearray | memoryview):
            from binascii import b2a_base64  # noqa: PLC0415 - only for bytes

            members["data_base64"] = b2a_base64(self.data, newline=False).decode()
        elif self.data is not None:
            members["data"] = self.data
        return members

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and other.to_json() == self.to_json()

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __repr__(self) -> str:
        about = f", subject={self.subject!r}" if self.subject else ""
        return f"Event(type={self.type!r}, source={self.source!r}, id={self.id!r}{about})"


class BatchFailedError(Exception):
    """Raised by a function that takes a batch: these events failed, all others are done.

    Only they come back, each with its attempts counted, and only they become dead letters at last.
    """

    def __init__(self, failed: Iterable[Event | str], message: str = "") -> None:
        self.failed = tuple(each if isinstance(each, str) else each.id for each in failed)
        super().__init__(message or f"{len(self.failed)} events of the batch failed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failed, str(self))


class Sender:
    """`send_event(…)`, and `await send_event.aio(…)`; from inside a container too."""

    def __call__(
        self,
        type: str,  # noqa: A002 - CloudEvents' word
        data: Any = None,
        *,
        source: str,
        subject: str = "",
        id: str = "",  # noqa: A002 - likewise
        time: str = "",
        **extensions: str,
    ) -> str:
        """Send an event; return its id (the platform's) once it is stored for good.

        Args:
            type: of the event, "com.example.order.created".
            data: anything that JSON can say, or bytes.
            source: who says so; a URI reference, like "/orders".
            subject: what it is about.
            id: with `source` it names the event: the same pair again is the same event. "" makes one.
            time: when it happened, as in RFC 3339.
            extensions: further attributes.
        """
        from glowplug.client.loop import background  # noqa: PLC0415 - what needs the network

        made = Event(
            id=id or new_id(),
            source=source,
            type=type,
            data=data,
            subject=subject,
            time=time,
            extensions=extensions,
        )
        return background().run(_send(made))

    def aio(
        self,
        type: str,  # noqa: A002 - CloudEvents' word
        data: Any = None,
        *,
        source: str,
        subject: str = "",
        id: str = "",  # noqa: A002 - likewise
        time: str = "",
        **extensions: str,
    ) -> Awaitable[str]:
        """Send an event; await its id."""
        from glowplug.client.loop import background  # noqa: PLC0415 - what needs the network

        made = Event(
            id=id or new_id(),
            source=source,
            type=type,
            data=data,
            subject=subject,
            time=time,
            extensions=extensions,
        )
        return background().wait(_send(made))


send_event = Sender()


def new_id() -> str:
    """Return an id for an event that its sender did not name."""
    from os import urandom  # noqa: PLC0415 - only to send

    return urandom(16).hex()


async def _send(event: Event) -> str:
    import json  # noqa: PLC0415 - only to send

    from glowplug.client.here import reach  # noqa: PLC0415 - likewise

    try:
        body = json.dumps(event.to_json(), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"the event's data is neither JSON nor bytes: {error}") from error
    http = await reach()
    # Sent again after a lost connection it is the same event.
    answer = await http.request("POST", "/events", body=body, headers={"Content-Type": STRUCTURED})
    return str(answer.json()["id"])
