"""Volumes: directories that containers share, and their files over HTTP.

`<volumes_dir>/<workspace>/<volume>/` is a volume; the directory is the truth, there is no record beside it. The
workers of this machine bind the same directories; where several machines are to share them, a networked file
system is mounted there on each. User code may put anything into a volume, links too: every path is opened
component by component without following any link, so nothing leads out.

Blocking; the routes run it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.ids import WorkspaceId, check_name, check_token
from glowplug_runtime.trees import remove_tree

from glowplug_gateway.quotas import Claim, Quota, Quotas, Usage, check_disk
from glowplug_gateway.watching import FileState

PATH_BYTES_MAX: Final = 1_024
# No path over HTTP is longer; what user code lays deeper is neither listed nor watched.
DEPTH_MAX: Final = 32
ENTRIES_MAX: Final = 10_000
# Files of one volume that are looked at for events, twice a second.
WATCHED_MAX: Final = 20_000
UPLOAD_PREFIX: Final = ".glowplug-upload-"
# Containers run under ids of their own: what one of them makes, the next must be able to change. The volume
# lies under a directory that nobody else can enter.
_OPEN_TO_ALL: Final = 0o777
_FILE_MODE: Final = 0o666
_ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 7, 0xFFFFFFFF) for tag in (0x01, 0x04, 0x20)
)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NoFolderError(InvalidRequestError):
    """A component of a path is no folder."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a volume. `kind` is "file", "folder" or "other" (links, pipes: never opened)."""

    path: str
    kind: str
    size: int
    changed_at: float


