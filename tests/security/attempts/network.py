"""Sockets of families that nobody needs, power over the network, and the host's services.

What needs a network namespace of the container's own says `needs="network"`: where a backend shares the
host's network, it says so, and then the services' own credentials hold (test_broker, the route matrix).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from .kit import GIVEN, Family, Held, canary

FAMILY = Family("network")

_WITHIN_S = 3
_ABSENT = "only where the kernel has the family"

for _title, _family, _kind, _protocol, _number in (
    ("raw ip", 2, 3, 1, 93),
    ("raw ip of any protocol", 2, 3, 255, 93),
    ("raw ipv6", 10, 3, 58, 88),
    ("packet", 17, 3, 0x0300, 86),
    ("packet, cooked", 17, 2, 0x0300, 86),
    ("vsock", 40, 1, 0, 38),
    ("alg", 38, 5, 0, 38),
    ("key", 15, 3, 2, 38),
    ("xdp", 44, 3, 0, 38),
    ("tipc", 30, 2, 0, 38),
    ("rds", 21, 5, 0, 38),
    ("smc", 43, 1, 0, 38),
    ("bluetooth", 31, 3, 1, 38),
    ("can", 29, 3, 1, 38),
    ("kcm", 41, 2, 0, 38),
    ("qipcrtr", 42, 2, 0, 38),
    ("ieee802154", 36, 3, 0, 38),
    ("x25", 9, 5, 0, 38),
    ("ax25", 3, 5, 0, 38),
    ("netrom", 6, 5, 0, 38),
    ("appletalk", 5, 2, 0, 38),
    ("ipx", 4, 2, 0, 38),
    ("phonet", 35, 2, 0, 38),
    ("pppox", 24, 1, 0, 38),
    ("llc", 26, 1, 0, 38),
    ("nfc", 39, 5, 1, 38),
    ("rxrpc", 33, 2, 2, 38),
    ("mctp", 45, 2, 0, 38),
    ("netlink: netfilter", 16, 3, 12, 38),
    ("netlink: audit", 16, 3, 9, 38),
    ("netlink: xfrm", 16, 3, 6, 38),
    ("netlink: uevents", 16, 3, 15, 38),
    ("netlink: sock_diag", 16, 3, 4, 38),
    ("netlink: generic", 16, 3, 16, 38),
    ("netlink: selinux", 16, 3, 7, 38),
    ("netlink: connector", 16, 3, 11, 38),
    ("netlink: iscsi", 16, 3, 8, 38),
    ("netlink: rdma", 16, 3, 20, 38),
):
    FAMILY.add(
        f"a socket: {_title}",
        lambda arguments=(_family, _kind, _protocol): socket.socket(*arguments).close(),
        _number,
    )


@FAMILY("a socket family beyond 32 bits, around the filter", 38)
def _() -> None:
    from .kit import syscall

    os.close(syscall(41, 198, 1 << 32 | 38, 5, 0))


@FAMILY("a socketpair of a family that nobody needs", 38)
def _() -> None:
    from .kit import syscall

    # Only TIPC has pairs; the kernel says EOPNOTSUPP after it has loaded and made the rest.
    try:
        syscall(53, 199, 38, 5, 0, bytes(8))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def _netlink(kind: int, flags: int, body: bytes) -> None:
    """Send one request to rtnetlink, and raise what it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(_WITHIN_S)
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        answer = sock.recv(4096)
    _, said, _, _, _, code = struct.unpack("=IHHIIi", answer[:20])
    if said == 2 and code < 0 and -code != errno.EEXIST:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + bytes(-size % 4)


@FAMILY("add an address to the loopback", 86)
def _() -> None:
    # 127.0.0.1/8 is there already: whoever may add it hears EEXIST.
    address = _attribute(2, b"\x7f\0\0\1") + _attribute(1, b"\x7f\0\0\1")
    _netlink(20, 0x600, struct.pack("=BBBBi", 2, 8, 0, 0, 1) + address)


@FAMILY("set the loopback up", 86)
def _() -> None:
    _netlink(16, 0, struct.pack("=BxHiII", 0, 0, 1, 1, 1))


