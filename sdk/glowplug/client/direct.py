"""A small blocking request on a connection of the calling thread: the short way of `.remote()`, `.put()` and `.get()`.

Handing a request to the background loop and back costs two thread switches and a general HTTP client: more
than the platform needs for a warm call itself. This way knows one request and one kind of answer. Whatever is
not that (a lost connection, an answer of unknown length) raises `NotHereError`, and the caller takes the long
way with the same invocation id, so that nothing runs twice.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from glowplug.client.answers import Answer
from glowplug.client.profile import Profile

CONNECT_S = 5.0
RECEIVE_BYTES = 64 * 1024
HEAD_BYTES_MAX = 64 * 1024
# A peer that has vanished without a word is noticed after about KEEP_IDLE_S + 3 × KEEP_PAUSE_S.
KEEP_IDLE_S = 10
KEEP_PAUSE_S = 5
# Python sees Ctrl-C between its own steps. One that comes just as it begins to wait is seen when the wait ends.
WAIT_MS_MAX = 250

_connections = threading.local()


class _Held:
    """A thread's connection; it is closed when the thread ends and lets go of it."""

    def __init__(self, url: str, connection: socket.socket) -> None:
        self.url = url
        self.pid = os.getpid()  # a forked child makes its own
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class NotHereError(Exception):
    """The short way does not do; the long one tells the caller what is the matter."""


def ask(
    profile: Profile, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> Answer:
    """Send one request to the profile's first gateway on this thread's connection; return its whole answer.

    Raises: NotHereError for anything else; KeyboardInterrupt leaves no half-read connection behind.
    """
    connection = _connection(profile.urls[0])
    sent = dict(headers)
    if profile.token:
        sent["Authorization"] = f"Bearer {profile.token}"
    try:
        connection.sendall(_head(connection, f"{method} {path}", sent, len(body)) + body)
        return _read(connection)
    except BaseException as err:
        _forget()
        if isinstance(err, (OSError, ValueError)):
            raise NotHereError(repr(err)) from err
        raise


def _connection(url: str) -> socket.socket:
    held: _Held | None = getattr(_connections, "held", None)
    if held is not None and (held.url, held.pid) == (url, os.getpid()):
        return held.connection
    _forget()
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise NotHereError("only plain HTTP goes the short way")
    try:
        made = socket.create_connection((parts.hostname, parts.port), CONNECT_S)
    except OSError as err:
        raise NotHereError(repr(err)) from err
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_IDLE_S),
        ("TCP_KEEPINTVL", KEEP_PAUSE_S),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, name):  # not on every system
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if os.name == "posix":  # others have another form, and no signals to wait for
        pause = struct.pack("@ll", 0, WAIT_MS_MAX * 1000)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pause)
    _connections.held = _Held(url, made)
    return made


def _forget() -> None:
    held: _Held | None = getattr(_connections, "held", None)
    _connections.held = None
    if held is not None:
        held.connection.close()


def _head(connection: socket.socket, what: str, headers: Mapping[str, str], length: int) -> bytes:
    host, port = connection.getpeername()[:2]
    lines = [f"{what} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read(connection: socket.socket) -> Answer:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > HEAD_BYTES_MAX:
            raise ValueError("the answer's head is too large")
        received += _receive(connection)
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 "):
        raise ValueError(first[:100])
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name] = value.strip()
    length = int(headers["Content-Length"]) if "Content-Length" in headers else -1
    if length < 0:
        raise ValueError("an answer of unknown length")
    body = received[end + 4 :]
    while len(body) < length:
        body += _receive(connection)
    return Answer(int(first.split(" ", 2)[1]), headers, body)


def _receive(connection: socket.socket) -> bytes:
    while True:
        try:
            piece = connection.recv(RECEIVE_BYTES)
        except BlockingIOError:  # WAIT_MS_MAX is over: signals are seen to, and it goes on
            continue
        if not piece:
            raise ConnectionResetError("closed before the answer was complete")
        return piece
