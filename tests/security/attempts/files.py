"""Files: the host's out of sight, what is shared not writable, no device, no way out by any link."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import sys

from .kit import AT_FDCWD, GIVEN, LIBC, Family, Held, called, opens, reads, syscall

FAMILY = Family("files")
ROOT_HOME = "/root"

for _path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/machine-id", "/etc/hostname",
              "/etc/fstab", "/var/log", "/var/lib/dpkg/status", "/run", "/boot", "/var/run/docker.sock",
              "/run/containerd/containerd.sock", ROOT_HOME + "/.ssh", ROOT_HOME + "/.bashrc", "/var/spool/cron",
              "/run/glowplug", "/proc/1/root/etc/shadow", "/proc/self/root/etc/shadow",
              "/proc/self/cwd/../../../../etc/shadow", "/tmp/../etc/shadow"):  # fmt: skip
    FAMILY.add(f"open {_path}", lambda path=_path: opens(path), 105 if "proc" in _path else 101)

FAMILY.add("read the user's home", lambda: reads(GIVEN["home"]), 119)
FAMILY.add("read the data directory", lambda: reads(GIVEN["data"]), 119)
FAMILY.add("list the data directory", lambda: os.listdir(GIVEN["data_dir"]), 119)
FAMILY.add("read a file of the host's /tmp", lambda: reads(GIVEN["tmp"]), 119)
FAMILY.add("read another container's scratch", lambda: reads(GIVEN["neighbour"]), 117)


def _creates(path: str) -> None:
    opens(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
    os.unlink(path)


for _folder in ("/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/lib", "/bin", "/opt", "/dev", "/var",
                "/home"):  # fmt: skip
    FAMILY.add(
        f"make a file in {_folder}",
        lambda folder=_folder: _creates(f"{folder.rstrip('/')}/glowplug-test-{os.getpid()}"),
    )


@FAMILY("overwrite the interpreter, /proc/self/exe", 39)
def _() -> None:
    try:
        opens("/proc/self/exe", os.O_WRONLY)
    except OSError as error:
        if error.errno != errno.ETXTBSY:  # it may be written once nobody runs it
            raise


@FAMILY("overwrite the interpreter by a descriptor opened for reading", 39)
def _() -> None:
    fd = os.open("/proc/self/exe", os.O_PATH)
    try:
        opens(f"/proc/self/fd/{fd}", os.O_WRONLY)
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise


@FAMILY("overwrite the runtime, /proc/1/exe", 39)
def _() -> None:
    path = "/proc/1/exe" if GIVEN["sandboxed"] else f"/proc/{GIVEN['victim']}/exe"
    try:
        opens(path, os.O_RDWR)
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise


@FAMILY("change the mode of the runtime, /proc/1/exe, past its mount", 39)
def _() -> None:
    path = "/proc/1/exe" if GIVEN["sandboxed"] else f"/proc/{GIVEN['victim']}/exe"
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))


@FAMILY("replace the interpreter by a rename", 39)
def _() -> None:
    own = os.path.realpath(sys.executable)
    os.rename(own, own + ".glowplug-test")
    os.rename(own + ".glowplug-test", own)


@FAMILY("chmod the interpreter", 39)
def _() -> None:
    own = os.path.realpath(sys.executable)
    os.chmod(own, stat.S_IMODE(os.stat(own).st_mode))


@FAMILY("a library that everything loads: /etc/ld.so.preload", 50)
def _() -> None:
    _creates("/etc/ld.so.preload")


@FAMILY("sitecustomize into the interpreter", 50)
def _() -> None:
    _creates(os.path.join(os.path.dirname(os.__file__), "sitecustomize.py"))


for _word in ("source", "layer", "sdk"):

    def _write(word: str = _word) -> None:
        fd = os.open(GIVEN[word] + "/file.py", os.O_WRONLY | os.O_APPEND)
        os.close(fd)

    def _add(word: str = _word) -> None:
        _creates(GIVEN[word] + "/new.py")

    def _time(word: str = _word) -> None:
        os.utime(GIVEN[word] + "/file.py")

    def _mode(word: str = _word) -> None:
        os.chmod(GIVEN[word] + "/file.py", 0o755)

    def _rename(word: str = _word) -> None:
        path = GIVEN[word] + "/file.py"
        os.rename(path, path + "2")
        os.rename(path + "2", path)

    def _map(word: str = _word) -> None:
        import mmap

        fd = os.open(GIVEN[word] + "/file.py", os.O_RDONLY)
        reopened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        mmap.mmap(reopened, 1, mmap.MAP_SHARED)

    FAMILY.add(f"write to a file of the {_word} that others run", _write, 39)
    FAMILY.add(f"add a file to the {_word}", _add, 39)
    FAMILY.add(f"touch a file of the {_word}", _time, 39)
    FAMILY.add(f"chmod a file of the {_word}", _mode, 39)
    FAMILY.add(f"rename a file of the {_word}", _rename, 39)
    FAMILY.add(f"map a file of the {_word} to write, reopened through /proc", _map, 40)


@FAMILY("hardlink a shared file into a writable place, and write there", 103)
def _() -> None:
    target = GIVEN["volume"] + "/linked"
    os.link(GIVEN["source"] + "/file.py", target)
    try:
        opens(target, os.O_WRONLY)
    finally:
        os.unlink(target)


def _device(kind: int, major: int, minor: int) -> None:
    path = f"{GIVEN['writable']}/device"
    os.mknod(path, kind | 0o666, os.makedev(major, minor))
    os.unlink(path)


for _title, _kind, _major, _minor in (
    ("null", stat.S_IFCHR, 1, 3),
    ("mem", stat.S_IFCHR, 1, 1),
    ("a disk", stat.S_IFBLK, 254, 0),
    ("a loop device", stat.S_IFBLK, 7, 0),
):
    FAMILY.add(
        f"make a device: {_title}",
        lambda kind=_kind, major=_major, minor=_minor: _device(kind, major, minor),
        109,
    )


@FAMILY("make a device in a volume", 109)
def _() -> None:
    path = GIVEN["volume"] + "/device"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.unlink(path)


@FAMILY("a volume that lets devices and setuid work", 109)
def _() -> None:
    flags = os.statvfs(GIVEN["volume"]).f_flag
    if flags & os.ST_NODEV and flags & os.ST_NOSUID:
        raise Held("nodev, nosuid")


@FAMILY("an attribute that overlays trust", 109)
def _() -> None:
    path = GIVEN["volume"] + "/attributed"
    with open(path, "wb"):
        pass
    try:
        os.setxattr(path, "trusted.overlay.redirect", b"/etc")
    finally:
        os.unlink(path)


@FAMILY("immutable files in a volume, that nobody can remove")
def _() -> None:
    path = GIVEN["volume"] + "/immutable"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        word = ctypes.c_int(0x10)
        called(LIBC.ioctl(fd, ctypes.c_ulong(0x40086602), ctypes.byref(word)))
        word = ctypes.c_int(0)
        called(LIBC.ioctl(fd, ctypes.c_ulong(0x40086602), ctypes.byref(word)))
    finally:
        os.close(fd)
        os.unlink(path)


@FAMILY("a file of another owner in a volume")
def _() -> None:
    path = GIVEN["volume"] + "/owned"
    with open(path, "wb"):
        pass
    try:
        os.chown(path, 0 if os.geteuid() else 4242, 0)
    finally:
        os.unlink(path)


def _descriptors() -> list[int]:
    """The descriptors that it was given, beyond its standard ones and its wire."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        own = ("pipe:", "/proc/", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")
        if number > 2 and number != GIVEN["wire"] and not target.startswith(own):
            found.append(number)
    return found


