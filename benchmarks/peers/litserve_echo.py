"""LitServe with its defaults: POST /predict answers its JSON body. Prints its port when it answers."""

from __future__ import annotations

import socket
import sys
import threading
import time
import urllib.request

import litserve


class Echo(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def predict(self, request: object) -> object:
        return request


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def say_ready() -> None:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            except OSError:
                time.sleep(0.1)
                continue
            print(port, file=sys.__stdout__, flush=True)
            return

    threading.Thread(target=say_ready, daemon=True).start()
    litserve.LitServer(Echo(), accelerator="cpu").run(
        host="127.0.0.1", port=port, log_level="error", generate_client_file=False
    )


if __name__ == "__main__":
    main()
