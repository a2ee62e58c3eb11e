"""Requests to another member of the cluster, from threads: one connection for each thread, kept open. Blocks."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator
from typing import IO, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from glowplug_contracts.codec import encode

from glowplug_imagecache.object_doors import LISTED_MAX, TIME_HEADER
from glowplug_imagecache.places import Thing
from glowplug_imagecache.raw_shelf import PIECE_BYTES

# Of silence, not of a whole transfer.
SILENT_S: Final = 10.0
_OK: Final = frozenset({200, 201, 204})
_NOT_FOUND: Final = 404
_LISTED: Final = msgspec.msgpack.Decoder(list[tuple[str, int, float]])


class AwayError(Exception):
    """A member did not answer, or not as one does."""


class Member:
    """Another member's share of objects. Raises AwayError where it does not answer."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port
        self._headers = {"Authorization": f"Bearer {token}"}
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()

    def close(self) -> None:
        """Close all connections; one that is in use breaks off."""
        for connection in list(self._open):
            connection.close()

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write an object."""
        size = source.seek(0, 2)
        source.seek(0)
        self._done(self._ask("PUT", _at(path), source, {"Content-Length": str(size)}))

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        """Write an object to a file; return whether it is there and no longer than that."""
        answer = self._ask("GET", _at(path))
        if answer.status == _NOT_FOUND:
            answer.read()
            return False
        size = int(answer.headers.get("Content-Length", "0"))
        if size > bytes_max:
            self._drop(answer)
            return False
        try:
            shutil.copyfileobj(answer, file, PIECE_BYTES)
        except (OSError, http.client.HTTPException) as err:
            self._close()
            raise AwayError(type(err).__name__) from err
        if file.tell() != size:
            self._close()
            raise AwayError("broke off")
        return True

    def head(self, path: str) -> Thing | None:
        """Return what is there under a path."""
        answer = self._ask("HEAD", _at(path))
        answer.read()
        if answer.status == _NOT_FOUND:
            return None
        return Thing(
            path, int(answer.headers["Content-Length"]), float(answer.headers[TIME_HEADER])
        )

    def delete(self, paths: list[str]) -> None:
        """Remove objects."""
        self._done(self._ask("POST", "/objects", encode(paths, "msgpack")))

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """Yield what is in a folder and those below it, by path."""
        while True:
            query = urlencode({"folder": folder, "after": after})
            found = _LISTED.decode(self._done(self._ask("GET", f"/objects?{query}")))
            for path, size, at in found:
                yield Thing(path, size, at)
            if len(found) < LISTED_MAX:
                return
            after = found[-1][0]

    def _ask(
        self,
        method: str,
        path: str,
        body: IO[bytes] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        fresh = False
        while True:
            connection = getattr(self._local, "connection", None)
            if connection is None:
                fresh = True
                connection = http.client.HTTPConnection(*self._address, timeout=SILENT_S)
                self._local.connection = connection
                self._open.add(connection)
            try:
                connection.request(method, path, body, self._headers | (headers or {}))
                answer: http.client.HTTPResponse = connection.getresponse()
            except (OSError, http.client.HTTPException) as err:
                self._close()
                if fresh:
                    raise AwayError(type(err).__name__) from err
                if body is not None and not isinstance(body, bytes):
                    body.seek(0)
                continue  # it was closed while nobody used it
            if answer.status in _OK or answer.status == _NOT_FOUND:
                return answer
            self._drop(answer)
            raise AwayError(f"answered {answer.status}")

    def _done(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            data = answer.read()
        except (OSError, http.client.HTTPException) as err:
            self._close()
            raise AwayError(type(err).__name__) from err
        if answer.status == _NOT_FOUND:  # it has no such door
            raise AwayError("is no member")
        return data

    def _drop(self, answer: http.client.HTTPResponse) -> None:
        answer.close()
        self._close()

    def _close(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._open.discard(connection)
            connection.close()


def _at(path: str) -> str:
    return f"/objects/{quote(path)}"
