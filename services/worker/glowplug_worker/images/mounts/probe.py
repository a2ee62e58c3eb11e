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
from pathlib import Path
from typing import Final

import msgspec
from glowplug_contracts.ids import Digest
from glowplug_contracts.trees import BLOCK_BYTES, encode_tree

from glowplug_worker.images.flatten import flatten
from glowplug_worker.images.mounts import kernel
from glowplug_worker.images.mounts.files import make_home
from glowplug_worker.images.objects import digest_of
from glowplug_worker.ports import MountMethod

# The kernel tells of a read in microseconds; this is for one that does not.
TRY_S: Final = 5.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_KEPT: Final = "probe.json"


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


def try_all(directory: Path) -> Choice:
    """Return what works on a directory's file system, tried now. Blocks."""
    why = why_not_fanotify(directory)
    if not why:
        release = os.uname().release
        return Choice(
            "fanotify",
            f"images can be mounted before their files are here (fanotify, Linux {release})",
        )
    return Choice("extracted", f"images are extracted whole: {why}")


def why_not_fanotify(directory: Path) -> str:
    """Return why pre-content events do not work here; "" where they do."""
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as own:
            return _try(Path(own))
    except PermissionError:
        return "mounting takes a worker that is run by root"
    except OSError as error:
        words = "the kernel can't tell of reads before they happen"
        return f"{words} ({error.strerror}): Linux 6.14 can, on ext4, xfs and btrfs"


def _try(own: Path) -> str:
    content = os.urandom(BLOCK_BYTES)
    (own / "source").mkdir()
    (own / "source" / "file").write_bytes(content)
    manifest = encode_tree(flatten(own / "source").tree)
    digest = Digest(digest_of(manifest))
    with contextlib.ExitStack() as stack:
        group = kernel.open_group()
        closing_group = stack.enter_context(contextlib.ExitStack())
        closing_group.callback(os.close, group)
        home, (packs, pieces) = make_home(own / "home", digest, manifest)
        stack.callback(os.close, packs)
        stack.callback(os.close, pieces)
        kernel.mark(group, packs)
        devices = ",".join(f"device={path}" for path in home.devices)
        kernel.mount(str(home.metadata), str(home.root), "erofs", devices)
        stack.callback(kernel.unmount, str(home.root), detach=True)
        found: list[bytes] = []
        reader = threading.Thread(target=_read, args=(home.root / "file", found))
        reader.start()
        try:
            told = _answer(group, packs, content)
        finally:
            closing_group.close()  # whoever waits still goes on: it is a probe
            reader.join()
        if not told:
            return "the kernel did not tell of a read"
        return "" if found == [content] else "what was read is not what was written"


def _read(path: Path, found: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        found.append(path.read_bytes())


def _answer(group: int, packs: int, content: bytes) -> bool:
    """Answer the one read; return whether there was one."""
    poller = select.poll()
    poller.register(group, select.POLLIN)
    if not poller.poll(TRY_S * 1000):
        return False
    os.pwrite(packs, content, 0)
    for descriptor, _, _ in kernel.read_events(group):
        kernel.respond(group, descriptor, 0)
        os.close(descriptor)
    return True


def main() -> None:
    """Say in JSON what would be chosen for a directory."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(try_all(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
