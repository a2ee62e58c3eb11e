"""The end of a task is told to its callback, though the gateway that tells it is killed half way."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from glowplug import verify_callback

from tests.e2e.conftest import Running
from tests.e2e.test_lifecycle import start_up
from tests.support.eventually import eventually_sync


class Receiver(ThreadingHTTPServer):
    """Holds its first answer back until told; keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.first = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/done"

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that was killed is what this is about."""


class Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((dict(self.headers), body))
        if not self.server.first.is_set():
            self.server.first.set()
            self.server.release.wait(120)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def put(running: Running, options: dict[str, str]) -> str:
    request = urllib.request.Request(
        running.url + "/taskqueue/number",
        b'{"value": 7}',
        {
            "Authorization": f"Bearer {running.token}",
            "Content-Type": "application/json",
            "Glowplug-Options": json.dumps(options),
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["task_id"]


def delivered(running: Running, task: str) -> dict | None:
    callback = running.http("GET", f"/tasks/{task}/status").json()["callback"]
    return callback if callback["state"] == "delivered" else None


def test_a_callback_is_told_by_the_next_gateway_when_the_first_is_killed(tmp_path):
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    process, ready = start_up(tmp_path / "data", "--port", "0")
    token = Path(ready["token_file"]).read_text().strip()
    running = Running(ready["url"], token, tmp_path / "data")
    try:
        running.cli("deploy", "queues.py:number")
        task = put(running, {"callback_url": receiver.url})
        assert receiver.first.wait(60)
        os.kill(ready["parts"]["gateway"], signal.SIGKILL)
        restarted = json.loads(process.stdout.readline())
        assert (restarted["event"], restarted["part"]) == ("restarted", "gateway")
        eventually_sync(lambda: len(receiver.heard) >= 2, within_s=60)
        secret = running.cli("callback", "secret").stdout.strip()
        for headers, body in receiver.heard:
            told = verify_callback(secret, headers, body)
            assert headers["Glowplug-Callback-Id"] == told["task_id"] == task
            assert (told["state"], told["result"]) == ("completed", 7)
        callback = eventually_sync(lambda: delivered(running, task), within_s=60)
        assert callback["status"] == 204
    finally:
        receiver.release.set()
        process.terminate()
        process.wait(60)
        process.stdout.close()
        receiver.shutdown()
        receiver.server_close()
