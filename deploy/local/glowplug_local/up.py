"""What `glowplug up` does: start, say so in few lines, wait for a signal, stop; and its `--detach` and `down`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from glowplug_runtime.failures import StartError

from glowplug_local.broker import BrokerMissingError
from glowplug_local.layout import DirectoryTakenError, Layout
from glowplug_local.platform import NotReadyError, Options, Platform, PortHeldError, open_platform
from glowplug_local.profile import forget_profile, write_profile

DOWN_S = 40.0

Failure = (BrokerMissingError, DirectoryTakenError, NotReadyError, PortHeldError, StartError)


class Teller:
    """Says what happens: one JSON object a line, or a few words for people."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, event: str, **fields: Any) -> None:
        """Say that something happened."""
        if self._as_json:
            self._say(json.dumps({"event": event, "at": time.time(), **fields}))
        else:
            self._say(WORDS[event].format(**fields))

    @staticmethod
    def _say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


WORDS: dict[str, str] = {
    "starting": "Glowplug {version} starts on {data}",
    "broker": "  nats-server {version} ({origin}), loopback only",
    "in_memory": (
        "  in memory: accepted tasks, deployments, schedules and results are lost when the broker ends;\n"
        "  what was kept on disk before is neither used nor touched"
    ),
    "restarted": "  {part} ended ({ended}); starting it again",
    "disk_full": (
        "  the disk is full ({free_mib} MiB free at {path}): the broker takes no writes for {streams};\n"
        "  make room: then it is restarted by itself, and nothing that was acknowledged is lost"
    ),
    "mending": "  the broker leaves writes to {streams} unanswered, as after a full disk; restarting it",
    "ready": (
        "  containers: {backend}\n"
        "Ready in {seconds:.1f} s: {url}   (token: {token_file})\n"
        "gRPC: {grpc}\n"
        "Events over NATS: {events_file}\n"
        "Try: glowplug run app.py::fn · glowplug deploy app.py · glowplug status · Ctrl-C ends it"
    ),
    "stopping": "Stopping ...",
    "stopped": "Stopped.",
    "error": "glowplug up: {message}",
}


def run(options: Options, as_json: bool) -> int:  # noqa: FBT001
    """Run the platform until SIGINT or SIGTERM; return the exit code."""
    tell = Teller(as_json=as_json)
    try:
        asyncio.run(_run(options, tell))
    except BaseExceptionGroup as group:
        known, rest = group.split(Failure)
        if rest is not None:
            raise
        return _failed(tell, known.exceptions[0] if known else group)
    except Failure as error:
        return _failed(tell, error)
    return 0


def _failed(tell: Teller, error: BaseException) -> int:
    tell("error", kind=type(error).__name__, message=str(error))
    return 1


async def _run(options: Options, tell: Teller) -> None:
    started = time.monotonic()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    from glowplug_runtime.service import version  # noqa: PLC0415

    tell("starting", version=version(), data=str(options.data))
    async with open_platform(options, tell) as platform:
        readying = asyncio.ensure_future(platform.await_ready())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({readying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if readying.done():
            health = readying.result()
            _say_ready(platform, health, time.monotonic() - started, tell)
            try:
                await stopping
            finally:
                if options.profile:
                    forget_profile(platform.url)
        else:
            readying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await readying
        tell("stopping")
    tell("stopped")


def _say_ready(platform: Platform, health: dict[str, Any], seconds: float, tell: Teller) -> None:
    if platform.options.profile:
        write_profile(platform.url, platform.token, platform.options.tls_cert)
    worker = health.get("parts", {}).get("worker", {})
    notes = worker.get("notes") or (worker.get("instances") or [{}])[0].get("notes") or {}
    tell(
        "ready",
        seconds=round(seconds, 2),
        url=platform.url,
        grpc=platform.grpc or "off",
        token_file=str(platform.layout.secret_file("token")),
        events_file=str(platform.layout.secret_file("events.json")),
        data=str(platform.options.data),
        pid=os.getpid(),
        backend=notes.get("backend", ""),
        parts={name: child.pid for name, child in platform.children.items()},
    )


def detach(options: Options, as_json: bool) -> int:  # noqa: FBT001
    """Start `up` in a session of its own, wait until it is ready, and leave it running."""
    tell = Teller(as_json=as_json)
    log = options.data / "up.log"
    options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [
        sys.executable,
        "-m",
        "glowplug.cli.main",
        "up",
        "--json",
        "--data",
        str(options.data),
    ]
    command += ["--port", str(options.port), "--workers", str(options.workers)]
    command += ["--grpc-port", str(options.grpc_port)]
    command += ["--gpus", options.gpus] if options.gpus else []
    command += ["--nats-server", options.nats_server] if options.nats_server else []
    command += [] if options.profile else ["--no-profile"]
    command += ["--in-memory"] if options.in_memory else []
    command += ["--host", options.host] if options.host else []
    command += ["--name", options.name] if options.name else []
    if options.tls_cert:
        command += ["--tls-cert", options.tls_cert, "--tls-key", options.tls_key]
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    said = 0
    while True:
        ended = child.poll() is not None
        lines = log.read_text(errors="replace").splitlines(keepends=True)
        for line in lines[said:]:
            if not line.endswith("\n") and not ended:
                break
            said += 1
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                event = fields.pop("event")
                fields.pop("at", None)
                tell(event, **fields)
                if event == "ready":
                    return 0
        if ended:
            return child.returncode or 1
        time.sleep(0.02)


def end(data: Path) -> int:
    """End what runs on `data`; return 0 also if nothing does."""
    running = Layout(data).running()
    if running is None:
        sys.stdout.write(f"Nothing runs on {data}.\n")
        return 0
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    while time.monotonic() < deadline:
        if Layout(data).running() is None and _is_gone(running.pid):
            sys.stdout.write("Stopped.\n")
            return 0
        time.sleep(0.02)
    sys.stderr.write(f"pid {running.pid} has not ended within {DOWN_S:.0f} s\n")
    return 1


def _is_gone(pid: int) -> bool:
    """Return whether a process has ended; one that nobody has waited for yet has no command left."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
