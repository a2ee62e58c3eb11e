"""Requests from inside a container: what `glowplug.client.http.Http` is outside, through the runner's door.

Belongs to the background loop. The worker forwards each request once; an answer of 503 (no gateway, or a
connection that broke) is tried again here with the same ids, as a program outside does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from glowplug.client.answers import Answer, BrokenAnswerError, BusyError, json_lines, refusal_of
from glowplug.errors import GlowplugError, NotYetSupportedError, UnavailableError
from glowplug.inside.values import StreamItem, stream_item
from glowplug.runner import door as runner_door
from glowplug.runner.frames import ANSWER_CREDIT

T = TypeVar("T")
PATIENCE_S = 30.0
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0
REFUSED = 400
# Larger bodies are sent in a thread: the socket takes them as fast as the worker reads.
SEND_HERE_BYTES = 64 * 1024


class Headers(Mapping[str, str]):
    """An answer's headers; names in any case."""

    def __init__(self, found: Mapping[str, str]) -> None:
        self._found = {name.lower(): value for name, value in found.items()}

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class DoorResponse:
    """An answer whose body comes piece by piece; taking pieces lets more come."""

    def __init__(self, door: runner_door.Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()
        self._ask_id = 0
        self._taken = 0
        self._granted = ANSWER_CREDIT
        self._ended = False
        self._first: tuple[dict[str, Any], bytes] | None = None
        self.status = 0
        self.headers: Headers = Headers({})

    @property
    def content(self) -> DoorResponse:
        """The body."""
        return self

    async def begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send the request and wait for the head of its answer."""
        if len(body) > SEND_HERE_BYTES:
            # The context goes along: it knows whose code asks.
            self._ask_id = await asyncio.to_thread(
                self._door.ask, method, path, headers, body, self._on_frame
            )
        else:
            self._ask_id = self._door.ask(method, path, headers, body, self._on_frame)
        first = await self._frames.get()
        header = first[0]
        self._first = first
        if header.get("failed"):
            raise BrokenAnswerError(str(header["failed"]))
        self.status = int(header.get("status", 0))
        self.headers = Headers(header.get("headers") or {})

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they come. Raises: BrokenAnswerError."""
        while not self._ended:
            header, piece = self._first or await self._frames.get()
            self._first = None
            if header.get("failed"):
                self._ended = True
                raise BrokenAnswerError(str(header["failed"]))
            self._ended = not header.get("more")
            self._taken += len(piece)
            if not self._ended and self._granted - self._taken <= ANSWER_CREDIT // 2:
                self._granted = self._taken + ANSWER_CREDIT
                self._door.grant(self._ask_id, self._granted)
            if piece:
                yield piece

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([piece async for piece in self.iter_any()])

    def close(self) -> None:
        """Let the worker know that nobody reads on."""
        if not self._ended and self._ask_id:
            self._door.drop(self._ask_id)

    def _on_frame(self, header: dict[str, Any], piece: bytes) -> None:
        self._loop.call_soon_threadsafe(self._frames.put_nowait, (header, piece))


class DoorHttp:
    """See the module. The same methods as `Http` has; there is one gateway, called ""."""

    reads = "application/json"
    has_blobs = False
    transport_errors = (ConnectionError, TimeoutError, OSError)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        patience_s: float = PATIENCE_S,
        repeat: bool = True,
        fine: tuple[int, ...] = (),
    ) -> Answer:
        """Send it, and return the whole answer.

        Raises: the exception for the platform's error, unless the status is one of `fine`.
        """

        async def once(_url: str) -> Answer:
            async with _asking(method, path, body, headers, params) as response:
                answer = Answer(response.status, response.headers, await response.read())
            if answer.status >= REFUSED and answer.status not in fine:
                raise refusal_of(answer)
            return answer

        return await self.retrying(once, patience_s=patience_s, repeat=repeat)

    async def request_json(self, method: str, path: str, value: Any = None, **options: Any) -> Any:
        """Send JSON (if there is any) and return the answer's JSON."""
        if value is not None:
            options["body"] = json.dumps(value).encode()
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        answer = await self.request(method, path, **options)
        return answer.json() if answer.body else None

    @asynccontextmanager
    async def open_stream(
        self,
        _url: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        params: Any = None,
    ) -> AsyncIterator[DoorResponse]:
        """Send it once; yield the answer whose body is still to come."""
        async with _asking(method, path, body, headers, params) as response:
            if response.status >= REFUSED:
                answer = Answer(response.status, response.headers, await response.read())
                raise refusal_of(answer)
            yield response

    async def retrying(
        self,
        once: Callable[[str], Awaitable[T]],
        *,
        patience_s: float = PATIENCE_S,
        repeat: bool = True,
    ) -> T:
        """Call `once` until it works or patience ends. Raises: UnavailableError."""
        clock = asyncio.get_running_loop().time
        since, pause = clock(), PAUSE_S
        while True:
            try:
                return await once("")
            except BusyError as busy:
                problem: GlowplugError = busy.error
            except BrokenAnswerError as err:
                problem = UnavailableError(str(err))
            if not repeat or clock() + pause - since > patience_s:
                raise problem
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)

    async def items(self, response: DoorResponse) -> AsyncIterator[StreamItem]:
        """Yield the items of a streamed call's answer."""
        async for line in json_lines(response):
            yield stream_item(line)


def open_door() -> runner_door.Door:
    """Return this process's door. Raises: NotYetSupportedError where nothing may be asked."""
    door = runner_door.this_door()
    if door is None:
        raise NotYetSupportedError(
            "the platform is not reached from here: sandboxes and forked processes have no way to it. "
            "Call from the function's own process. If this is the program's start, put it under "
            '`if __name__ == "__main__":`'
        )
    if door.importing:
        raise NotYetSupportedError(
            "the platform can't be reached while a container imports this file. If this is the "
            'program\'s start, put it under `if __name__ == "__main__":`; what each container needs at '
            "its start belongs into on_start"
        )
    return door


@asynccontextmanager
async def _asking(
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None,
) -> AsyncIterator[DoorResponse]:
    door = open_door()
    target = quote(path, safe="/%:@!$&'()*+,;=~?")
    if params:
        target += ("&" if "?" in target else "?") + urlencode(params)
    response = DoorResponse(door)
    try:
        await response.begin(method, target, headers or {}, body)
        yield response
    finally:
        response.close()
