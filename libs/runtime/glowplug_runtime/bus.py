"""The port to the broker: what services need of it, in their words.

Two kinds of sending: `send`, fire and forget, for what is repeated or probed anyway; and `append`,
answered only when the stream has stored the message (and fsynced it, where the stream says so). Two
kinds of hearing: `listen`, core subjects as they pass; and `follow`, a stream in order. Every wait has
a bound. Errors are of the taxonomy: UnavailableError when the broker does not answer in time,
ConflictError when a compare-and-set came second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
from glowplug_contracts.errors import PlatformError
from glowplug_contracts.streams import Bucket, Stream
from glowplug_contracts.subjects import Address, Subject

M = TypeVar("M")
R = TypeVar("R")
V = TypeVar("V")


class Delivery(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """One message that arrived.

    Attributes:
        message: decoded; None only with `headers_only`, or for a removed message (`removed`).
        removed: the subject's message was removed, or went when its time was over.
        fields: values of the subject's placeholders.
        headers: transport facts, keys as written.
        sequence: place in the stream; 0 for core messages.
        pending: messages still to come when this one was sent (followed streams); 0 = caught up.
        answer: how to reply to a request; None where nobody asked.
        ack: only for `take_work`: remove the message from its stream (fire and forget).
    """

    message: M | None
    fields: Mapping[str, str]
    headers: Mapping[str, str]
    subject: str = ""
    sequence: int = 0
    pending: int = 0
    size: int = 0
    removed: bool = False
    answer: Callable[[Any], Awaitable[None]] | None = None
    ack: Callable[[], Awaitable[None]] | None = None


Handler = Callable[[Delivery[M]], Awaitable[None]]


class Subscription(Protocol):
    """Something heard until closed."""

    async def close(self) -> None:
        """Hear no more; messages already delivered are still handled."""


class Following(Subscription, Protocol):
    """A stream being read in order."""

    async def caught_up(self) -> None:
        """Return when everything that was stored at the start has been handled."""


class Entry(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """A key's value at a revision; `value` None means the key is gone."""

    key: str
    value: V | None
    revision: int


