"""Function mode: import the user's code, say ready, run what the worker sends until it says stop.

Whoever has the turn to read (`turns.py`) turns frames into invocations; a lane runs them. When the worker's end of
the socket closes, the process ends at once: nobody is left to hear a result.
"""

from __future__ import annotations

import _thread
import os
import time

from glowplug.runner import door, exits, failures, loading, signature
from glowplug.runner.call import Caller
from glowplug.runner.capture import WAIT_S, Capture
from glowplug.runner.invocation import Invocation
from glowplug.runner.lanes import CURRENT, MainLane, ThreadLane
from glowplug.runner.turns import Turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from glowplug.runner.channel import Channel
    from glowplug.runner.frames import Header
    from glowplug.runner.lanes import Lane

NOBODY = ("", 0)


class Loaded:
    """What importing brought; made in this process, or in the template from which it was forked."""

    def __init__(
        self,
        function: Callable[..., object],
        on_start: Callable[..., Any] | None,
        on_exit: Callable[..., Any] | None,
        import_s: float,
    ) -> None:
        self.function = function
        self.on_start = on_start
        self.on_exit = on_exit
        self.phases = {"import_s": round(import_s, 6)}
        self.capture: Capture | None = None
        self.started = False
        self.value: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Run on_start, if it has not run in the template already."""
        if self.started:
            return
        self.started = True
        if any(signature.is_async(one) for one in (self.function, self.on_start) if one):
            import asyncio  # noqa: PLC0415 - 30 to 75 ms, only for async functions

            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        began = time.perf_counter()
        if self.on_start is not None:
            self.value = self.on_start()
            if self.loop is not None and hasattr(self.value, "__await__"):
                self.value = self.loop.run_until_complete(self.value)
        self.phases["on_start_s"] = round(time.perf_counter() - began, 6)


def serve_function(channel: Channel, init: Header, loaded: Loaded | None = None) -> int:
    """Run a function's process from `init` to `bye`; return its exit code."""
    blobs = receive_blobs(channel, init)
    desk = Desk(channel)
    door.open_door(channel, current_invocation, str(init.get("deployment_id") or ""))
    turns = Turns(channel, desk.take)
    capture = (loaded.capture if loaded is not None else None) or Capture()
    capture.start(desk.emit_log, desk.owner, channel.busy)
    os.register_at_fork(after_in_child=channel.close)
    _thread.start_new_thread(turns.stand_in, ())
    try:
        if loaded is None:
            loaded = import_all(init, blobs)
        door.imported()
        loaded.start()
        caller = Caller(channel, capture, loaded.function, loaded.value, init)
        caller.on_exit, caller.phases = loaded.on_exit, loaded.phases
        loop = loaded.loop
    except BaseException as error:  # noqa: BLE001 - SystemExit at import is a failed start, too
        capture.finish(NOBODY)
        report = failures.remote_error(
            error, "function.start_failed", source=str(init.get("source") or "")
        )
        channel.send({"type": "start_failed", "error": report})
        return 1
    concurrency = max(1, int(init.get("concurrency", 1)))
    lane: Lane
    if loop is not None and signature.is_async(caller.function):
        from glowplug.runner.lane_async import AsyncLane  # noqa: PLC0415 - imports asyncio

        lane = AsyncLane(caller, desk.ended, concurrency, loop)
    elif concurrency > 1:
        lane = ThreadLane(caller, desk.ended, concurrency)
    else:
        lane = MainLane(caller, desk.ended, turns)
    capture.finish(NOBODY)
    desk.open(lane)
    channel.send({"type": "ready", "phases": caller.phases})
    lane.run()
    exits.leave(caller.on_exit, caller.on_start_value, loop)
    capture.finish(NOBODY)
    channel.send({"type": "bye"})
    return 0


def current_invocation() -> str:
    """Return the invocation whose code runs here, "" where it is none's."""
    current = CURRENT.get()
    return current.id if current is not None else ""


def receive_blobs(channel: Channel, init: Header) -> dict[str, bytes]:
    """Return the pickles that `init` announced."""
    blobs: dict[str, bytes] = {}
    for name in ("pickled", "on_start_pickled", "on_exit_pickled"):
        if not init.get(name):
            continue
        pieces = []
        more = True
        while more:
            frame = channel.receive()
            if frame is None:
                os._exit(0)
            pieces.append(frame[1])
            more = bool(frame[0].get("more"))
        blobs[name] = b"".join(pieces)
    return blobs


