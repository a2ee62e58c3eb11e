"""Which way of mounting works here, by really doing it: a tree of one file, whose content comes when it is read.

Tried when a worker starts, once per boot of the machine; `glowplug doctor` tries again and shows the same sentence:
`python -m glowplug_worker.images.mounts.probe DIRECTORY`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import BLOCK_BYTES, encode_tree
from glowplug_runtime.settings import SettingsError

from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.mounts import fuse, kernel
from glowplug_worker.images.mounts.files import Home, make_home
from glowplug_worker.images.objects import digest_of

# The kernel tells of a read in microseconds; this is for one that does not.
TRY_S: Final = 5.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_KEPT: Final = "probe.json"
_POLL_S: Final = 0.02
_NEEDS_ROOT: Final = "mounting takes a worker that is run by root"


# Content comes while it is read, in two ways, or all of it beforehand.
MountMethod = Literal["fanotify", "fuse", "extraction"]
# What an operator may ask for.
MountsWanted = Literal["auto", "fanotify", "fuse", "extract"]


class Choice(msgspec.Struct, frozen=True):
    """How trees become directories here, and why so."""

    method: MountMethod
    reason: str


class _Kept(msgspec.Struct, frozen=True):
    boot: str
    uid: int
    choice: Choice


def choose(directory: Path) -> Choice:
    """Return what works on a directory's file system; what was found since the machine started counts. Blocks."""
    boot, uid, path = _BOOT.read_text(encoding="ascii").strip(), os.geteuid(), directory / _KEPT
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if (kept.boot, kept.uid) == (boot, uid):
            return kept.choice
    choice = try_all(directory)
    with contextlib.suppress(OSError):
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(_Kept(boot, uid, choice)))
        new.replace(path)
    return choice


def choose_wanted(wanted: MountsWanted, directory: Path) -> Choice:
    """Return what an operator wants, with "auto" what works. Blocks. Raises: SettingsError if it does not."""
    if wanted == "auto":
        return choose(directory)
    said = f"as GLOWPLUG_WORKER_IMAGE_MOUNTS={wanted} says"
    if wanted == "extract":
        return Choice("extraction", said)
    why = {"fanotify": why_not_fanotify, "fuse": why_not_fuse}[wanted](directory)
    if why:
        raise SettingsError(f"GLOWPLUG_WORKER_IMAGE_MOUNTS={wanted} can't be had: {why}")
    return Choice(wanted, f"images can be mounted before their files are here ({wanted}, {said})")


def try_all(directory: Path) -> Choice:
    """Return what works on a directory's file system, tried now. Blocks."""
    release = os.uname().release
    why = why_not_fanotify(directory)
    if not why:
        return Choice(
            "fanotify",
            f"images can be mounted before their files are here (fanotify, Linux {release})",
        )
    if not (without := why_not_fuse(directory)):
        words = (
            f"images can be mounted before their files are here (FUSE, Linux {release}), as {why}"
        )
        return Choice("fuse", words)
    why = why if why == without else f"{why}; {without}"
    return Choice("extraction", f"images are extracted whole: {why}")


def why_not_fanotify(directory: Path) -> str:
    """Return why pre-content events do not work here; "" where they do."""
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as own:
            return _try(Path(own), _by_fanotify)
    except PermissionError:
        return _NEEDS_ROOT
    except OSError as error:
        words = "the kernel can't tell of reads before they happen"
        return f"{words} ({error.strerror}): Linux 6.14 can, on ext4, xfs and btrfs"


def why_not_fuse(directory: Path) -> str:
    """Return why EROFS over FUSE does not work here; "" where it does."""
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as own:
            return _try(Path(own), _by_fuse)
    except PermissionError:
        return _NEEDS_ROOT
    except OSError as error:
        return f"the kernel mounts no image over FUSE here ({error.strerror}): Linux 6.12 does"


def _try(own: Path, serve: Callable[[Home, int, bytes, contextlib.ExitStack], Server]) -> str:
    """Mount a tree of one file, and read it; return what was wrong."""
    content = os.urandom(BLOCK_BYTES)
    (own / "source").mkdir()
    (own / "source" / "file").write_bytes(content)
    manifest = encode_tree(flatten(own / "source").tree)
    found: list[bytes] = []
    with contextlib.ExitStack() as stack:
        home, files = make_home(own / "home", Digest(digest_of(manifest)), manifest)
        for file in files:
            stack.callback(os.close, file)
        with contextlib.ExitStack() as serving:
            server = serve(home, files[0], content, serving)
            over = threading.Event()
            thread = threading.Thread(target=_serve, args=(server, over))
            thread.start()
            serving.callback(thread.join)
            serving.callback(over.set)
            devices = f"device={server.packs},device={home.devices[1]}"
            kernel.mount(str(home.metadata), str(home.root), "erofs", devices)
            stack.callback(kernel.unmount, str(home.root), detach=True)
            reader = threading.Thread(target=_read, args=(home.root / "file", found))
            reader.start()
            reader.join(TRY_S)
        reader.join()  # without a server nobody waits any more
        if not server.asked:
            return "the kernel did not tell of a read"
        return "" if found == [content] else "what was read is not what was written"


class Server:
    """Answers what the kernel asks about the packs of a tree."""

    def __init__(self, packs: Path, door: int, answer: Callable[[], bool]) -> None:
        self.packs, self.door, self.answer = packs, door, answer
        self.asked = False


def _serve(server: Server, over: threading.Event) -> None:
    poller = select.poll()
    poller.register(server.door, select.POLLIN)
    while not over.is_set():
        if poller.poll(_POLL_S * 1000):
            server.asked |= server.answer()


def _read(path: Path, found: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        found.append(path.read_bytes())


def _by_fanotify(home: Home, packs: int, content: bytes, stack: contextlib.ExitStack) -> Server:
    group = kernel.open_group()
    stack.callback(os.close, group)
    kernel.mark(group, packs)

    def answer() -> bool:
        os.pwrite(packs, content, 0)
        asked = False
        for descriptor, _, _ in kernel.read_events(group):
            kernel.respond(group, descriptor, 0)
            os.close(descriptor)
            asked = True
        return asked

    return Server(home.devices[0], group, answer)


def _by_fuse(home: Home, packs: int, content: bytes, stack: contextlib.ExitStack) -> Server:
    door = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, door)
    path = home.shown[0]
    kernel.mount("glowplug", str(path), "fuse", fuse.mount_options(door))
    stack.callback(kernel.unmount, str(path), detach=True)

    def answer() -> bool:
        wanted = fuse.take(os.read(door, fuse.REQUEST_BYTES_MAX), os.fstat(packs).st_size)
        if isinstance(wanted, fuse.Read):
            data = content[wanted.offset : wanted.offset + wanted.size]
            os.write(door, fuse.reply(wanted.number, data))
            return True
        if wanted:
            os.write(door, wanted)
        return False

    return Server(path, door, answer)


def main() -> None:
    """Say in JSON what would be chosen for a directory."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(try_all(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
