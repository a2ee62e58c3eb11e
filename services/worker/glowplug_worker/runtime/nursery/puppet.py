"""Makes a stopped, traced newborn do system calls: what only the process itself can do, or do quickly."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from glowplug_worker.runtime.nursery.tracer import (
    ORIG_RAX,
    R8,
    R10,
    R12,
    R13,
    R14,
    RAX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
    TraceError,
    read_registers,
    run_to_trap,
    write_registers,
)

# for (rbx = 0; rbx < 64; rbx++) prctl(PR_CAPBSET_DROP, rbx); capset(r12, r13); int3
_DROP_ALL: Final = bytes.fromhex(
    "31db b89d000000 bf18000000 4889de 31d2 4d31d2 4d31c0 0f05 ffc3 83fb40 72e2"
    "b87e000000 4c89e7 4c89ee 0f05 cc"
)
# for (rbx = 0; rbx < r13; rbx++) { if (write(r12[rbx], r14, 1) < 0) break; close(r12[rbx]) } int3
_WRITE_EACH: Final = bytes.fromhex(
    "31db 4c39eb 7327 b801000000 418b3c9c 4c89f6 ba01000000 0f05 4885c0 7811"
    "b803000000 418b3c9c 0f05 ffc3 ebd4 31c0 cc"
)
_CAPABILITY_VERSION: Final = 0x20080522
_SYSCALL_THEN_TRAP: Final = bytes.fromhex("0f05cc")
_ARGUMENTS: Final = (RDI, RSI, RDX, R10, R8)
NO_CALL: Final = (1 << 64) - 1  # it is in no call that could be restarted
_SCRATCH_BELOW_STACK: Final = 4096
_SCRATCH_BYTES: Final = 1024

_RECVMSG: Final = 47
_DONTWAIT: Final = 0x40
_CMSG_CLOEXEC: Final = 0x40000000
_HEADER: Final = struct.Struct("=QIxxxxQQQQIxxxx")  # struct msghdr
_CONTROL_AT: Final = 256
_FDS_MAX: Final = 16


class Puppet:
    """A stopped newborn; made by `opened`."""

    def __init__(self, pid: int, memory: int) -> None:
        self.pid = pid
        self.memory = memory
        self._before = read_registers(pid)
        self.code_at = self._before[RIP]
        self.scratch = (self._before[RSP] - _SCRATCH_BELOW_STACK) & ~63

    def run(self, code: bytes, **registers: int) -> int:
        """Run machine code that ends in a trap; return what it leaves as a result. Raises: TraceError."""
        was = os.pread(self.memory, len(code), self.code_at)
        os.pwrite(self.memory, code, self.code_at)
        during = list(self._before)
        during[ORIG_RAX] = NO_CALL
        for name, value in registers.items():
            during[int(name[1:])] = value & NO_CALL
        write_registers(self.pid, during)
        result = run_to_trap(self.pid)
        os.pwrite(self.memory, was, self.code_at)
        return result - (1 << 64) if result >> 63 else result

    def call(self, number: int, *arguments: int) -> int:
        """Make it do a system call. Raises: OSError."""
        given = {f"r{place}": value for place, value in zip(_ARGUMENTS, arguments, strict=False)}
        result = self.run(_SYSCALL_THEN_TRAP, **{f"r{RAX}": number}, **given)
        if result < 0:
            raise OSError(-result, f"the newborn: {os.strerror(-result)}")
        return result

    def restore(self) -> None:
        """Make it go on as if nothing had been: its `clone` returns 0."""
        after = list(self._before)
        after[RAX], after[ORIG_RAX] = 0, NO_CALL
        write_registers(self.pid, after)


@contextmanager
def opened(pid: int) -> Iterator[Puppet]:
    """Yield the newborn as a puppet, and restore it."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        puppet = Puppet(pid, memory)
        yield puppet
        puppet.restore()
    finally:
        os.close(memory)


def join(puppet: Puppet, gift: socket.socket, theirs: socket.socket, files: Iterable[str]) -> None:
    """Make the newborn enter control groups by itself, which spares it a wait for every fork on the host.

    It is handed the files over a socket whose other end, `theirs`, it has inherited. Raises: OSError.
    """
    opened_files = [os.open(file, os.O_WRONLY | os.O_CLOEXEC) for file in files]
    try:
        if not opened_files:
            return
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", opened_files))
        gift.sendmsg([b"0"], [rights], socket.MSG_DONTWAIT)
    finally:
        for fd in opened_files:
            os.close(fd)
    wanted = f"socket:[{os.fstat(theirs.fileno()).st_ino}]"
    at, count = _receive(puppet, _find(puppet.pid, wanted))
    # The "0" that came with them: whoever writes it. All in one go, for each stop costs two changes of process.
    given = {f"r{R12}": at, f"r{R13}": count, f"r{R14}": puppet.scratch}
    result = puppet.run(_WRITE_EACH, **given)
    if result < 0:
        raise OSError(-result, f"the newborn's control groups: {os.strerror(-result)}")


def drop_capabilities(puppet: Puppet) -> None:
    """Make the newborn lose every capability, for good. Raises: TraceError."""
    nothing = struct.pack("=Ii6I", _CAPABILITY_VERSION, 0, *(0,) * 6)
    os.pwrite(puppet.memory, nothing, puppet.scratch)
    given = {f"r{R12}": puppet.scratch, f"r{R13}": puppet.scratch + 8}
    if puppet.run(_DROP_ALL, **given) != 0:
        raise TraceError("it kept its capabilities")


def _find(pid: int, wanted: str) -> int:
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - no pathlib here
        if os.readlink(f"/proc/{pid}/fd/{name}") == wanted:  # noqa: PTH115
            return int(name)
    raise TraceError("it did not keep what it was given")


def _receive(puppet: Puppet, fd: int) -> tuple[int, int]:
    """Make it receive one byte, at the beginning of its scratch memory, with descriptors.

    Returns where in its memory their numbers stand, and how many they are.
    """
    data, parts = puppet.scratch, puppet.scratch + 16
    header, control = puppet.scratch + 64, puppet.scratch + _CONTROL_AT
    room = socket.CMSG_SPACE(_FDS_MAX * 4)
    os.pwrite(puppet.memory, struct.pack("=QQ", data, 1), parts)
    os.pwrite(puppet.memory, _HEADER.pack(0, 0, parts, 1, control, room, 0), header)
    puppet.call(_RECVMSG, fd, header, _DONTWAIT | _CMSG_CLOEXEC)
    length, level, kind = struct.unpack("=QII", os.pread(puppet.memory, 16, control))
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        raise TraceError("it got no descriptors")
    return control + 16, (length - 16) // 4