@FAMILY(
    "a descriptor that was left open",
    40,
    control="descriptors are closed by every backend, the plain one too; test_backends shows it",
)
def _() -> list[str]:
    found = _descriptors()
    if not found:
        raise Held("none")
    return [os.readlink(f"/proc/self/fd/{number}") for number in found]


@FAMILY(
    "out of the root by any descriptor it has",
    40,
    control="no descriptor is left open to start from",
)
def _() -> None:
    for number in range(256):
        for way in ("..", "../../../../../../etc/shadow"):
            try:
                os.close(os.open(way, os.O_RDONLY, dir_fd=number))
            except OSError:
                continue
            return
    raise Held("none leads anywhere")


@FAMILY(
    "reopen standard input, output or error for the other direction",
    40,
    control="the plain process gets the same pipe",
)
def _() -> None:
    for number in (0, 1, 2):
        target = os.readlink(f"/proc/self/fd/{number}")
        if not target.startswith("pipe:") and target != "/dev/null":
            return
    raise Held("nothing and a pipe of its own")


@FAMILY(
    "a descriptor that the worker would have to keep, sent over its socket",
    68,
    control="it works between two who agree; test_protocol shows that the worker does not",
)
def _() -> None:
    # The worker reads bytes only; a descriptor sent along is dropped by the kernel, never installed.
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [0])
    theirs.recv(1)
    raise Held("dropped by whoever reads without asking for it")


@FAMILY("openat2 of a path of the host", 15)
def _() -> None:
    fd = syscall(437, 437, AT_FDCWD, GIVEN["data"].encode(), bytes(24), 24)
    os.close(fd)


@FAMILY("a file made here lets others run it as its owner")
def _() -> None:
    for folder in (GIVEN["writable"], "/dev/shm"):
        if not os.statvfs(folder).f_flag & os.ST_NOSUID:
            return
    raise Held("nosuid")
