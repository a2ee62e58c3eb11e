"""What the attempts are written with: how one is registered, raw system calls, and what counts as held.

An attempt that returns has worked. One that raises `OSError` or `Held` was stopped. Any other exception
is a fault of the attempt itself and proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import traceback
from collections.abc import Callable
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
GIVEN = json.loads(os.environ.get("GIVEN", "{}"))
AT_FDCWD = -100


class Held(Exception):  # noqa: N818 - a verdict, no error
    """The attempt did not get what it wanted, in words."""


class Attempt(NamedTuple):
    """One thing tried.

    `numbers` are those of the design's list; `control` says why no control can be shown, "" = it runs in
    a plain process as it stands; `needs` is what a backend must enforce to hold it, "" = every sandbox
    must; `ends` says that it may end its container, which then counts as held.
    """

    name: str
    act: Callable[[], object]
    numbers: tuple[int, ...] = ()
    control: str = ""
    needs: str = ""
    ends: bool = False


class Family:
    """Attempts of one kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempts: list[Attempt] = []

    def __call__(
        self, title: str, *numbers: int, control: str = "", needs: str = "", ends: bool = False
    ) -> Callable[[Callable[[], object]], Callable[[], object]]:
        def register(act: Callable[[], object]) -> Callable[[], object]:
            self.add(title, act, *numbers, control=control, needs=needs, ends=ends)
            return act

        return register

    def add(
        self,
        title: str,
        act: Callable[[], object],
        *numbers: int,
        control: str = "",
        needs: str = "",
        ends: bool = False,
    ) -> None:
        self.attempts.append(Attempt(f"{self.name}: {title}", act, numbers, control, needs, ends))


def called(result: int) -> int:
    """Return what a libc function returned, or raise its error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(x86: int, aarch64: int, *arguments: object) -> int:
    """Make a system call by number; a negative number means that the architecture has none."""
    number = x86 if X86 else aarch64
    if number < 0:
        raise Held("this architecture has no such call")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return called(LIBC.syscall(ctypes.c_long(number), *words))


def reached(act: Callable[[], object], *refusals: int) -> None:
    """Take errors that the kernel gives only to who may ask as success."""
    try:
        act()
    except OSError as error:
        if error.errno not in refusals:
            raise


def opens(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))


def rewrites(path: str) -> None:
    """Write to a file what it holds."""
    with open(path, "rb") as file:
        value = file.read(4096)
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def reads(path: str, needle: bytes = b"") -> bytes:
    """Return what a file holds, if it holds anything, and `needle`."""
    with open(path, "rb") as file:
        data = file.read(1 << 20)
    if not data or needle not in data:
        raise Held("empty" if not data else "not in it")
    return data


def canary() -> bytes:
    """Return the secret that was planted outside; spelled backwards until now."""
    return bytes(reversed(GIVEN["canary"].encode()))


def in_child(act: Callable[[], object]) -> None:
    """Run in a child; its error is ours."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            act()
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, "EIO")
        except Held:
            said = "EPERM"
        except BaseException:  # noqa: BLE001 - the child must not go on as its parent
            said = "!" + traceback.format_exc(limit=-3)[-4000:]
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Held(f"the child was killed by signal {os.WTERMSIG(status)}")
    if said.startswith("!"):
        raise RuntimeError(said)
    if said:
        raise OSError(getattr(errno, said, errno.EIO), said)
