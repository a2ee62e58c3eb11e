"""Who reads the worker's socket: the main thread while it has nothing to run, a stand-in while it has.

User code belongs into the main thread, and a cancel must be heard while it runs; so a second thread reads. But
to hand each input from thread to thread costs a good part of a short call. So the main thread reads for itself
when it is idle, and the stand-in takes the turn only when an input has run for a tick or two. The stand-in looks
TICK_S apart while inputs come, and sleeps for good, at no cost, once none has come for REST_AFTER_S.

The idea is the leader/followers pattern (Schmidt et al., 2000), with a leader that keeps its place.
"""

from __future__ import annotations

import _thread
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from glowplug.runner.channel import Channel
    from glowplug.runner.frames import Header

TICK_S = 0.005
REST_AFTER_S = 0.5


class Turns:
    """See the module. `take` handles one frame; it is called by whoever has the turn."""

    def __init__(self, channel: Channel, take: Callable[[Header, bytes], None]) -> None:
        self._channel = channel
        self._take = take
        self._turn = _thread.allocate_lock()
        self._turn.acquire()  # the stand-in's, until the main thread asks for it
        self._wanted = False
        self._ring, self._bell = _bell()
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._poll.register(self._ring, select.POLLIN)
        self._running_since = 0.0
        self._ended_at = 0.0
        self._resting = False
        self._wake = _thread.allocate_lock()
        self._wake.acquire()

    # -- the main thread ------------------------------------------------------------------------

    def read(self, waiting: Callable[[], bool]) -> None:
        """Read once and take what came; return at once if something is `waiting` meanwhile."""
        self._get_turn()
        try:
            if not waiting():
                received = self._channel.receive_available()
                if received is None:
                    os._exit(0)
                for header, body in received:
                    self._take(header, body)
        except Exception as error:  # noqa: BLE001 - as in `stand_in`
            _give_up(error)
        finally:
            self._turn.release()

    def look(self) -> None:
        """Take what has come already: a cancel must be heard before what it cancels begins."""
        self._get_turn()
        try:
            self._take_what_is_there(self._poll.poll(0))
        except Exception as error:  # noqa: BLE001 - as in `stand_in`
            _give_up(error)
        finally:
            self._turn.release()

    def _get_turn(self) -> None:
        if not self._turn.acquire(False):  # noqa: FBT003 - positional only
            self._wanted = True
            os.write(self._bell, b"!")
            self._turn.acquire()
            self._wanted = False

    def begin(self) -> None:
        """The main thread runs an input from now on."""
        self._running_since = time.monotonic()
        if self._resting:
            self._resting = False
            if self._wake.locked():
                self._wake.release()

    def end(self) -> None:
        """It has ended."""
        self._running_since = 0.0
        self._ended_at = time.monotonic()

    # -- the stand-in ---------------------------------------------------------------------------

    def stand_in(self) -> None:
        """Read whenever the main thread does not; never returns."""
        try:
            while True:
                self._read_until_wanted()
                self._turn.release()
                self._await_need()
        except BaseException as error:  # noqa: BLE001 - a broken reader must not leave a deaf process
            _give_up(error)

    def _read_until_wanted(self) -> None:
        while not self._wanted:
            self._take_what_is_there(self._poll.poll())

    def _take_what_is_there(self, polled: list[tuple[int, int]]) -> None:
        ready = [fd for fd, _ in polled]
        if self._ring in ready:
            os.read(self._ring, 64)
        if self._channel.fileno() in ready:
            received = self._channel.receive_available()
            if received is None:
                os._exit(0)
            for header, body in received:
                self._take(header, body)

    def _await_need(self) -> None:
        """Return with the turn, once an input has run for a tick."""
        while True:
            since = self._running_since
            if not since and time.monotonic() - self._ended_at > REST_AFTER_S:
                self._resting = True
                if not self._running_since:  # else it began before it could see that we rest
                    self._wake.acquire()
                self._resting = False
            time.sleep(TICK_S)
            if since and since == self._running_since and self._turn.acquire(False):  # noqa: FBT003
                return


def _bell() -> tuple[int, int]:
    """Return a pipe's ends, neither of which a child process gets."""
    reading, writing = os.pipe()
    return reading, writing


def _give_up(error: BaseException) -> None:
    os.write(2, f"runner: {type(error).__name__}: {error}\n".encode())
    os._exit(70)
