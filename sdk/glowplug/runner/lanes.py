"""Where sync functions run: in the main thread one at a time, or in some threads.

A lane takes invocations from whoever reads (`put`), runs them in the order they came, at most
`concurrency` at once, and returns from `run` when it was told to `stop` and everything taken has ended.
`lane_async.py` is the lane of async functions.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import time
from _contextvars import ContextVar
from _queue import SimpleQueue

from glowplug.runner.invocation import CancelledError, Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from glowplug.runner.call import Caller
    from glowplug.runner.turns import Turns

# Which input the code that runs now belongs to; tasks inherit it, the user's own threads do not.
CURRENT: ContextVar[Invocation | None] = ContextVar("glowplug_invocation", default=None)
GENERATOR = type(_ for _ in ())

if TYPE_CHECKING:
    from typing import Protocol

    class Lane(Protocol):
        """What all lanes offer to the reading thread."""

        def put(self, invocation: Invocation) -> None:
            """Queue an input (from whoever reads)."""

        def stop(self) -> None:
            """End once everything queued before has run (from whoever reads)."""

        def run(self) -> None:
            """Run until stopped (in the main thread)."""


class MainLane:
    """One at a time, in the main thread: signals work there and some libraries want it."""

    def __init__(self, caller: Caller, ended: Callable[[Invocation], None], turns: Turns) -> None:
        self._caller = caller
        self._ended = ended
        self._turns = turns
        self._waiting: SimpleQueue[Invocation | None] = SimpleQueue()
        self._running: Invocation | None = None
        self._main = _thread.get_ident()
        _signal.signal(_signal.SIGINT, self._on_interrupt)

    def put(self, invocation: Invocation) -> None:
        """Queue an input."""
        self._waiting.put(invocation)

    def stop(self) -> None:
        """End once everything queued before has run."""
        self._waiting.put(None)

    def run(self) -> None:
        """Run until stopped; read what comes while there is nothing to run."""
        waiting, turns = self._waiting, self._turns
        while True:
            while waiting.empty():
                turns.read(lambda: not waiting.empty())
            turns.look()
            invocation = waiting.get()
            if invocation is None:
                return
            turns.begin()
            invocation.interrupt = self._interrupt
            self._running = invocation
            run_input(self._caller, invocation)
            self._running = None
            turns.end()
            self._ended(invocation)

    def _interrupt(self) -> None:
        # A signal, because it also wakes a blocking system call; the handler decides.
        _signal.pthread_kill(self._main, _signal.SIGINT)

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        running = self._running
        if running is None or not running.cancelled or not running.stoppable:
            return
        running.stoppable = False  # once is enough; clean-up code must be left alone
        interrupt = CancelledError()
        if not self._caller.channel.hold_interrupt(interrupt):
            raise interrupt


class ThreadLane:
    """Several at once, each in a thread of its own; threads appear as work does."""

    def __init__(
        self, caller: Caller, ended: Callable[[Invocation], None], concurrency: int
    ) -> None:
        import threading  # noqa: PLC0415 - 4 ms, only for concurrency > 1

        self._threading = threading
        self._caller = caller
        self._ended = ended
        self._waiting: SimpleQueue[Invocation | None] = SimpleQueue()
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unserved = 0
        self._stopped = threading.Event()

    def put(self, invocation: Invocation) -> None:
        """Queue an input; a thread is started if none is free and one more is allowed."""
        with self._lock:
            self._unserved += 1
            if self._unserved > len(self._threads) < self._concurrency:
                name = f"invocation-{len(self._threads)}"
                thread = self._threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._waiting.put(invocation)

    def stop(self) -> None:
        """End once everything queued before has run."""
        self._stopped.set()

    def run(self) -> None:
        """Wait in the main thread until stopped."""
        self._stopped.wait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        ident = _thread.get_ident()
        while (invocation := self._waiting.get()) is not None:
            invocation.interrupt = lambda taken=invocation: self._raise_in(ident, taken)
            run_input(self._caller, invocation)
            with self._lock:
                self._unserved -= 1
            self._ended(invocation)

    def _raise_in(self, ident: int, invocation: Invocation) -> None:
        """Raise in a thread; it notices at its next Python instruction, not inside C code."""
        import ctypes  # noqa: PLC0415 - 10 ms, only for a cancellation

        if invocation.stoppable:
            invocation.stoppable = False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(CancelledError)
            )


def run_input(caller: Caller, invocation: Invocation) -> None:
    """Run one input in this thread and report how it ended, whatever happens."""
    started = time.perf_counter()
    token = CURRENT.set(invocation)
    try:
        _run_and_report(caller, invocation, started)
    except CancelledError as late:
        # It hit between the end of the user's code and `stoppable = False`.
        if not invocation.reported:
            caller.fail(invocation, late, started)
    finally:
        CURRENT.reset(token)


def _run_and_report(caller: Caller, invocation: Invocation, started: float) -> None:
    # `stoppable` brackets the user's code alone: an interrupt outside of it would lose the report.
    items = 0
    try:
        invocation.begin()
        value = caller.call(invocation)
        if type(value) is GENERATOR:
            value, items = _exhaust(caller, invocation, value)
        elif hasattr(value, "__await__") or hasattr(value, "__aiter__"):
            value, items = _run_hidden_async(caller, invocation, value)
        invocation.stoppable = False
    except BaseException as error:  # noqa: BLE001 - SystemExit and interrupts are the user's, too
        invocation.stoppable = False
        caller.fail(invocation, error, started)
    else:
        caller.succeed(invocation, value, started, items)


def _exhaust(caller: Caller, invocation: Invocation, generator: Any) -> tuple[object, int]:
    """Send a generator's items as credit allows; unstreamed, its result is the list of them."""
    if not invocation.stream:
        kept = list(generator)
        return kept, len(kept)
    number = 0
    try:
        for item in generator:
            invocation.wait_for_credit(number)
            caller.send_item(invocation, number, item)
            number += 1
    finally:
        generator.close()
    return None, number


def _run_hidden_async(caller: Caller, invocation: Invocation, value: object) -> tuple[object, int]:
    """Run what a sync wrapper returned instead of a value: it wrapped an async function."""
    import asyncio  # noqa: PLC0415 - 30 to 75 ms

    from glowplug.runner.lane_async import finish_async  # noqa: PLC0415 - imports asyncio

    return asyncio.run(finish_async(caller, invocation, value))
