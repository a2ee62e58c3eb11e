"""A real registry (Debian's docker-registry), and images made and unpacked by tools that are not ours.

skopeo, umoci and buildah make the images; what they unpack is what ours is compared with. As root only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from glowplug_imagecache.layers.sparse import Region
from glowplug_imagecache.layers.tree import Entry, Tree

TOOLS = ("docker-registry", "skopeo", "umoci", "buildah")
USER, PASSWORD = "builder", "open-sesame"
HTPASSWD = f"{USER}:$2b$04$kPet/6V0Q0A/tp/8FkHqo.Cw5gxLzUvJGszqb7FzJeFLHQGBEoTs2\n"
TOOL_S = 120.0  # against a hang
LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")


def lacking() -> str:
    """Return why the real tools can't be used here, or ""."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "images with owners and devices take root"


@contextlib.contextmanager
def open_registry(
    folder: Path, auth: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[str]:
    """Yield "127.0.0.1:port" of a registry of one's own."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": "127.0.0.1:0", "secret": "of no use elsewhere"},
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_bytes(msgspec.json.encode(config))  # JSON is YAML
    log = folder / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=said,
        ) as process,
    ):
        try:
            yield _where(log, process)
        finally:
            process.kill()


def _where(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return where a registry that was just started listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if found := LISTENING.search(log.read_text()):
            return found[1]
        time.sleep(0.005)
    raise AssertionError(f"docker-registry did not start: {log.read_text()}")


def password_auth(folder: Path) -> dict[str, dict[str, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(HTPASSWD)
    return {"htpasswd": {"realm": "glowplug's tests", "path": str(folder / "htpasswd")}}


def tool(*command: str | os.PathLike[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout.strip()


class Facts(msgspec.Struct, frozen=True):
    """What can be compared of one path, however it was unpacked."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    content: str  # SHA-256, or a link's target
    xattrs: tuple[tuple[bytes, bytes], ...]
    same_as: bytes  # the first path of the same file


class Hashes:
    """Contents by their number, as SHA-256 of the whole file with its holes."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[tuple[int, bytes]]] = {}

    def take(self, content: int, offset: int, data: bytes) -> None:
        self._pieces.setdefault(content, []).append((offset, data))

    def digest(self, content: int, size: int) -> str:
        hashed, at = hashlib.sha256(), 0
        for offset, data in self._pieces.get(content, ()):
            hashed.update(bytes(offset - at) + data)
            at = offset + len(data)
        hashed.update(bytes(size - at))
        return hashed.hexdigest()

    def stored(self, content: int) -> list[Region]:
        return [(offset, len(data)) for offset, data in self._pieces.get(content, ())]


def facts_of_tree(tree: Tree, hashes: Hashes) -> dict[bytes, Facts]:
    """Return what we read."""
    return {b"/".join(entry.path): _entry_facts(entry, hashes) for entry in tree.entries()}


def _entry_facts(entry: Entry, hashes: Hashes) -> Facts:
    about = entry.about
    content = os.fsdecode(about.target)
    if about.kind == "file":
        content = hashes.digest(about.content, about.size)
    return Facts(
        kind=about.kind,
        mode=about.mode,
        owner=(about.uid, about.gid),
        mtime_ns=about.mtime_ns,
        size=about.size,
        content=content,
        xattrs=tuple(about.xattrs.items()),
        same_as=b"/".join(entry.same_as) if entry.same_as else b"",
    )


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
}


def facts_of_folder(root: Path) -> dict[bytes, Facts]:
    """Return what another tool unpacked; devices in /dev are left out, as containers get their own."""
    found: dict[bytes, Facts] = {}
    first: dict[tuple[int, int], bytes] = {}
    # As ours: names by their bytes, and what is in a directory before what comes after it.
    everything = sorted(
        root.rglob("*"), key=lambda path: [os.fsencode(part) for part in path.parts]
    )
    for path in everything:
        inside = os.fsencode(path.relative_to(root))
        status = path.lstat()
        kind = KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            assert inside.startswith(b"dev/"), inside
            continue
        same_as = b""
        if status.st_nlink > 1 and kind != "dir":
            same_as = first.setdefault((status.st_dev, status.st_ino), inside)
        found[inside] = _path_facts(path, kind, status, b"" if same_as == inside else same_as)
    return found


def _path_facts(path: Path, kind: str, status: os.stat_result, same_as: bytes) -> Facts:
    content = str(path.readlink()) if kind == "link" else ""
    if kind == "file":
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    return Facts(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        content=content,
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in names
            if not name.startswith((b"trusted.", b"security.selinux"))
        ),
        same_as=same_as,
    )


def differences(
    ours: Mapping[bytes, Facts], theirs: Mapping[bytes, Facts], *, without: tuple[str, ...] = ()
) -> list[str]:
    """Return every path and field that differ, by name."""
    found = [f"only ours: {path!r}" for path in sorted(ours.keys() - theirs.keys())]
    found += [f"only theirs: {path!r}" for path in sorted(theirs.keys() - ours.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        for field in Facts.__struct_fields__:
            mine, other = getattr(ours[path], field), getattr(theirs[path], field)
            if mine != other and field not in without:
                found.append(f"{path!r}: {field} is {mine!r}, and {other!r} there")
    return found


def strange_files(root: Path) -> None:
    """Make what images hold now and then, below an empty directory."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("one\n")
    (root / "etc/empty").touch()
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "run").mkdir()
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "dangling").symlink_to("nowhere/at/all")
    (root / "usr/bin/sudo").write_bytes(b"#!" + os.urandom(5000))
    os.chown(root / "usr/bin/sudo", 0, 0)
    (root / "usr/bin/sudo").chmod(0o4755)
    (root / "usr/bin/wall").write_bytes(b"x" * 70_000)
    os.chown(root / "usr/bin/wall", 0, 5)
    (root / "usr/bin/wall").chmod(0o2755)
    os.link(root / "usr/bin/wall", root / "usr/bin/write")
    os.link(root / "usr/bin/wall", root / "etc/wall")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "secret").mkdir()
    (root / "secret/key").write_text("key")
    (root / "secret/key").chmod(0)
    (root / "secret").chmod(0o700)
    os.chown(root / "secret/key", 100_000, 3_000_000)
    (root / "pipe").touch()
    (root / "pipe").unlink()
    os.mkfifo(root / "pipe", 0o640)
    long = root / ("long-" + "d" * 120) / ("n" * 250)
    long.parent.mkdir()
    long.write_text("a long way down")
    (root / "to-long").symlink_to("l" * 180 + "/" + "m" * 60)
    os.link(long, root / "short")
    for name in (
        b"caf\xc3\xa9",
        b"latin-\xe9\xff",
        b"new\nline",
        b" lead and trail ",
        b"-rf",
        b"wh.",
    ):
        (root / "etc" / os.fsdecode(name)).write_bytes(name)
    with (root / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"in the middle")
        file.truncate(5_000_000)
    os.setxattr(root / "etc/hostname", "user.note", b"\x00binary \xff\n= value")
    os.setxattr(root / "etc", "user.of-a-folder", b"yes")
    tool("setcap", "cap_net_raw+ep", root / "usr/bin/sudo")
    os.utime(root / "etc/empty", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "etc/hostname", ns=(1, -86_400 * 10**9))
    _what_will_change(root)


