"""Reading a tree that may change under the reader, without ever leaving it.

Processes of a build may still live and swap directories for links, so every step is taken from a
descriptor of the directory before it, and no link is followed. What is too short, or no file any more, has
changed. Blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import blake3
from glowplug_contracts.errors import InvalidRequestError

# Names from the root on; bytes, since nothing promises that they are text.
Parts = tuple[bytes, ...]

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
READ_DIRECTORY = READ | os.O_DIRECTORY


@contextlib.contextmanager
def open_root(root: Path) -> Iterator[int]:
    """Open the directory that a tree starts from."""
    descriptor = os.open(root, READ_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_directory(root: int, parts: Parts) -> Iterator[int]:
    """Open a directory of the tree, one step after the other."""
    with contextlib.ExitStack() as stack:
        descriptor = os.open(".", READ_DIRECTORY, dir_fd=root)
        stack.callback(os.close, descriptor)
        for part in parts:
            descriptor = os.open(part, READ_DIRECTORY, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
        yield descriptor


@contextlib.contextmanager
def open_entry(folder: int, name: bytes) -> Iterator[int]:
    """Open what a directory has under a name, for reading."""
    descriptor = os.open(name, READ, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_file(root: int, parts: Parts) -> Iterator[int]:
    """Open a file of the tree."""
    with open_directory(root, parts[:-1]) as folder, open_entry(folder, parts[-1]) as file:
        yield file


def read_exactly(file: int, parts: Parts, size: int, offset: int) -> bytes:
    """Return `size` bytes of a file. Raises: InvalidRequestError if it has fewer by now."""
    data = os.pread(file, size, offset)
    if len(data) != size:
        raise unfit(parts, "changed while it was being read")
    return data


def digest_of(data: bytes) -> bytes:
    """Return the 32 bytes that name some content."""
    return blake3.blake3(data).digest()


def unfit(parts: Parts, why: str) -> InvalidRequestError:
    """Return the error that says what is wrong with a path."""
    return InvalidRequestError("request.invalid", f"path {b'/'.join(parts)[:200]!r} {why}")