class KeyValue(Protocol[V]):
    """A bucket. Keys are tokens joined by dots."""

    async def get(self, key: str) -> Entry[V] | None:
        """Return the entry, or None if there is none."""

    async def create(self, key: str, value: V) -> int:
        """Write a key that must not exist; return its revision. Raises: ConflictError."""

    async def put(self, key: str, value: V) -> int:
        """Write a key whatever was there; return its revision."""

    async def update(self, key: str, value: V, revision: int) -> int:
        """Write a key that must still be at `revision`; return the new one. Raises: ConflictError."""

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove a key (if still at `revision`, where given). Raises: ConflictError."""

    async def entries(self, prefix: str = "") -> Sequence[Entry[V]]:
        """Return all live entries whose key starts with the tokens of `prefix`."""

    async def watch(
        self, on_entry: Callable[[Entry[V]], Awaitable[None]], prefix: str = ""
    ) -> Subscription:
        """Call `on_entry` for every entry there is, then for every change (value None: gone).

        Returns after the entries that existed have been handled. A hint, not the truth: whoever
        needs certainty also reads `entries` now and then.
        """


class Write(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """One of many messages to store; the fields are those of `Bus.append`."""

    to: Address[M]
    message: M
    expect_last: int
    headers: Mapping[str, str] = {}
    ttl_s: float = 0.0


class Bus(Protocol):
    """The broker."""

    async def send(
        self, to: Address[M], message: M, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish without waiting for anybody (core NATS)."""

    async def request(self, to: Address[M], message: M, reply: type[R], *, timeout_s: float) -> R:
        """Ask one listener. Raises: UnavailableError (nobody listens, or no answer in time)."""

    async def append(
        self,
        to: Address[M],
        message: M,
        *,
        expect_last: int | None = None,
        message_id: str = "",
        headers: Mapping[str, str] | None = None,
        ttl_s: float = 0.0,
        timeout_s: float = 10.0,
    ) -> int:
        """Store in the subject's stream; return the sequence.

        Args:
            expect_last: sequence of the subject's last message this write builds on; 0 = the subject
                must be empty; None = don't care.
            message_id: repeats with the same id are stored once (broker's duplicate window).
            ttl_s: the message's own time to live (≥ 1), in streams that allow it.
            timeout_s: tried again with jitter until then (leader changes, reconnects).

        Raises: ConflictError (expect_last was not the last), OverloadedError (the stream is full and
            refuses), UnavailableError. After UnavailableError the write may or may not have happened.
        """

    async def set_timer(
        self, to: Address[M], message: M, *, due_unix: float, lands: Address[Any], kept_s: float
    ) -> int:
        """Store a message that waits; at `due_unix` the broker moves it to `lands`. Return its sequence.

        The stream must have `timers`, and capture both subjects; one timer waits per subject, so that
        setting it again replaces it. One whose time has passed goes off at once. After a crash of the
        broker one that went off may go off again. What has landed is kept `kept_s` seconds (≥ 1).

        Raises: UnavailableError.
        """

    async def append_many(
        self, writes: Sequence[Write[M]], *, timeout_s: float = 10.0
    ) -> Sequence[int | PlatformError]:
        """Store many messages of one stream (with `batches=True`), synced together.

        Returns for each its sequence, or the error that `append` would have raised: one that is refused
        fails none of its neighbours. Every write expects something, so none is ever stored twice.
        """

    async def remove(self, at: Address[M], *, expect_last: int) -> int:
        """Remove a subject's last message (streams with `ttl=True`), if it still is this one.

        Returns the sequence of the mark that stands for it.

        `last` returns None from then on; followers are told by a delivery that has `removed` set.

        Raises: as `append`.
        """

    async def last(self, at: Address[M]) -> Delivery[M] | None:
        """Return the last stored message of a subject; None if there is none, or it was removed."""

    async def all(self, at: Address[M]) -> Sequence[Delivery[M]]:
        """Return all stored messages of one concrete subject, oldest first (small chains only)."""

    async def read(self, at: Subject[M], sequence: int, **fields: str | int) -> Delivery[M] | None:
        """Return the stored message with this sequence of the subject's stream.

        `fields` needs what names the stream (`shard` for sharded ones).
        """

    async def first(self, at: Address[M]) -> Delivery[M] | None:
        """Return the oldest stored message of a concrete subject."""

    async def take(self, at: Address[M], sequence: int) -> bool:
        """Take a stored message out of its stream (`taken=True`).

        Return whether it was there: of several that try, one is told so.

        Raises: UnavailableError; the message may be gone then.
        """

    async def counts(self, pattern: Address[Any]) -> Mapping[str, int]:
        """Return how many messages each stored subject that matches has (COUNTED_MAX subjects)."""

    async def listen(
        self, pattern: Address[M], handler: Handler[M], *, queue: str = ""
    ) -> Subscription:
        """Hear core messages. With `queue`, each goes to one member of that group.

        A handler runs to its end before the next message of this subscription is handled; whatever
        takes long must be handed to a task group. A handler that raises is logged and counted; a
        request whose handler raised a PlatformError is answered with it, and `request` raises it.
        """

    async def follow(
        self,
        pattern: Address[M],
        handler: Handler[M],
        *,
        start: Literal["all", "last_per_subject", "new"] | int = "all",
        headers_only: bool = False,
    ) -> Following:
        """Read a stream in order and go on as it grows; nothing is acknowledged.

        `start` as int begins at that sequence. After a disconnect it goes on after the last message
        handled. Messages may be repeated then; handlers fence by sequence.
        """

    async def take_work(
        self, pattern: Address[M], handler: Handler[M], *, generation: int
    ) -> Subscription:
        """Take a work stream for this generation of its owner (streams with `work=True`).

        Everything not yet acknowledged is delivered, from the oldest, then what arrives. The previous
        generations' consumers are removed first, so that a late ack of theirs hits nothing.
        `Delivery.ack` removes a message from the stream.
        """

    def bucket(self, bucket: Bucket[V]) -> KeyValue[V]:
        """Return the bucket's door. It must have been made by the topology reconciler."""

    async def flush(self) -> None:
        """Return when the broker has everything sent so far."""

    @property
    def connected(self) -> bool:
        """Return whether the broker is reachable now."""

    def stream_info(self, stream: Stream, **fields: int) -> Awaitable[Mapping[str, int]]:
        """Return messages, bytes, max_bytes, first_sequence, last_sequence, and `created` in microseconds.

        `fields` needs what names the stream (`shard` for sharded ones).
        """

    async def purge_before(self, stream: Stream, sequence: int) -> None:
        """Remove all messages of an (unsharded) stream below a sequence. Raises: UnavailableError."""
