"""A bucket of an S3-compatible store: whole objects by path, with what goes wrong told in the platform's words.

A put is there whole or not at all, and what was put is seen by everybody at once (S3 promises both). Errors name
what was done and never how: requests' addresses and answers may hold what signs them. Everything here blocks:
callers run it in threads.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Final, TypeVar

import msgspec
import obstore
from glowplug_contracts.errors import UnavailableError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from glowplug_imagecache.naming import matches
from glowplug_imagecache.places import RETRY_S, TIMEOUT_S, TRIES_MAX, BucketPlace, Keys, Thing

if TYPE_CHECKING:
    from obstore import GetResult

REQUESTS_AT_ONCE: Final = 16
CONNECT_S: Final = 5.0
DELETED_AT_ONCE: Final = 500

T = TypeVar("T")
R = TypeVar("R")


class Bucket:
    """See the module. Close it at last."""

    def __init__(self, place: BucketPlace, keys: Keys) -> None:
        shown = {name: value for name, value in msgspec.structs.asdict(keys).items() if value}
        self._name = str(place)
        self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "bucket")
        if place.endpoint:
            shown["endpoint"] = place.endpoint
        self._store = S3Store(
            place.bucket,
            prefix=place.prefix or None,
            region=place.region,
            virtual_hosted_style_request=not place.endpoint,
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=TIMEOUT_S),
                "connect_timeout": timedelta(seconds=CONNECT_S),
            },
            retry_config={
                "max_retries": TRIES_MAX - 1,
                "retry_timeout": timedelta(seconds=RETRY_S),
            },
            **shown,
        )

    def close(self) -> None:
        """Let its threads go."""
        self._threads.shutdown(wait=True)

    def put(self, path: str, data: bytes | IO[bytes]) -> None:
        """Write an object; it is durable when this returns. Raises: UnavailableError."""
        with self._told("write"):
            obstore.put(self._store, path, data)

    def get(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object; None if it is not there, or longer than anybody could have put."""
        with self._told("read"):
            found = self._open(path)
            if found is None or found.meta["size"] > bytes_max:
                return None
            return bytes(found.bytes())

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        """Write an object to a file; return whether it is there and no longer than that."""
        with self._told("read"):
            found = self._open(path)
            if found is None or found.meta["size"] > bytes_max:
                return False
            for piece in found.stream():
                file.write(piece)
            return True

    def head(self, path: str) -> Thing | None:
        """Return what is there under a path."""
        with self._told("look"):
            try:
                found = obstore.head(self._store, path)
            except FileNotFoundError:
                return None
            return Thing(found["path"], found["size"], found["last_modified"].timestamp())

    def copy(self, path: str, to: str) -> bool:
        """Copy an object within the bucket; return whether it was there."""
        with self._told("copy"):
            try:
                obstore.copy(self._store, path, to)
            except FileNotFoundError:
                return False
            return True

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        wanted = list(paths)
        for start in range(0, len(wanted), DELETED_AT_ONCE):
            with self._told("delete"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, wanted[start : start + DELETED_AT_ONCE])

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """Yield what is in a folder and those below it, by path, from after a path on."""
        with self._told("list"):  # what the caller does meanwhile raises outside
            for batch in obstore.list(self._store, folder, offset=after or None):
                for found in batch:
                    yield Thing(found["path"], found["size"], found["last_modified"].timestamp())

    def intact(self, path: str, bytes_max: int) -> bool | None:
        """See Objects. There is one copy here."""
        with tempfile.TemporaryFile() as file:
            return matches(path, file, decoded=True) if self.fetch(path, file, bytes_max) else None

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """See Objects: a bucket always is."""
        return contextlib.nullcontext()

    def each(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do something for every item, a few at a time; return what came, in order."""
        if len(items) == 1:
            return [do(items[0])]
        return list(self._threads.map(do, items))

    def _open(self, path: str) -> GetResult | None:
        try:
            return obstore.get(self._store, path)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what goes wrong into the platform's words."""
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError):
            raise UnavailableError(
                "platform.unavailable",
                f"the object store refuses to {what} in {self._name}: check "
                "GLOWPLUG_IMAGECACHE_STORE_KEYS_FILE and what these keys may do there",
            ) from None
        except (BaseError, OSError) as err:
            raise UnavailableError(
                "platform.unavailable",
                f"the object store could not {what} in {self._name} "
                f"({type(err).__name__}, {TRIES_MAX} tries)",
                retry_after_s=RETRY_S,
            ) from None
