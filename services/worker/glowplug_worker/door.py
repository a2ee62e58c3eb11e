"""The door of a container: carries what its code asks to a gateway, and the answers back, piece by piece.

The worker vouches for who asks: workspace, container, deployment and invocation go in headers beside the
internal token, which never enters the container. What may be asked, and how much at once, is `asks.py`'s.
A request is never sent twice here: where a connection breaks, the runner hears 503 and decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import structlog
import yarl
from glowplug_contracts.inside import (
    INSIDE_CONTAINER,
    INSIDE_DEPLOYMENT,
    INSIDE_PARENT,
    INSIDE_WORKSPACE,
)
from glowplug_contracts.messages.http import HEADER_TRACE

from glowplug_worker.asks import Asks, Refuse
from glowplug_worker.frames import Answer, Ask, AskCredit, AskDrop, ToRunner

log = structlog.get_logger()

CONNECT_S: Final = 5.0
CONNECTIONS_MAX: Final = 256
PIECE_BYTES: Final = 128 * 1024
UNAVAILABLE: Final = 503
_TOLD: Final = frozenset({"content-type", "retry-after", "etag", "traceparent"})
_TOLD_PREFIX: Final = "glowplug-"


class Gateways(Protocol):
    """Where requests go."""

    def urls(self) -> Sequence[str]:
        """Return the URLs of the gateways that are ready."""

    def session(self) -> aiohttp.ClientSession | None:
        """Return the connections, which show the internal token; None where there is no gateway."""


class NoGateways:
    """For workers of which nobody may ask anything."""

    def urls(self) -> Sequence[str]:
        """Return none."""
        return ()

    def session(self) -> aiohttp.ClientSession | None:
        """Return none."""
        return None


class PeerGateways:
    """The gateways that the worker hears of."""

    def __init__(self, session: aiohttp.ClientSession, urls: Callable[[], Sequence[str]]) -> None:
        self._session = session
        self._urls = urls
        self._turn = 0

    def urls(self) -> Sequence[str]:
        """Return them, beginning with another one each time."""
        found = list(self._urls())
        self._turn += 1
        at = self._turn % len(found) if found else 0
        return found[at:] + found[:at]

    def session(self) -> aiohttp.ClientSession | None:
        """Return the connections."""
        return self._session


@contextlib.asynccontextmanager
async def open_gateways(
    internal_token: str, urls: Callable[[], Sequence[str]]
) -> AsyncIterator[PeerGateways]:
    """Yield the way to the gateways."""
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {internal_token}", "User-Agent": "glowplug-worker"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        yield PeerGateways(session, urls)


class Asker(Protocol):
    """The container, as its door needs it."""

    def who_asks(self, process: int, invocation_id: str) -> tuple[dict[str, str], str]:
        """Return the headers that say who asks, and the traceparent to go on with."""

    def send(self, process: int, header: ToRunner, body: bytes = b"") -> None:
        """Send to a runner process."""


class ContainerDoor:
    """One container's requests. Everything here runs in the worker's loop."""

    def __init__(
        self,
        asker: Asker,
        gateways: Gateways,
        spawn: Callable[[Any, str], asyncio.Task[None]],
    ) -> None:
        self._asker = asker
        self._gateways = gateways
        self._spawn = spawn
        self._asks = Asks()
        self._running: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._grown: dict[tuple[int, int], asyncio.Event] = {}

    def on_ask(self, process: int, ask: Ask, body: bytes) -> None:
        """Take a request. Raises: FrameError."""
        judged = self._asks.take(process, ask, len(body))
        if isinstance(judged, Refuse):
            self._refuse(process, ask.ask_id, judged.status, judged.code, judged.message)
            return
        trusted, trace = self._asker.who_asks(process, ask.id)
        headers = {**judged.headers, **trusted}
        if trace:
            headers[HEADER_TRACE] = trace
        key = (process, ask.ask_id)
        self._grown[key] = asyncio.Event()
        task = self._spawn(self._forward(process, ask, headers, body), "forward a request")
        self._running[key] = task
        task.add_done_callback(lambda _: self._ended(key))

    def on_credit(self, process: int, credit: AskCredit) -> None:
        """The runner has taken some of an answer."""
        self._asks.grant(process, credit.ask_id, credit.until)
        if (grown := self._grown.get((process, credit.ask_id))) is not None:
            grown.set()

    def on_drop(self, process: int, drop: AskDrop) -> None:
        """Nobody waits for an answer any more."""
        if (task := self._running.get((process, drop.ask_id))) is not None:
            task.cancel()

    def close(self) -> None:
        """The container has ended: nobody waits for anything."""
        for task in list(self._running.values()):
            task.cancel()

    def _ended(self, key: tuple[int, int]) -> None:
        self._running.pop(key, None)
        self._grown.pop(key, None)
        self._asks.end(*key)

    def _refuse(self, process: int, ask_id: int, status: int, code: str, message: str) -> None:
        error: dict[str, object] = {
            "code": code,
            "message": message,
            "details": {},
            "retry_after_s": None,
        }
        headers = {"content-type": "application/json"}
        header = Answer(ask_id=ask_id, status=status, headers=headers)
        self._asker.send(process, header, msgspec.json.encode({"error": error}))

    async def _forward(self, process: int, ask: Ask, headers: dict[str, str], body: bytes) -> None:
        session, why = self._gateways.session(), "no gateway is ready"
        for url in self._gateways.urls() if session is not None else ():
            assert session is not None  # noqa: S101
            began = False
            try:
                async with session.request(
                    ask.method,
                    yarl.URL(url + ask.path, encoded=True),
                    # In pieces: one large write would hold up the event loop.
                    data=io.BytesIO(body) if body else None,
                    headers=headers,
                    allow_redirects=False,
                ) as response:
                    began = True
                    await self._answer(process, ask.ask_id, response)
                    return
            except aiohttp.ClientConnectorError as error:
                why = f"{url}: {error}"  # nothing was sent: the next one may take it
            except (aiohttp.ClientError, OSError) as error:
                why = f"the connection to the gateway broke: {error}"
                if began:
                    self._asker.send(process, Answer(ask_id=ask.ask_id, failed=why))
                    return
                break
        self._refuse(process, ask.ask_id, UNAVAILABLE, "platform.unavailable", why)

    async def _answer(self, process: int, ask_id: int, response: aiohttp.ClientResponse) -> None:
        told = {
            name.lower(): value
            for name, value in response.headers.items()
            if name.lower() in _TOLD or name.lower().startswith(_TOLD_PREFIX)
        }
        header = Answer(ask_id=ask_id, status=response.status, headers=told, more=True)
        grown = self._grown[process, ask_id]
        async for data in response.content.iter_any():
            at = 0
            while at < len(data):
                room = self._asks.sendable(process, ask_id)
                if room == 0:
                    grown.clear()
                    await grown.wait()
                    continue
                piece = data[at : at + min(room, PIECE_BYTES)]
                self._asks.sent(process, ask_id, len(piece))
                self._asker.send(process, header, piece)
                header = Answer(ask_id=ask_id, more=True)
                at += len(piece)
        last = msgspec.structs.replace(header, more=False)
        self._asker.send(process, last)


def trusted_headers(
    *, workspace: str, container_id: str, deployment_id: str, parent: str
) -> dict[str, str]:
    """Return the headers by which the gateway knows who asks."""
    headers = {
        INSIDE_WORKSPACE: workspace,
        INSIDE_CONTAINER: container_id,
        INSIDE_DEPLOYMENT: deployment_id,
    }
    if parent:
        headers[INSIDE_PARENT] = parent
    return headers
