"""Lets a stopped process make one call that its filter forbids, and takes a newborn's powers away: ptrace.

A template may not make namespaces: its filter refuses. While it forks for the nursery it is traced; only
when it stands before exactly the call that was agreed, the filter is set aside, for that call. The child is
born stopped, with every capability in a user namespace of its own; it loses them all before it runs an
instruction. Setting a filter aside takes root. A template of an ordinary user's has a filter that leaves
this call to its tracer, and says that there is no such call when it has none. Only x86-64: registers and machine
code are spelled here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

MACHINE: Final = "x86_64"
CLONE_CALL: Final = 56
# CLONE_NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID, and SIGCHLD at the end: what a template must ask for.
CLONE_FLAGS: Final = 0x20000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | signal.SIGCHLD
_CLONE_NEWNET: Final = 0x40000000
# Where nobody may set a filter aside, it leaves these to the tracer.
FORKS: Final = (CLONE_FLAGS, CLONE_FLAGS | _CLONE_NEWNET)

_CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_SETOPTIONS: Final = 0x4200
_GETEVENTMSG: Final = 0x4201
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_PRSTATUS: Final = 1
_TRACE_SYSGOOD: Final = 0x1
_TRACE_FORK: Final = 0x2
_TRACE_SECCOMP: Final = 0x80
_SUSPEND_SECCOMP: Final = 1 << 21
_EVENT_FORK: Final = 1
_EVENT_SECCOMP: Final = 7
_WALL: Final = 0x40000000
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_ENTERED: Final = (
    1 << 64
) - 38  # what the result's register holds while a call is entered: -ENOSYS
# A template that does what it should stops about four times.
STOPS_MAX: Final = 200

_REGISTERS: Final = 27
R14, R13, R12, R10, R8, RAX, RDX, RSI, RDI, ORIG_RAX, RIP, RSP = (
    1,
    2,
    3,
    7,
    9,
    10,
    12,
    13,
    14,
    15,
    16,
    19,
)


class TraceError(Exception):
    """The process did something else than agreed."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Trace a process, stopped, inside the block. Raises: OSError, TraceError."""
    _ptrace(_SEIZE, pid, data=_TRACE_SYSGOOD | _TRACE_FORK)
    try:
        _ptrace(_INTERRUPT, pid)
        _stop_of(pid)
        yield
    finally:
        let_go(pid)


def let_go(pid: int) -> None:
    """Trace a stopped process no longer; one that is gone is no matter."""
    try:
        _ptrace(_SETOPTIONS, pid)
        _ptrace(_DETACH, pid)
    except ProcessLookupError:
        return


def run_to_clone(pid: int) -> None:
    """Let the stopped process run until it asks for namespaces; then let it have them.

    Returns the moment before; `newborn` brings the child. Raises: TraceError.
    """
    undelivered = 0
    for _ in range(STOPS_MAX):
        _ptrace(_SYSCALL, pid, data=undelivered)
        status = _stop_of(pid)
        undelivered = 0
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            if status >> 16 == 0:  # no event of ptrace's: a signal, which it must get
                undelivered = os.WSTOPSIG(status)
            continue
        registers = read_registers(pid)
        if registers[RAX] == _ENTERED and registers[ORIG_RAX] == CLONE_CALL:
            if registers[RDI] == CLONE_FLAGS:
                return
            raise TraceError(f"it asked to clone with {registers[RDI]:#x}")
    raise TraceError("it did not fork when it was told to")


def newborn(pid: int, *, own_network: bool, asked: bool) -> int:
    """Have the filter pass the one call before which the process stands; return its child, stopped.

    With `own_network` the child gets a new one, else it is in the template's. It is traced until `let_go`.
    `asked`: the filter asks for this call, else it is set aside. Raises: TraceError.
    """
    if own_network:
        registers = read_registers(pid)
        registers[RDI] |= _CLONE_NEWNET
        write_registers(pid, registers)
    how = _TRACE_SECCOMP if asked else _SUSPEND_SECCOMP
    _ptrace(_SETOPTIONS, pid, data=_TRACE_SYSGOOD | _TRACE_FORK | how)
    _ptrace(_SYSCALL, pid)
    status = _stop_of(pid)
    if asked and status >> 16 == _EVENT_SECCOMP:
        if read_registers(pid)[RDI] not in FORKS:
            raise TraceError("it changed its mind")
        _ptrace(_SYSCALL, pid)
        status = _stop_of(pid)
    if status >> 16 != _EVENT_FORK:
        raise TraceError("the kernel refused it the namespaces")
    message = ctypes.c_ulong()
    _ptrace(_GETEVENTMSG, pid, data=ctypes.addressof(message))
    child = int(message.value)
    _stop_of(child)
    return child


def run_to_trap(pid: int) -> int:
    """Let a stopped process run until it traps; return what is in its result's register then.

    Raises: TraceError.
    """
    _ptrace(_CONT, pid)
    if os.WSTOPSIG(_stop_of(pid)) != signal.SIGTRAP:
        raise TraceError("it stopped before it was told to")
    return read_registers(pid)[RAX]


def _stop_of(pid: int) -> int:
    """Wait until the traced process stops; return its status. Raises: TraceError when it ended."""
    _, status = os.waitpid(pid, _WALL)
    if not os.WIFSTOPPED(status):
        raise TraceError("it ended")
    return status


def read_registers(pid: int) -> list[int]:
    """Return a stopped process's registers, as the kernel orders them."""
    buffer = ctypes.create_string_buffer(_REGISTERS * 8)
    area = _Iovec(ctypes.addressof(buffer), len(buffer.raw))
    _ptrace(_GETREGSET, pid, _PRSTATUS, ctypes.addressof(area))
    return list(struct.unpack(f"={_REGISTERS}Q", buffer.raw))


def write_registers(pid: int, registers: list[int]) -> None:
    """Set them."""
    buffer = ctypes.create_string_buffer(struct.pack(f"={_REGISTERS}Q", *registers), _REGISTERS * 8)
    area = _Iovec(ctypes.addressof(buffer), _REGISTERS * 8)
    _ptrace(_SETREGSET, pid, _PRSTATUS, ctypes.addressof(area))


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if LIBC.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
