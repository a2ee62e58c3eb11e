"""The example of the upload pipeline, from the file to the webhook, with a poison file that is replayed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Running, a_platform
from tests.repo.tree import ROOT
from tests.support.eventually import eventually_sync

APP = str(ROOT / "examples/upload_pipeline/app.py")
GERMAN = "Der Motor springt sofort an, auch an einem kalten Morgen. Das ist der Motor."
POISON = "Le moteur démarre tout de suite, par un matin de mai, et la neige est là.".encode(
    "latin-1"
)


@pytest.fixture
def platform(tmp_path, monkeypatch) -> Iterator[Running]:
    """One of its own, whose containers share the host's network: the webhook is on it."""
    monkeypatch.setenv("GLOWPLUG_WORKER_NETWORK", "shared")
    with a_platform(tmp_path / "data") as running:
        yield running


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict]]]:
    """A webhook's URL, and what it was told."""
    told: list[dict] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def deploy(platform: Running, monkeypatch, webhook: str, decoding: str) -> None:
    monkeypatch.setenv("PIPELINE_WEBHOOK", webhook)
    monkeypatch.setenv("PIPELINE_DECODING", decoding)
    platform.cli("deploy", APP)


def letters(platform: Running) -> list[dict]:
    shown = platform.cli("dlq", "list", "--queue", "identify", "--json").stdout
    return json.loads(shown)["dead_letters"]


def test_files_become_calls_of_the_webhook_and_poison_waits_for_its_fix(
    platform, tmp_path, monkeypatch, heard
) -> None:
    webhook, told = heard
    deploy(platform, monkeypatch, webhook, "strict")
    try:
        for name, data in (
            ("german.txt", GERMAN.encode()),
            ("poison.txt", POISON),
            ("x.bin", b"x"),
        ):
            (tmp_path / name).write_bytes(data)
            platform.cli("volume", "cp", str(tmp_path / name), f"inbox:{name}")
        eventually_sync(lambda: told == [{"path": "german.txt", "language": "de"}], what="webhook")
        (letter,) = eventually_sync(lambda: letters(platform), what="dead letter")
        assert letter["error_type"] == "UnicodeDecodeError"
        shown = json.loads(platform.cli("dlq", "show", letter["task_id"], "--json").stdout)
        assert shown["arguments"]["value"]["args"][0]["data"]["path"] == "poison.txt"
        assert shown["headers"]["ce-subject"] == "poison.txt"
        deploy(platform, monkeypatch, webhook, "lenient")
        platform.cli("dlq", "replay", "--queue", "identify")
        eventually_sync(lambda: len(told) == 2, what="webhook again")
        assert told[1] == {"path": "poison.txt", "language": "fr"}
        assert letters(platform) == []
    finally:
        for name in ("identify", "announce"):
            platform.cli("deployment", "delete", name, check=False)
