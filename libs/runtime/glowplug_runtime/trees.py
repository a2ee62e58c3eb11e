"""Directories that user code made, taken away whatever is in them.

They may be deeper than a function can call itself or descriptors reach, closed to their owner, and full of
links. Nothing is followed, nothing outside is touched, and a few descriptors are open at a time: what lies
deeper is moved up to the top first. All of it blocks: callers run it in threads.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN: Final = 0o700


def remove_tree(path: str | Path, *, dir_fd: int | None = None) -> None:
    """Remove a directory with everything in it. None there: nothing to do.

    Raises: OSError where something in it may not be removed; NotADirectoryError for a link or a file.
    """
    with contextlib.suppress(FileNotFoundError):
        top = _open(str(path), dir_fd)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path, dir_fd=dir_fd)


def hand_over(path: Path, uid: int) -> None:
    """Give a directory and everything in it to a user id. Links are given, never followed.

    Nobody else may change the tree meanwhile: the way up is taken by its name.
    """
    os.chown(path, uid, uid, follow_symlinks=False)
    if path.is_symlink() or not path.is_dir():
        return
    folder = os.open(path, _FOLDER)
    try:
        waiting = [_give(folder, uid)]
        while waiting:
            if waiting[-1]:
                onward = waiting[-1].pop()
                below = os.open(onward, _FOLDER, dir_fd=folder)
                waiting.append(_give(below, uid))
            else:
                waiting.pop()
                below = os.open("..", _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
    finally:
        os.close(folder)


def _empty(top: int) -> None:
    """Leave nothing in an open directory; each directory in it is brought to its top, then emptied."""
    waiting = _clear(top)
    prefix = f".{secrets.token_hex(8)}-"
    moved = 0
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(FileNotFoundError):
            folder = _open(name, top)
            try:
                for inner in _clear(folder):
                    moved += 1
                    # A directory that changes its place must be writable for its owner.
                    os.close(_open(inner, folder))
                    os.rename(inner, f"{prefix}{moved}", src_dir_fd=folder, dst_dir_fd=top)
                    waiting.append(f"{prefix}{moved}")
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _clear(folder: int) -> list[str]:
    """Remove the files, links and empty directories of a directory; return the other directories."""
    left = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError:
                    left.append(name)
    return left


def _open(name: str, dir_fd: int | None) -> int:
    """Open a directory, made readable and writable for its owner first."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=dir_fd)
    except PermissionError:
        # Not even to be read. A descriptor for the path alone says which one it is, links excluded.
        path = os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd
        )
        try:
            os.chmod(f"/proc/self/fd/{path}", _OWN)  # noqa: PTH101
        finally:
            os.close(path)
        return os.open(name, _FOLDER, dir_fd=dir_fd)
    with contextlib.suppress(PermissionError):
        os.fchmod(folder, _OWN)
    return folder


def _give(folder: int, uid: int) -> list[str]:
    """Give what is in a directory; return the directories in it."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, _ in found:
        os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)
    return [name for name, is_folder in found if is_folder]
