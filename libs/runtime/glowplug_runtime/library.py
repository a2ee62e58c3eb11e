"""The nats-py client behind the same few methods as `wire.WireClient`: for TLS and other ways to log in.

The only file of the platform that imports the NATS library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError as LibraryNoRespondersError

from glowplug_runtime.wire import Callback, Msg, NoRespondersError, WireError

log = structlog.get_logger()

PENDING_BYTES_MAX = 512 * 1024 * 1024
UNSENT_BYTES_MAX = 64 * 1024 * 1024


class LibraryClient:
    """A connection of nats-py."""

    def __init__(self, client: Client) -> None:
        self._nc = client

    @classmethod
    async def connect(
        cls,
        servers: list[str],
        *,
        name: str,
        user: str,
        password: str,
        inbox_prefix: str,
        on_disconnected: Callable[[], None],
        on_reconnected: Callable[[], None],
    ) -> LibraryClient:
        """Connect. The caller has seen that a server listens: the library sleeps 2 s between tries."""

        async def disconnected() -> None:
            on_disconnected()

        async def reconnected() -> None:
            on_reconnected()

        async def failed(error: Exception) -> None:
            log.warning("bus.error", error=repr(error))

        client = await nats.connect(
            servers,
            name=name,
            user=user or None,
            password=password or None,
            inbox_prefix=inbox_prefix.encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            connect_timeout=5,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=UNSENT_BYTES_MAX,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            error_cb=failed,
        )
        return cls(client)

    @property
    def is_connected(self) -> bool:
        """Return whether the broker is reachable now."""
        return bool(self._nc.is_connected)

    @property
    def server_version(self) -> tuple[int, int]:
        """Return the server's major and minor version."""
        version = self._nc.connected_server_version
        return version.major, version.minor

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Publish."""
        try:
            await self._nc.publish(subject, data, reply=reply, headers=headers)
        except NatsError as err:
            raise WireError(repr(err)) from err

    async def request(
        self,
        subject: str,
        data: bytes,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Publish and return the first answer. Raises: TimeoutError, NoRespondersError, WireError."""
        try:
            return _as_msg(
                await self._nc.request(subject, data, timeout=timeout_s, headers=headers)
            )
        except LibraryNoRespondersError as err:
            raise NoRespondersError(f"nobody listens on {subject}") from err
        except TimeoutError:
            raise
        except NatsError as err:
            raise WireError(repr(err)) from err

    async def subscribe(self, subject: str, queue: str = "", cb: Callback | None = None) -> Any:
        """Hear a subject (in a queue group)."""
        if cb is None:
            raise TypeError("a subscription takes a callback")
        callback = cb

        async def on_message(message: Any) -> None:
            await callback(_as_msg(message))

        return await self._nc.subscribe(
            subject,
            queue=queue,
            cb=on_message,
            pending_msgs_limit=-1,
            pending_bytes_limit=PENDING_BYTES_MAX,
        )

    async def flush(self) -> None:
        """Return when the broker has read everything written so far."""
        await self._nc.flush()

    def new_inbox(self) -> str:
        """Return a subject that only we may hear."""
        return str(self._nc.new_inbox())

    async def close(self) -> None:
        """Close for good. Not drain(): it can wait half a minute for an expired pull's status."""
        await self._nc.close()


class _LibraryMsg(Msg):
    __slots__ = ("_found",)

    def __init__(self, subject: str, reply: str, data: bytes, found: dict[str, str] | None) -> None:
        super().__init__(subject, reply, data, b"")
        self._found = found

    @property
    def headers(self) -> dict[str, str] | None:
        return self._found


def _as_msg(message: Any) -> Msg:
    return _LibraryMsg(message.subject, message.reply, message.data, message.headers)