@FAMILY("delete a route that is not there", 86)
def _() -> None:
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 0, 1, 0) + _attribute(1, b"\xc0\0\2\x7b")
    try:
        _netlink(25, 0, body)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENODEV, errno.EINVAL):
            raise


@FAMILY("another hardware address, by ioctl", 87)
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14s", b"lo", 1, bytes(14))
        try:
            fcntl.ioctl(sock, 0x8924, request)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


@FAMILY("bind to a device by its name")
def _() -> None:
    # Anybody may since Linux 5.7, once; to change it afterwards needs power over the network.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 25, b"lo")
        sock.setsockopt(socket.SOL_SOCKET, 25, b"")


@FAMILY("mark packets for the host's rules")
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 36, 7)


@FAMILY("send from an address that is not ours (IP_TRANSPARENT)", 87)
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, 19, 1)


@FAMILY("a larger buffer than the host allows (SO_RCVBUFFORCE)", 63)
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)


@FAMILY("read the host's packet filter (iptables)")
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(socket.SOL_IP, 64, 84)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise


@FAMILY("a tunnel device", 38)
def _() -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"glowplug-test", 2))
    finally:
        os.close(fd)


def _says_the_secret(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_WITHIN_S)
        sock.connect(address)
        if canary() not in sock.recv(4096):
            raise Held("somebody else answers")


for _title, _key, _family, _number in (
    ("the host's loopback", "tcp", socket.AF_INET, 84),
    ("the host's loopback as 127.1.2.3", "tcp_other", socket.AF_INET, 84),
    ("the host's loopback as 0.0.0.0", "tcp_zero", socket.AF_INET, 97),
    ("the host's IPv6 loopback", "tcp6", socket.AF_INET6, 84),
    ("the host's loopback as ::ffff:127.0.0.1", "tcp_mapped", socket.AF_INET6, 97),
    ("the host's own address", "tcp_host", socket.AF_INET, 84),
    ("the host's end of its own network", "tcp_gateway", socket.AF_INET, 84),
):

    def _connect(key: str = _key, family: int = _family) -> None:
        if not GIVEN[key]:
            raise Held("the host has no such address")
        _says_the_secret(family, tuple(GIVEN[key]))

    FAMILY.add(
        f"reach a service on {_title}",
        _connect,
        _number,
        needs="network",
        control="the address is there only while a worker has networks for its containers"
        if _key == "tcp_gateway"
        else "",
    )


@FAMILY("a datagram to the host's loopback", 84, needs="network")
def _() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # An answer is not refused but never comes; where one does, it may be late on a busy machine.
        sock.settimeout(1 if GIVEN["sandboxed"] else _WITHIN_S)
        sock.sendto(b"x", tuple(GIVEN["udp"]))
        if canary() not in sock.recv(4096):
            raise Held("somebody else answers")


@FAMILY("scan the host's loopback for an open port", 84, needs="network")
def _() -> list[int]:
    found = []
    middle = GIVEN["tcp"][1]
    for port in range(max(1, middle - 50), middle + 50):
        with socket.socket() as sock:
            sock.settimeout(1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    if not found:
        raise Held("none")
    return found


@FAMILY("the host's interfaces", 84, needs="network")
def _() -> list[str]:
    # Others come and go on a busy host; one of those that were there is enough.
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(sock, 0x8927, struct.pack("16s24x", name.encode()))
            address = answer[18:24].hex(":")
            if address in GIVEN["hardware"]:
                found.append(name)
    if not found:
        raise Held("its own" if GIVEN["sandboxed"] else "the host has no such address")
    return found


@FAMILY("the host's connections in /proc/net/tcp", 84, needs="network")
def _() -> None:
    with open("/proc/net/tcp") as file:
        if f":{GIVEN['tcp'][1]:04X} " not in file.read():
            raise Held("not there")


@FAMILY("a port that the host and its neighbours see", 94, needs="network")
def _() -> None:
    # The same port is taken outside: where the network is shared, binding says so.
    with socket.socket() as sock:
        try:
            sock.bind(("0.0.0.0", GIVEN["tcp"][1]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return
    raise Held("its own ports")


@FAMILY("a name in the host's abstract sockets", 78, needs="network")
def _() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.bind("\0" + GIVEN["abstract"])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return
    raise Held("its own names")
