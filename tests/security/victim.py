"""A process of the host that has what containers want: a secret in every place, and services.

`python victim.py SECRET-BACKWARDS NAME SHM_KEY`: says one JSON line, and then answers each line it hears,
until its standard input ends. Standard library only; run by the user that runs the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import sys


def main() -> None:
    secret = sys.argv[1].encode()
    name, key = sys.argv[2], int(sys.argv[3])
    kept = bytearray(secret)  # in its memory, beside its environment and its arguments
    libc = ctypes.CDLL(None, use_errno=True)
    shm = libc.shmget(key, 4096, 0o1666)
    msg = libc.msgget(key, 0o1666)
    sem = libc.semget(key, 1, 0o1666)
    queue = libc.syscall(
        240 if os.uname().machine == "x86_64" else 180, name.encode(), 0o102, 0o666, None
    )
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(secret)
    listeners = [_listen(socket.AF_INET, ("0.0.0.0", 0))]
    port = listeners[0].getsockname()[1]
    with contextlib.suppress(OSError):
        listeners.append(_listen(socket.AF_INET6, ("::1", 0)))
    six = listeners[1].getsockname()[:2] if len(listeners) > 1 else None
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + name)
    abstract.listen(64)
    listeners.append(abstract)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    print(json.dumps({"port": port, "six": six, "udp": udp.getsockname()}), flush=True)
    try:
        _serve(listeners, udp, secret)
    finally:
        assert kept
        libc.shmctl(shm, 0, None)
        libc.msgctl(msg, 0, None)
        libc.semctl(sem, 0, 0)
        if queue >= 0:
            libc.syscall(241 if os.uname().machine == "x86_64" else 181, name.encode())
        os.unlink(f"/dev/shm/{name}")


def _listen(family: int, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen(64)
    return sock


def _serve(listeners: list[socket.socket], udp: socket.socket, secret: bytes) -> None:
    while True:
        readable, _, _ = select.select([0, udp, *listeners], [], [])
        for one in readable:
            if one == 0:
                if not os.read(0, 4096):
                    return
                print("here", flush=True)
            elif one is udp:
                _, asker = udp.recvfrom(4096)
                udp.sendto(secret, asker)
            else:
                connection, _ = one.accept()
                with contextlib.suppress(OSError):
                    connection.sendall(secret)
                connection.close()


if __name__ == "__main__":
    main()
