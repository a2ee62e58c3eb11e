"""A process that takes orders: packets of JSON with descriptors, each answered by its id."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from glowplug_contracts.errors import UnavailableError

ANSWER_BYTES_MAX: Final = 1 << 16
# Orders take milliseconds; one that fetches says how long it may take.
ANSWER_S: Final = 20.0


class Channel:
    """See the module. Used in one event loop.

    Args:
        what: the process' name, for errors.
        silent: it prints nothing, and does not hold up who waits for the end of our output.
        gone: is called once when it ended by itself.
        news: takes what it says without being asked.
    """

    def __init__(
        self,
        what: str,
        argv: Sequence[str],
        *,
        keeps: Sequence[int] = (),
        silent: bool = False,
        gone: Callable[[], None],
        news: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        """Start the process: `argv` and "--control N", with the descriptors that it keeps. Raises: OSError."""
        self.what, self._gone, self._news = what, gone, news
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*argv, "--control", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *keeps),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if silent else None,
                env={},
                start_new_session=True,
            )
        self._control.setblocking(False)  # noqa: FBT003 - positional only
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._control.fileno(), self._on_packet)
        self.over = False

    async def order(
        self,
        kind: str,
        words: Mapping[str, object],
        fds: Sequence[int] = (),
        within_s: float = ANSWER_S,
    ) -> dict[str, Any]:
        """Give an order; return its answer, which may have an "error".

        Raises: UnavailableError if the process is gone, or does not answer.
        """
        number = next(self._ids)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        packet = json.dumps({"id": number, "order": kind, **words}).encode()
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[number] = answer
        try:
            self._control.sendmsg([packet], rights)
            async with asyncio.timeout(within_s):
                return await answer
        except (OSError, TimeoutError) as error:
            why = f"the {self.what} of image mounts does not answer ({kind})"
            raise UnavailableError("platform.unavailable", why) from error
        finally:
            self._waiting.pop(number, None)

    def _on_packet(self) -> None:
        try:
            data = self._control.recv(ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            self._gone()
            return
        said = json.loads(data)
        if "id" not in said:
            self._news(said)
            return
        answer = self._waiting.pop(said["id"], None)
        if answer is not None and not answer.done():
            answer.set_result(said)

    def _end(self) -> None:
        self.over = True
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for answer in self._waiting.values():
            if not answer.done():
                why = f"the {self.what} of image mounts has ended"
                answer.set_exception(UnavailableError("platform.unavailable", why))
        self._waiting.clear()

    def hang_up(self) -> None:
        """Let it end in its own time. May be repeated."""
        if not self.over:
            self._end()

    def reap(self, within_s: float | None = None) -> bool:
        """Wait for its end; return whether it came. Blocks."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        return self.process.returncode is not None

    def disown(self) -> None:
        """Leave it running: it ends by itself, after us."""
        self.process.returncode = 0  # or there would be a warning that it runs
