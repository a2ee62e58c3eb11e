"""What the shared store needs of whoever keeps its objects: a bucket, or a cluster of replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Protocol, TypeVar

from glowplug_imagecache.places import Thing

T = TypeVar("T")
R = TypeVar("R")


class Objects(Protocol):
    """Whole objects by path; everything blocks and may raise UnavailableError."""

    def put(self, path: str, data: bytes | IO[bytes]) -> None:
        """Write an object; it is durable, and everybody sees it, when this returns."""

    def get(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object; None if it is not there, or longer than that."""

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        """Write an object to an empty file; return whether it is there and no longer than that."""

    def head(self, path: str) -> Thing | None:
        """Return what is there under a path."""

    def copy(self, path: str, to: str) -> bool:
        """Copy an object; return whether it was there."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """Yield what is in a folder and those below it, by path, from after a path on."""

    def intact(self, path: str, bytes_max: int) -> bool | None:
        """Read an object, every copy of it, and return whether it is what its name says; None without one."""

    def whole(self) -> AbstractContextManager[None]:
        """Raise where something that was put could be missing in what is seen meanwhile."""

    def each(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do something for every item, a few at a time; return what came, in order."""

    def close(self) -> None:
        """Let go of threads and connections."""