def _what_will_change(root: Path) -> None:
    (root / "gone-soon").mkdir()
    (root / "gone-soon/a").write_text("a")
    (root / "emptied").mkdir()
    (root / "emptied/a").write_text("a")
    (root / "emptied/deep").mkdir()
    (root / "emptied/deep/b").write_text("b")
    (root / "becomes-file").mkdir()
    (root / "becomes-file/x").touch()
    (root / "becomes-dir").write_text("a file first")
    os.link(root / "becomes-dir", root / "other-name")


def later_changes(root: Path) -> None:
    """Change what `strange_files` made, in every way that a layer can tell."""
    shutil.rmtree(root / "gone-soon")
    shutil.rmtree(root / "emptied")
    (root / "emptied").mkdir()
    (root / "emptied/new").write_text("new")
    shutil.rmtree(root / "becomes-file")
    (root / "becomes-file").write_text("now a file")
    (root / "becomes-dir").unlink()
    (root / "becomes-dir").mkdir()
    (root / "becomes-dir/inside").write_text("inside")
    (root / "etc/hostname").unlink()
    (root / "etc/new").write_text("added")
    (root / "etc").chmod(0o750)
    (root / "usr/bin/sudo").chmod(0o755)
    (root / "dangling").unlink()
    (root / "dangling").symlink_to("etc")
    with (root / "sparse").open("r+b") as file:
        file.write(b"at the start")
