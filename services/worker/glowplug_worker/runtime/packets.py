"""Packets with descriptors between a worker and the processes that start containers for it. Standard library only."""

from __future__ import annotations

import array
import socket


def receive(channel: socket.socket, bytes_max: int, fds_max: int) -> tuple[bytes, list[int]]:
    """Return the next packet and its descriptors, which no `exec` inherits; b"" at the end.

    (`socket.recv_fds` takes flags and does not use them.)
    """
    fds = array.array("i")
    data, ancillary, _, _ = channel.recvmsg(
        bytes_max, socket.CMSG_LEN(fds_max * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, part in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return data, list(fds)
