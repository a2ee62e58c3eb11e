"""Taking too much of what the host has. Each stops by itself well before the host would feel it.

"Through" means that it got as much as it asked for, which is more than its container was given.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import mmap
import os
import resource
import select
import signal
import socket
import threading
import time

from .kit import GIVEN, LIBC, Family, Held, called

FAMILY = Family("limits")

MIB = 1 << 20
# More than any limit that the stage sets, and little enough for the host.
_MEMORY_MIB = 384
_FILES_MAX = 70_000


def _until_refused(take, times: int) -> None:
    """Take `times` times; held when it is refused before."""
    taken = []
    for number in range(times):
        try:
            taken.append(take(number))
        except (OSError, MemoryError, RuntimeError) as error:
            raise Held(f"{number} of {times}: {error}") from None


@FAMILY("a fork bomb", 59, needs="pids")
def _() -> None:
    pids = []
    try:
        _until_refused(lambda _: pids.append(_fork_sleeper()), 2 * GIVEN["pids"])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def _fork_sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


@FAMILY("a bomb of threads", 60, needs="pids")
def _() -> None:
    threading.stack_size(64 << 10)
    over = threading.Event()

    def start(_: int) -> threading.Thread:
        thread = threading.Thread(target=over.wait, daemon=True)
        thread.start()
        return thread

    try:
        _until_refused(start, 2 * GIVEN["pids"])
    finally:
        over.set()


def _fill(memory) -> None:
    page = b"x" * MIB
    for number in range(_MEMORY_MIB):
        memory(number, page)


@FAMILY("memory: anonymous", 61, needs="memory", ends=True)
def _() -> None:
    held = []
    _fill(lambda _, page: held.append(bytearray(page)))


@FAMILY("memory: a mapping that is shared", 61, needs="memory", ends=True)
def _() -> None:
    shared = mmap.mmap(-1, _MEMORY_MIB * MIB)
    _fill(lambda _, page: shared.write(page))


@FAMILY("memory: a memfd", 61, needs="memory", ends=True)
def _() -> None:
    fd = os.memfd_create("bomb")
    _fill(lambda _, page: os.write(fd, page))


@FAMILY("memory: in many processes", 61, needs="memory", ends=True)
def _() -> None:
    reading, writing = os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            held = []
            for _ in range(_MEMORY_MIB // 8):
                held.append(bytearray(b"x" * MIB))
            os.write(writing, b"x")
            signal.pause()
        pids.append(pid)
    os.close(writing)
    done = b""
    gone = set()
    deadline = time.monotonic() + 30
    while len(done) + len(gone) < 8 and time.monotonic() < deadline:
        if select.select([reading], [], [], 0.05)[0]:
            done += os.read(reading, 8)
        for pid in set(pids) - gone:
            if os.waitpid(pid, os.WNOHANG)[0]:
                gone.add(pid)
    for pid in set(pids) - gone:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if len(done) < 8:
        raise Held(f"{len(gone)} of 8 were killed")


def _fills_files(folder: str, mib: int) -> None:
    path = f"{folder}/bomb-{os.getpid()}"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(mib):
            os.write(fd, b"x" * MIB)
    finally:
        os.close(fd)
        os.unlink(path)


for _folder, _needs in (("/tmp", "memory"), ("/dev/shm", "memory")):
    FAMILY.add(
        f"fill {_folder}",
        lambda folder=_folder: _fills_files(folder, _MEMORY_MIB),
        61,
        64,
        needs=_needs,
        ends=True,
    )


@FAMILY("fill the disk", 64, needs="disk")
def _() -> None:
    _fills_files(GIVEN["disk"], 2 * GIVEN["disk_mib"])


@FAMILY(
    "a sparse file of 4 TiB",
    65,
    control="every backend bounds the size of a file, the plain one too",
)
def _() -> None:
    path = GIVEN["disk"] + "/sparse"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        os.ftruncate(fd, 1 << 42)
    finally:
        os.close(fd)
        os.unlink(path)


@FAMILY("a bomb of inodes", 66, needs="disk")
def _() -> None:
    folder = GIVEN["disk"] + "/inodes"
    os.mkdir(folder)
    made = 0
    try:
        for number in range(2 * GIVEN["inodes"]):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT))
            made += 1
    except OSError as error:
        raise Held(f"{made}: {error}") from None
    finally:
        for number in range(made):
            os.unlink(f"{folder}/{number}")
        os.rmdir(folder)


@FAMILY("directories a thousand deep, that a walk from outside survives", 67,
        control="directories may be deep; that the worker takes them away is what matters")  # fmt: skip
def _() -> None:
    top = os.open(GIVEN["disk"], os.O_RDONLY)
    for _ in range(1_000):
        with contextlib.suppress(FileExistsError):
            os.mkdir("d" * 200, dir_fd=top)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = deeper
    raise Held("made, and taken away with the container")


@FAMILY("a bomb of descriptors", 68, control="every backend bounds descriptors, the plain one too")
def _() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    taken = []
    try:
        for _ in range(_FILES_MAX):
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        for fd in taken:
            os.close(fd)
        raise Held(f"{len(taken)}: {errno.errorcode[error.errno]}") from None


@FAMILY(
    "descriptors that are in flight in a cycle",
    68,
    control="the kernel collects what is in no table; that the host goes on is what matters",
)
def _() -> None:
    # A socket that is only held by a message in another one, and the other way round: the kernel counts
    # them for the user and refuses, or collects them.
    for _ in range(20_000):
        ours, theirs = socket.socketpair()
        ours.sendmsg(
            [b"x"],
            [
                (
                    socket.SOL_SOCKET,
                    socket.SCM_RIGHTS,
                    array.array("i", [ours.fileno(), theirs.fileno()]),
                )
            ],
        )  # noqa: E501
        theirs.sendmsg(
            [b"x"],
            [
                (
                    socket.SOL_SOCKET,
                    socket.SCM_RIGHTS,
                    array.array("i", [ours.fileno(), theirs.fileno()]),
                )
            ],
        )  # noqa: E501
        ours.close()
        theirs.close()
    raise Held("the kernel collected them")


@FAMILY("memory of the kernel: pipes", 63)
def _() -> None:
    import fcntl

    pipes = []
    for _ in range(300):
        reading, writing = os.pipe()
        pipes.append((reading, writing))
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MIB)


@FAMILY(
    "memory of the kernel: watches of files", 63, control="the kernel bounds them for every user"
)
def _() -> None:
    instances = []
    for _ in range(2_000):
        instances.append(called(LIBC.inotify_init1(0)))


@FAMILY("memory of the kernel: locked", 61)
def _() -> None:
    page = mmap.mmap(-1, 64 * MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    called(LIBC.mlock(ctypes.c_void_p(address), 64 * MIB))


@FAMILY("a storm of signals", 69, control="signals within one's own processes harm nobody else")
def _() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for _ in range(50_000):
        os.kill(os.getpid(), signal.SIGUSR1)
    raise Held("its own only")


@FAMILY("more processors than its share", 70, needs="cpu")
def _() -> None:
    # Two processes burn for a second of wall time; what they got of it tells.
    pids = []
    begun = time.monotonic()
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() - begun < 1.0:
                pass
            os._exit(0)
        pids.append(pid)
    used = 0.0
    for pid in pids:
        _, _, usage = os.wait4(pid, 0)
        used += usage.ru_utime + usage.ru_stime
    wall = time.monotonic() - begun
    share = used / wall
    allowed = GIVEN["cpu"]
    if share <= allowed * 1.5:
        # What was given holds however busy the host is; without a sandbox a busy host shows nothing.
        held = f"{share:.2f} of {allowed} processors"
        raise Held(held if GIVEN["sandboxed"] else "the host is too busy to show it")


@FAMILY(
    "a core dump as large as its memory",
    79,
    control="the plain process has no core dumps either; privileges: core dumps again",
)
def _() -> None:
    pid = os.fork()
    if pid == 0:
        os.abort()
    _, status = os.waitpid(pid, 0)
    if not os.WCOREDUMP(status):
        raise Held("no core")


@FAMILY(
    "a flood on standard output that nobody reads",
    72,
    73,
    control="its own output may be as long as it likes; that the worker keeps little is what matters",
)
def _() -> None:
    # Its reader keeps the last few KiB and throws the rest away: the flood is over, nothing blocked.
    for _ in range(2_000):
        os.write(1, b"x" * 65_536)
    raise Held("128 MiB in one line were thrown away")


@FAMILY("a farm of zombies", 77, needs="pids")
def _() -> None:
    def spawn(_: int) -> None:
        if os.fork() == 0:
            os._exit(0)

    _until_refused(spawn, 2 * GIVEN["pids"])


@FAMILY("stop itself beyond its time", 80, control="a stopped process is killed like any other")
def _() -> None:
    # Its parent, the loop, waits for it only so long; the worker's kill does not ask it.
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    raise Held(f"killed by {os.WTERMSIG(status)}")


@FAMILY(
    "processes that left every group and outlive the stop",
    57,
    58,
    control="a plain process's orphans are found by a mark; test_backends shows both",
)
def _() -> None:
    # Said as "through"; the stage judges: after the end of the container none may live.
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                os.closerange(0, 3)
                while True:
                    signal.pause()
            os._exit(0)
    raise Held("made; none of them outlives the container")
