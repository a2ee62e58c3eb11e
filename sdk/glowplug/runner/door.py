"""The way out of a container: requests to the platform, as frames over the worker's socket.

There is no address and no token in here. What may be asked, and for whom, the worker decides; this end
only numbers the requests and hands each piece of an answer to who waits for it. `glowplug.inside` stands
on it.
"""

from __future__ import annotations

import _thread
import os

from glowplug.runner import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from glowplug.runner.channel import Channel

    # Called in the reading thread with each frame of an answer; must neither wait nor raise.
    OnFrame = Callable[[frames.Header, bytes], None]


class AskTooLargeError(ValueError):
    """A request whose body is larger than the door takes."""


class Door:
    """One process's requests.

    Attributes:
        deployment_id: of the function that runs here.
        importing: the user's module is being imported: a call made by that alone would have the container
            start itself again and again, so that nothing may be asked yet.
    """

    def __init__(self, channel: Channel, current: Callable[[], str], deployment_id: str) -> None:
        self.deployment_id = deployment_id
        self.importing = True
        self._channel = channel
        self._current = current
        self._lock = _thread.allocate_lock()
        self._waiting: dict[int, OnFrame] = {}
        self._last = 0
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        """False in a forked child, which has no part in the socket."""
        return self._pid == os.getpid()

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        on_frame: OnFrame,
    ) -> int:
        """Send a request; return its number. Waits as long as the worker does not read.

        Raises: AskTooLargeError.
        """
        if len(body) > frames.ASK_BYTES_MAX:
            raise AskTooLargeError(
                f"{len(body)} bytes; at most {frames.ASK_BYTES_MAX} leave a container at once. Return "
                "large data as the function's result, or write it to a volume"
            )
        with self._lock:
            self._last += 1
            ask_id = self._last
            self._waiting[ask_id] = on_frame
        header: frames.Header = {
            "type": "ask",
            "ask_id": ask_id,
            "method": method,
            "path": path,
            "headers": dict(headers),
            "id": self._current(),
        }
        try:
            self._channel.send(header, body)
        except BaseException:
            self._forget(ask_id)
            raise
        return ask_id

    def grant(self, ask_id: int, until: int) -> None:
        """Let so many bytes of the answer come."""
        if ask_id in self._waiting:
            self._channel.send({"type": "ask_credit", "ask_id": ask_id, "until": until})

    def drop(self, ask_id: int) -> None:
        """Wait no more; nothing happens if the answer is here already."""
        if self._forget(ask_id) and self.here:
            self._channel.send({"type": "ask_drop", "ask_id": ask_id})

    def take(self, header: frames.Header, body: bytes) -> None:
        """Hand on a piece of an answer (from the reading thread)."""
        ask_id = int(header["ask_id"])
        on_frame = self._waiting.get(ask_id)
        if not header.get("more"):
            self._forget(ask_id)
        if on_frame is not None:
            on_frame(header, body)

    def _forget(self, ask_id: int) -> bool:
        with self._lock:
            return self._waiting.pop(ask_id, None) is not None


_door: list[Door] = []


def open_door(channel: Channel, current: Callable[[], str], deployment_id: str) -> None:
    """Open this process's door; `current` names the invocation whose code runs."""
    _door[:] = [Door(channel, current, deployment_id)]


def imported() -> None:
    """The user's module is imported; from now on it may ask."""
    _door[0].importing = False


def take_answer(header: frames.Header, body: bytes) -> None:
    """Hand a frame of an answer to who waits for it."""
    _door[0].take(header, body)


def this_door() -> Door | None:
    """Return this process's door; None where there is none, as in a sandbox or a forked child."""
    return _door[0] if _door and _door[0].here else None
