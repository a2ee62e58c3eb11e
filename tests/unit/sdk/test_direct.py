"""The short way of a small request: one kind of answer, and everything else goes the long way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from glowplug.client.direct import NotHereError, ask
from glowplug.client.profile import Profile


class Server:
    """Answers each request on a connection with the next of `answers`; "" closes it."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while self._answers and (request := connection.recv(65536)):
                    self.requests.append(request)
                    answer = self._answers.pop(0)
                    if not answer:
                        break
                    connection.sendall(answer)

    def close(self) -> None:
        self._answers.clear()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


def an_answer(body: bytes = b"ok", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def send(server: Server, body: bytes = b"in"):
    return ask(of(server.url), "POST", "/p", {"Glowplug-Format": "json"}, body)


def of(url: str) -> Profile:
    return Profile("test", (url,), "tkn")


def test_sends_token_headers_and_body_and_reads_the_answer(servers):
    servers.append(server := Server(an_answer(extra="Glowplug-State: succeeded\r\n")))
    answer = send(server)
    assert (answer.body, answer.headers["Glowplug-State"]) == (b"ok", "succeeded")
    (request,) = server.requests
    assert request.startswith(b"POST /p HTTP/1.1\r\n")
    assert b"Authorization: Bearer tkn\r\n" in request
    assert b"Glowplug-Format: json\r\n" in request
    assert request.endswith(b"\r\n\r\nin")


def test_calls_of_a_thread_share_a_connection(servers):
    servers.append(server := Server(an_answer(b"1"), an_answer(b"2")))
    assert [send(server).body, send(server).body] == [b"1", b"2"]
    assert server.connections == 1


def test_a_body_in_pieces_is_read_to_its_end(servers):
    servers.append(server := Server(an_answer(b"x" * 300_000)))
    assert len(send(server).body) == 300_000


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_anything_else_goes_the_long_way_and_leaves_no_connection(servers, answer):
    servers.append(server := Server(answer, an_answer(b"fresh")))
    with pytest.raises(NotHereError):
        send(server)
    assert send(server).body == b"fresh"
    assert server.connections == 2


def test_a_refusal_is_an_answer(servers):
    servers.append(
        server := Server(an_answer(status="429 Too Many Requests", extra="Retry-After: 2\r\n"))
    )
    answer = send(server)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2")


def test_nobody_there_and_other_schemes_go_the_long_way():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "https://127.0.0.1:1"):
        with pytest.raises(NotHereError):
            ask(of(url), "POST", "/p", {})


def test_a_threads_connection_is_closed_when_it_ends(servers):
    servers.append(server := Server(an_answer(b"1")))
    seen: list[socket.socket] = []

    def work() -> None:
        send(server)
        seen.append(_kept())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0].fileno() == -1


def test_a_forked_child_makes_its_own_connection(servers):
    servers.append(server := Server(an_answer(b"1"), an_answer(b"2")))
    send(server)
    parents = _kept()
    child = os.fork()
    if child == 0:
        from glowplug.client import direct

        try:
            os._exit(0 if direct._connection(server.url) is not parents else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def _kept() -> socket.socket:
    from glowplug.client import direct

    return direct._connections.held.connection
