"""Directories as hostile code leaves them: taken away, given to another user, listed, watched and packed.

Nothing outside is touched, nothing stays, no descriptor is lost, and no walk is deeper than it can be.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import WorkspaceId
from glowplug_gateway.volumes import DEPTH_MAX, Volumes
from glowplug_runtime.trees import hand_over, remove_tree
from glowplug_worker.images.tree import LayerReader

WORKSPACE = WorkspaceId("default")
UID = 54_321
LEVELS = 1_500  # a function may call itself a thousand times


def deep(top: Path) -> None:
    folder = os.open(top, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)


def deep_and_long(top: Path) -> None:
    folder = os.open(top, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 255, dir_fd=folder)
        os.close(os.open("f" * 255, os.O_CREAT, dir_fd=folder))
        below = os.open("d" * 255, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)


def wide(top: Path) -> None:
    for number in range(300):
        (top / str(number) / "inner").mkdir(parents=True)


def closed(top: Path) -> None:
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("x")
    for folder in (top / "a" / "b" / "c", top / "a" / "b", top / "a"):
        folder.chmod(0)


def links(top: Path) -> None:
    outside = top.parent / "outside"
    (top / "folder").symlink_to(outside)
    (top / "file").symlink_to(outside / "file")
    (top / "absolute").symlink_to("/etc")
    (top / "self").symlink_to(".")
    (top / "loop").symlink_to("loop")
    (top / "up").symlink_to("../outside")
    os.link(outside / "linked", top / "hardlink")


def strange(top: Path) -> None:
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(top / "socket"))
    (top / "setuid").write_text("x")
    (top / "setuid").chmod(0o6777)
    (top / "\x1b[2J\n").write_text("x")
    (top / "-rf").mkdir()
    (top / "\udcff\udcfe").mkdir()
    (top / ("n" * 255)).write_text("x")
    (top / ".wh..wh..opq").write_text("x")
    (top / ".wh.file").write_text("x")


HOSTILE = [deep, deep_and_long, wide, closed, links, strange]


@pytest.fixture(params=HOSTILE, ids=lambda make: make.__name__.replace("_", " "))
def make(request) -> Callable[[Path], None]:
    return request.param


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that can be had: thousands of directories take a disk many seconds."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
    yield folder
    remove_tree(folder)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must stay as it is: contents, modes and owners."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("file", "linked"):
        (folder / name).write_text("kept")
        (folder / name).chmod(0o640)
    before = [_facts(path) for path in (folder, folder / "file")]
    yield folder
    assert [_facts(path) for path in (folder, folder / "file")] == before
    assert (folder / "linked").read_text() == "kept"


def _facts(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_mtime_ns


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def few_descriptors() -> Iterator[None]:
    """A service has so many; and none may be lost."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = _descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 80, hard))
    try:
        yield
        assert _descriptors() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def hostile(tmp_path: Path, outside: Path, make) -> Iterator[Path]:
    top = tmp_path / "top"
    top.mkdir()
    make(top)
    yield top
    remove_tree(top)


CONTROL = "test_the_control_the_standard_librarys_walk_does_not_survive"


@pytest.mark.attempt(control=CONTROL)
def test_all_of_it_is_removed(hostile):
    with few_descriptors():
        remove_tree(hostile)
    assert not hostile.exists()


@pytest.mark.attempt(control=CONTROL)
def test_all_of_it_is_removed_by_an_ordinary_user(tmp_path, make, outside):
    if os.geteuid() != 0:
        pytest.skip("this user is an ordinary one")
    tmp_path.chmod(0o777)
    (outside / "linked").chmod(0o666)  # or the kernel forbids the link
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)
            top = tmp_path / "theirs"
            top.mkdir()
            make(top)
            remove_tree(top)
            code = 0 if not top.exists() else 2
        except BaseException:  # noqa: BLE001 - it is a forked test
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0


@pytest.mark.attempt(control=CONTROL)
def test_all_of_it_is_given_to_another_user_and_nothing_else(hostile, outside):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    if (hostile / "hardlink").exists():
        (hostile / "hardlink").unlink()  # it is the same file: whoever may link it owns it
    with few_descriptors():
        hand_over(hostile, UID)
    assert hostile.stat().st_uid == UID
    folder = os.open(hostile, os.O_RDONLY)
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - of a descriptor
            assert os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid == UID
    finally:
        os.close(folder)


@pytest.fixture
def volume(tmp_path, outside, make) -> Iterator[tuple[Volumes, Path]]:
    volumes = Volumes(tmp_path / "volumes")
    volumes.ensure(WORKSPACE, "v")
    place = tmp_path / "volumes" / "default" / "v"
    (place / "top").mkdir()
    (place.parent / "outside").symlink_to(outside)
    shutil.copytree(outside, place / "outside")
    make(place / "top")
    yield volumes, place
    remove_tree(place)


@pytest.mark.attempt(control=CONTROL)
def test_a_volume_is_listed_and_nothing_outside(volume):
    volumes, _ = volume
    with few_descriptors():
        found = volumes.entries(WORKSPACE, "v", "", deep=True)
    assert found
    assert all(entry.path.count("/") < DEPTH_MAX for entry in found)
    assert not any("etc/passwd" in entry.path for entry in found)


@pytest.mark.attempt(control=CONTROL)
def test_a_volume_is_watched_and_nothing_outside(volume):
    volumes, _ = volume
    with few_descriptors():
        found = volumes.states(WORKSPACE, "v")
    assert found is not None
    assert not any(path.startswith(("top/folder/", "top/absolute/", "top/up/")) for path in found)


@pytest.mark.attempt(control=CONTROL)
def test_a_folder_of_a_volume_is_removed(volume):
    volumes, place = volume
    with few_descriptors():
        volumes.remove(WORKSPACE, "v", "top", deep=True)
    assert sorted(one.name for one in place.iterdir()) == ["outside"]


@pytest.mark.attempt(control=CONTROL)
def test_a_volume_is_removed(volume):
    volumes, place = volume
    with few_descriptors():
        volumes.delete(WORKSPACE, "v")
    assert not place.exists()


@pytest.mark.attempt(control=CONTROL)
def test_a_layer_is_refused_with_a_sentence_or_holds_files_and_links_only(hostile, make):
    before = _descriptors()
    signal.alarm(60)  # a pipe that is opened to be read would wait for ever
    reader = LayerReader(hostile, ("/layer",))
    try:
        entries = reader.entries()
    except InvalidRequestError:
        assert make is not wide
    else:
        assert {entry.kind for entry in entries} <= {"file", "dir", "link"}
        assert all(stat.S_IMODE(entry.mode) & 0o7000 == 0 for entry in entries)
        assert make in (wide, closed)
    finally:
        reader.close()
        signal.alarm(0)
    assert _descriptors() == before


@pytest.mark.parametrize("walk", [shutil.rmtree, lambda top: list(os.fwalk(top))])
def test_the_control_the_standard_librarys_walk_does_not_survive(tmp_path, walk):
    top = tmp_path / "top"
    top.mkdir()
    deep(top)
    with pytest.raises((RecursionError, OSError)):
        walk(top)
    remove_tree(top)