class Volumes:
    """See the module. `root` is None where this platform has no volumes."""

    def __init__(self, root: Path | None, quotas: Quotas | None = None) -> None:
        self._root = root
        self._quotas = quotas or Quotas(Quota(), time.monotonic)

    @property
    def there(self) -> bool:
        """Whether this platform has volumes."""
        return self._root is not None

    def ensure(self, workspace: WorkspaceId, name: str) -> bool:
        """Make a volume unless it is there; return whether it was made."""
        folder = self._folder(workspace, name)
        folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            return False
        folder.chmod(_OPEN_TO_ALL)
        with contextlib.suppress(OSError):  # a file system without ACLs: only the mode then
            os.setxattr(folder, "system.posix_acl_default", _ACL)
        return True

    def every(self, workspace: WorkspaceId) -> list[dict[str, object]]:
        """Return the volumes, by name."""
        folder = self._home(workspace)
        if not folder.is_dir():
            return []
        found = [one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()]
        return [
            {"name": one.name, "created_at": one.stat().st_ctime}
            for one in sorted(found, key=lambda one: one.name)
        ]

    def delete(self, workspace: WorkspaceId, name: str) -> None:
        """Remove a volume with everything in it. Raises: NotFoundError."""
        folder = self._there(workspace, name)
        remove_tree(folder)
        self._quotas.forget(folder)

    def usage(self, workspace: WorkspaceId, name: str) -> tuple[Usage, Quota]:
        """Return what a volume holds now, and what it may hold. Raises: NotFoundError."""
        folder = self._there(workspace, name)
        return self._quotas.usage(folder, fresh=True), self._quotas.quota

    def claim(self, workspace: WorkspaceId, name: str, path: str) -> Claim:
        """Count a file that is to be written. Raises: QuotaExceededError, NotFoundError."""
        folder = self._there(workspace, name)
        check_disk(folder, name)
        try:
            found = self.entries(workspace, name, path, deep=False)
        except NotFoundError:
            found = []
        wanted = "/".join(split(path))
        sizes = [one.size for one in found if one.path == wanted and one.kind == "file"]
        return self._quotas.claim(folder, name, sizes[0] if sizes else None)

    def entries(
        self, workspace: WorkspaceId, name: str, path: str, *, deep: bool
    ) -> list[FileEntry]:
        """Return what is in a folder (or the file itself), by path, ENTRIES_MAX at most."""
        parts = split(path)
        with self._opened(workspace, name) as root:
            try:
                found = list(_scan(root, parts, deep=deep))
            except NoFolderError:
                if not parts:
                    raise
                with _walk(root, parts[:-1]) as folder:
                    look = functools.partial(
                        os.stat, parts[-1], dir_fd=folder, follow_symlinks=False
                    )
                    found = [_entry("/".join(parts), _guarded(path, look))]
        return sorted(found[:ENTRIES_MAX], key=lambda entry: entry.path)

    def open_file(self, workspace: WorkspaceId, name: str, path: str) -> tuple[Any, int]:
        """Return a file opened for reading, and its size. Raises: NotFoundError, InvalidRequestError."""
        parts = _file_parts(path)
        with self._opened(workspace, name) as root, _walk(root, parts[:-1]) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = _guarded(path, lambda: os.open(parts[-1], flags, dir_fd=folder))
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                os.close(fd)
                raise _no_file(path)
            return os.fdopen(fd, "rb"), status.st_size

    @contextlib.contextmanager
    def writing(self, workspace: WorkspaceId, name: str, path: str) -> Iterator[Any]:
        """Yield a file to write; it appears under its name when the context ends well, whole or not at all."""
        parts = _file_parts(path)
        with self._opened(workspace, name) as root, _walk(root, parts[:-1], make=True) as folder:
            temporary = UPLOAD_PREFIX + os.urandom(8).hex()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, _FILE_MODE, dir_fd=folder)
            try:
                with os.fdopen(fd, "wb") as file:
                    os.fchmod(fd, _FILE_MODE)
                    yield file
                    file.flush()
                    os.fsync(fd)
                _guarded(
                    path,
                    lambda: os.replace(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder),
                )
                os.fsync(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def remove(self, workspace: WorkspaceId, name: str, path: str, *, deep: bool) -> None:
        """Remove a file, a link, or with `deep` a folder. Raises: NotFoundError, InvalidRequestError."""
        parts = _file_parts(path)
        self._quotas.forget(self._there(workspace, name))
        with self._opened(workspace, name) as root, _walk(root, parts[:-1]) as folder:
            status = _guarded(
                path, lambda: os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            )
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(parts[-1], dir_fd=folder)
            elif deep:
                remove_tree(parts[-1], dir_fd=folder)
            else:
                raise InvalidRequestError(
                    "request.invalid", f"{path!r} is a folder; say recursive=1 to remove it"
                )

    # -- for those who watch --------------------------------------------------------------------

    def states(self, workspace: WorkspaceId, name: str) -> dict[str, FileState] | None:
        """Return every file's state by path; None if there are more than WATCHED_MAX.

        A file whose name is no clean text can't be told of and is left out.
        """
        found: dict[str, FileState] = {}
        try:
            with self._opened(workspace, name) as root:
                for path, status in _files(root):
                    if path.isprintable():
                        found[path] = FileState(status.st_ino, status.st_ctime_ns, status.st_size)
                    if len(found) > WATCHED_MAX:
                        return None
        except NotFoundError:
            return {}
        return found

    def read_told(self, workspace: WorkspaceId, name: str) -> dict[str, FileState] | None:
        """Return what was told of a volume's files; None if nothing ever was."""
        try:
            data = self._told_file(workspace, name).read_bytes()
            return msgspec.msgpack.decode(data, type=dict[str, FileState])
        except (OSError, msgspec.MsgspecError):
            return None

    def write_told(self, workspace: WorkspaceId, name: str, told: Mapping[str, FileState]) -> None:
        """Keep what was told."""
        file = self._told_file(workspace, name)
        temporary = file.with_name(f"{file.name}.{os.urandom(4).hex()}")
        temporary.write_bytes(msgspec.msgpack.encode(told))
        temporary.replace(file)

    def forget_told(self, workspace: WorkspaceId, name: str) -> None:
        """Nobody is told any more."""
        self._told_file(workspace, name).unlink(missing_ok=True)

    def _told_file(self, workspace: WorkspaceId, name: str) -> Path:
        return self._home(workspace) / f".told-{check_name(name, 'volume')}"

    # -- ways in --------------------------------------------------------------------------------

    def _home(self, workspace: WorkspaceId) -> Path:
        if self._root is None:
            raise InvalidRequestError(
                "volume.none_here",
                "this platform has no volumes: give gateways and workers the same "
                "GLOWPLUG_…_VOLUMES_DIR (`glowplug up` does)",
            )
        return self._root / check_token(workspace)

    def _folder(self, workspace: WorkspaceId, name: str) -> Path:
        return self._home(workspace) / check_name(name, "volume")

    def _there(self, workspace: WorkspaceId, name: str) -> Path:
        folder = self._folder(workspace, name)
        if folder.is_symlink() or not folder.is_dir():
            raise NotFoundError(
                "volume.not_found",
                f"there is no volume {name}; `glowplug volume create {name}` makes it",
            )
        return folder

    @contextlib.contextmanager
    def _opened(self, workspace: WorkspaceId, name: str) -> Iterator[int]:
        fd = os.open(self._there(workspace, name), _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)


def split(path: str) -> list[str]:
    """Return a path's components. Raises: InvalidRequestError for what leads up or is no path."""
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise InvalidRequestError("request.invalid", "the path is no text") from None
    if size > PATH_BYTES_MAX or "\0" in path:
        raise InvalidRequestError("request.invalid", f"a path has at most {PATH_BYTES_MAX} bytes")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or len(parts) > DEPTH_MAX:
        raise InvalidRequestError("request.invalid", f"{path[:200]!r} leads out of the volume")
    return parts


def _file_parts(path: str) -> list[str]:
    parts = split(path)
    if not parts:
        raise InvalidRequestError("request.invalid", "give a path inside the volume")
    return parts


@contextlib.contextmanager
def _walk(root: int, parts: list[str], *, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of the folder; no component may be a link."""
    fd = os.dup(root)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, _OPEN_TO_ALL, dir_fd=fd)
            opened = functools.partial(os.open, part, _FOLDER, dir_fd=fd)
            below = _guarded("/".join(parts), opened)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _guarded(path: str, work: Any) -> Any:
    try:
        return work()
    except FileNotFoundError as err:
        raise NotFoundError("volume.no_file", f"there is no {path[:200]!r} in the volume") from err
    except NotADirectoryError as err:
        raise NoFolderError(
            "request.invalid", f"{path[:200]!r} goes over a file or a link, which is not followed"
        ) from err
    except PermissionError as err:  # for root nothing is closed
        raise InvalidRequestError(
            "request.invalid",
            f"{path[:200]!r} is closed: code inside a container took away the rights to it (chmod it there)",
        ) from err
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise InvalidRequestError(
                "request.invalid", f"{path[:200]!r} goes over a link, which is not followed"
            ) from err
        if err.errno in (errno.EISDIR, errno.ENXIO):
            raise _no_file(path) from err
        raise


def _no_file(path: str) -> InvalidRequestError:
    return InvalidRequestError("request.invalid", f"{path[:200]!r} is no file")


def _scan(root: int, parts: list[str], *, deep: bool) -> Iterator[FileEntry]:
    """Yield what is in a folder; one folder is open at a time, however many there are."""
    count = 0
    waiting = [parts]
    while waiting:
        above = waiting.pop()
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(_walk(root, above))
            except (NotFoundError, InvalidRequestError):
                if above == parts:
                    raise
                continue  # gone or changed since it was seen
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - of a descriptor
                if name.startswith(UPLOAD_PREFIX):
                    continue
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    path = [*above, name]
                    yield _entry("/".join(path), status)
                    count += 1
                    if count >= ENTRIES_MAX:
                        return
                    if deep and stat.S_ISDIR(status.st_mode) and len(path) < DEPTH_MAX:
                        waiting.append(path)


def _files(root: int) -> Iterator[tuple[str, os.stat_result]]:
    for folder, names, files, fd in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        names.sort()
        if folder.count("/") >= DEPTH_MAX - 1:
            names.clear()
        for name in files:
            if name.startswith(UPLOAD_PREFIX):
                continue
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield f"{folder}/{name}".removeprefix("./"), status


def _entry(path: str, status: os.stat_result) -> FileEntry:
    kind = "other"
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    return FileEntry(path=path, kind=kind, size=status.st_size, changed_at=status.st_mtime)
