"""A real runner process on one end of a socketpair, for tests that play its worker.

Everything blocks with a bound (`WITHIN_S`) that guards against a hang and measures nothing.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glowplug._vendor import cloudpickle
from glowplug.runner import boot, frames

WITHIN_S = 30
BOOT = Path(boot.__file__)
Frame = tuple[dict[str, Any], bytes]


class RunnerProcess:
    """The worker's side of one runner process."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self._sock = sock
        sock.settimeout(WITHIN_S)
        self._parser = frames.FrameParser()
        self._waiting: list[Frame] = []
        self.seen: list[Frame] = []

    def send(self, kind: str, body: bytes = b"", **fields: object) -> None:
        for frame in frames.encode_large({"type": kind, **fields}, body):
            self._sock.sendall(frame)

    def receive(self) -> Frame | None:
        """Return the next frame, or None at the end."""
        while not self._waiting:
            data = self._sock.recv(1 << 18)
            if not data:
                return None
            self._waiting = self._parser.feed(data)
        frame = self._waiting.pop(0)
        self.seen.append(frame)
        return frame

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> Frame:
        """Return the first frame that is wanted, its pieces joined; the others stay in `seen`."""
        pieces = []
        while True:
            frame = self.receive()
            assert frame is not None, f"the runner ended; it sent {self.seen[-5:]}"
            if wanted(frame[0]):
                pieces.append(frame[1])
                if not frame[0].get("more"):
                    return frame[0], b"".join(pieces)

    def kind(self, kind: str) -> Frame:
        return self.until(lambda header: header["type"] == kind)

    def init(self, **fields: object) -> None:
        pickled = fields.pop("function", None)
        on_start = fields.pop("on_start_function", None)
        blobs = {}
        if pickled is not None:
            blobs["pickled"] = cloudpickle.dumps(pickled)
        if on_start is not None:
            blobs["on_start_pickled"] = cloudpickle.dumps(on_start)
        if (on_exit := fields.pop("on_exit_function", None)) is not None:
            blobs["on_exit_pickled"] = cloudpickle.dumps(on_exit)
        sizes = {name: len(blob) for name, blob in blobs.items()}
        self.send("init", **{"mode": "function", "container_id": "ctr_1", **sizes, **fields})
        for name, blob in blobs.items():
            self.send("blob", blob, name=name)

    def start(self, **fields: object) -> dict[str, Any]:
        """Initialise and return the `ready` header."""
        self.init(**fields)
        header, _ = self.until(lambda header: header["type"] in {"ready", "start_failed"})
        assert header["type"] == "ready", header["error"]["traceback"]
        return header

    def run(self, *args: object, id: str = "inv_1", **kwargs: object) -> None:  # noqa: A002
        self.send("run", pickle.dumps((args, kwargs)), id=id, index=0, format="pickle", attempt=1)

    def result(self, id: str = "inv_1", index: int = 0) -> Frame:  # noqa: A002
        return self.until(
            lambda header: (
                header["type"] == "result" and (header["id"], header["index"]) == (id, index)
            )
        )

    def value(self, id: str = "inv_1", index: int = 0) -> Any:  # noqa: A002
        header, body = self.result(id, index)
        assert header["state"] == "succeeded", header["error"]["traceback"]
        return pickle.loads(body)

    def call(self, *args: object, **kwargs: object) -> Any:
        self.run(*args, **kwargs)
        return self.value()

    def error(self, *args: object, **kwargs: object) -> dict[str, Any]:
        """Call, and return the error that the result carries."""
        self.run(*args, **kwargs)
        header, _ = self.result()
        assert header["state"] == "failed"
        return header["error"]

    def logged(self, id: str | None = None, stream: str | None = None) -> str:  # noqa: A002
        """Return what was logged up to the last frame that was read."""
        return b"".join(
            body
            for header, body in self.seen
            if header["type"] == "log"
            and (id is None or header["id"] == id)
            and (stream is None or header["stream"] == stream)
        ).decode()

    def close_socket(self) -> None:
        self._sock.close()

    def wait(self) -> int:
        return self.process.wait(WITHIN_S)


@contextmanager
def open_runners(
    count: int = 1, python: str = sys.executable, **popen: Any
) -> Iterator[Sequence[RunnerProcess]]:
    """Start one runner tree with `count` sockets; kill what is left at the end."""
    pairs = [socket.socketpair() for _ in range(count)]
    fds = [theirs.fileno() for _, theirs in pairs]
    argv = [python, "-I", "-S", str(BOOT), "--fds", ",".join(map(str, fds))]
    process = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, **popen)
    for _, theirs in pairs:
        theirs.close()
    try:
        yield [RunnerProcess(process, ours) for ours, _ in pairs]
    finally:
        for ours, _ in pairs:
            ours.close()
        if process.poll() is None:
            process.kill()
        process.wait(WITHIN_S)


@contextmanager
def open_runner(**options: Any) -> Iterator[RunnerProcess]:
    """Start a runner with one socket."""
    with open_runners(1, **options) as runners:
        yield runners[0]
