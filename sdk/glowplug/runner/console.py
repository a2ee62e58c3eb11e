"""A context from within: runs pieces of code one after the other in one namespace.

The value of a last expression is its result, as a notebook shows it. Output becomes `exec_event`s of
the code that runs; what threads print between two pieces becomes `log` frames.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from glowplug.runner import failures
from glowplug.runner.capture import Capture
from glowplug.runner.loading import show_info_logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from glowplug.runner.channel import Channel
    from glowplug.runner.frames import Header

RESULT_CHARS_MAX = 1 << 20
SOURCES_MAX = 500
# The session's poll loop reads all the time; output waits for it rather than being dropped early.
WAIT_S = 5.0


class StoppedError(KeyboardInterrupt):
    """Raised in code that ran too long, or was killed by its user."""


def serve_console(channel: Channel, name: str) -> int:
    """Run what the session sends until it closes the socket."""
    console = Console(channel, name)
    pieces: list[bytes] = []
    while (frame := channel.receive()) is not None:
        header, body = frame
        pieces.append(body)
        if not header.get("more"):
            console.run(header, b"".join(pieces))
            pieces.clear()
    return 0


class Console:
    """One namespace and the code that ran in it."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._exec_id = ""
        self._stoppable = False
        self._asked = False
        self._sources: dict[str, str] = {}
        self._count = 0
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        self._namespace: dict[str, Any] = module.__dict__
        self._capture = Capture()
        self._busy = channel.busy
        self._capture.start(self._emit, lambda: self._exec_id, self._busy)
        os.register_at_fork(after_in_child=channel.close)
        show_info_logs()
        sys.path.append("")  # modules that the code wrote, as in any Python shell
        _signal.signal(_signal.SIGINT, self._on_interrupt)

    def run(self, header: Header, code: bytes) -> None:
        """Run one piece of code and report its result and end."""
        self._exec_id = header["exec_id"]
        self._asked = False
        place = os.getcwd() if header.get("cwd") else ""
        env: dict[str, str] = header.get("env") or {}
        before = {name: os.environ.get(name) for name in env}
        try:
            os.environ.update(env)
            if place:
                os.chdir(header["cwd"])
            value = self._execute(code.decode("utf-8"))
            shown = None if value is None else repr(value)
            self._stoppable = False
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the answer
            self._stoppable = False
            self._end(*self._failure(error))
        else:
            self._end(0, None, shown)
        finally:
            _restore(place, before)

    def _execute(self, code: str) -> object:
        import ast  # noqa: PLC0415 - 9 ms, only for code

        self._count += 1
        filename = f"<{self._name} {self._count}>"
        self._sources[filename] = code
        if len(self._sources) > SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        tree = ast.parse(code, filename)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        body = compile(tree, filename, "exec", dont_inherit=True)
        self._stoppable = True
        if self._asked:
            raise StoppedError
        exec(body, self._namespace)  # noqa: S102 - that is what a session is for
        if not isinstance(last, ast.Expr):
            return None
        value: object = eval(  # noqa: S307 - likewise
            compile(ast.Expression(last.value), filename, "eval", dont_inherit=True),
            self._namespace,
        )
        return value

    def _failure(self, error: BaseException) -> tuple[int, Header | None]:
        if isinstance(error, SystemExit):
            if error.code is None or isinstance(error.code, int):
                return error.code or 0, None
            sys.stderr.write(f"{error.code}\n")
            return 1, None
        import linecache  # noqa: PLC0415 - 13 ms, only for failures

        for filename, code in self._sources.items():
            lines = code.splitlines(keepends=True)
            linecache.cache[filename] = (len(code), None, lines, filename)
        return 1, failures.remote_error(error, pickled=False)

    def _end(self, exit_code: int, error: Header | None, shown: str | None = None) -> None:
        exec_id = self._exec_id
        self._capture.finish(exec_id)
        event = {"type": "exec_event", "exec_id": exec_id}
        if shown is not None:
            if len(shown) > RESULT_CHARS_MAX:
                shown = shown[:RESULT_CHARS_MAX] + "… (cut)"
            self._channel.send({**event, "kind": "result"}, shown.encode("utf-8", "replace"))
        self._exec_id = ""
        self._channel.send({**event, "kind": "ended", "exit_code": exit_code, "error": error})

    def _emit(self, stream: str, owner: object, at: float, data: bytes, dropped: int) -> bool:
        if owner:
            header = {"type": "exec_event", "exec_id": owner, "kind": stream}
            if dropped:
                data = f"[{dropped} lines dropped: nobody read them]\n".encode() + data
        else:
            header = {"type": "log", "stream": stream, "id": "", "at": at, "dropped": dropped}
        return self._channel.send_unless_congested(header, data, WAIT_S)

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        if not self._stoppable:
            self._asked = True  # it may come before the code has begun
            return
        self._stoppable = False
        interrupt = StoppedError()
        if not self._channel.hold_interrupt(interrupt):
            raise interrupt


def _restore(place: str, environment: dict[str, str | None]) -> None:
    """Undo what was set for one piece of code; what the code itself changed, stays."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if place:
        try:
            os.chdir(place)
        except OSError:  # the code removed it
            os.chdir("/")