def import_all(init: Header, blobs: dict[str, bytes]) -> Loaded:
    """Import the function and its hooks, or take them from their pickles."""
    loading.prepare_paths(
        str(init.get("source") or ""),
        str(init.get("layer") or ""),
        site=bool(init.get("site")),
    )
    loading.show_info_logs()
    began = time.perf_counter()
    function = loading.load_function(str(init.get("handler") or ""), blobs.get("pickled", b""))
    on_start, on_exit = (_hook(name, init, blobs) for name in ("on_start", "on_exit"))
    return Loaded(function, on_start, on_exit, time.perf_counter() - began)


def _hook(name: str, init: Header, blobs: dict[str, bytes]) -> Callable[..., Any] | None:
    handler, pickled = str(init.get(name) or ""), blobs.get(f"{name}_pickled", b"")
    return loading.load_function(handler, pickled) if handler or pickled else None


class Desk:
    """What whoever reads knows: which inputs are here, and where they go."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lane: Lane | None = None
        self._known: dict[tuple[str, int], Invocation] = {}
        self._early: list[Invocation] = []
        self._pieces: dict[tuple[str, int], list[bytes]] = {}
        self._lock = _thread.allocate_lock()
        self._stopping = False

    def open(self, lane: Lane) -> None:
        """Send inputs to `lane` from now on, first those that came before it was there."""
        with self._lock:
            self._lane = lane
            for invocation in self._early:
                lane.put(invocation)
            self._early.clear()

    def owner(self) -> tuple[str, int]:
        """Return whose output this is: by context, else the only input there is, else nobody's."""
        current = CURRENT.get()
        if current is not None:
            return current.key
        known = list(self._known)
        return known[0] if len(known) == 1 and self._lane is not None else NOBODY

    def emit_log(self, stream: str, owner: Any, at: float, data: bytes, dropped: int) -> bool:
        """Send output as a frame; False if the worker does not take it."""
        header: Header = {"type": "log", "stream": stream, "id": owner[0], "at": at}
        if owner[1]:
            header["index"] = owner[1]
        if dropped:
            header["dropped"] = dropped
        return self._channel.send_unless_congested(header, data, WAIT_S)

    def ended(self, invocation: Invocation) -> None:
        """Forget an input whose result is out."""
        with self._lock:
            self._known.pop(invocation.key, None)

    def take(self, header: Header, body: bytes) -> None:
        """Take one frame. Raises: ValueError for one that may not come."""
        kind = header["type"]
        if kind == "run":
            self._take_run(header, body)
        elif kind == "cancel":
            for invocation in self._with_id(str(header["id"])):
                invocation.cancel()
        elif kind == "credit":
            for invocation in self._with_id(str(header["id"])):
                if invocation.index == header.get("index", 0):
                    invocation.grant(int(header["until"]))
        elif kind == "answer":
            door.take_answer(header, body)
        elif kind == "stop":
            self._stop(float(header.get("grace_s", 0)))
        else:
            raise ValueError(f"unexpected frame {kind!r}")

    def _take_run(self, header: Header, body: bytes) -> None:
        key = (str(header["id"]), int(header.get("index", 0)))
        if header.get("more"):
            self._pieces.setdefault(key, []).append(body)
            return
        pieces = self._pieces.pop(key, None)
        invocation = Invocation(header, b"".join([*pieces, body]) if pieces else body)
        with self._lock:
            self._known[key] = invocation
            if self._lane is None:
                self._early.append(invocation)
            else:
                self._lane.put(invocation)

    def _with_id(self, wanted: str) -> list[Invocation]:
        with self._lock:
            return [known for known in self._known.values() if known.id == wanted]

    def _stop(self, grace_s: float) -> None:
        with self._lock:
            lane = self._lane
            if self._stopping:
                return
            self._stopping = True
        if lane is None:  # still importing: there is nothing to finish
            os._exit(0)
        _thread.start_new_thread(exits.end_after, (grace_s,))
        lane.stop()
