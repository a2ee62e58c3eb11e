"""EROFS images by the kernel: mounted from three files, every path is what it was in the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest
from glowplug_worker.images.erofs import build_image, place_objects
from glowplug_worker.images.flatten import flatten
from hypothesis import HealthCheck, given, settings

from tests.support import erofs
from tests.support.builders_trees import FOLDERS, Folder, bind_socket, write_drawing

pytestmark = pytest.mark.skipif(
    not erofs.kernel_mounts_erofs(), reason="only root mounts, and Linux 6.12 mounts files"
)

MIB = 1024 * 1024
BLOCK = 4096


@pytest.fixture(scope="module")
def odd_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree with every kind of thing that an image can hold."""
    root = tmp_path_factory.mktemp("odd") / "root"
    for folder in ("wide", "empty", "deep/" + "/".join(f"d{depth}" for depth in range(150))):
        (root / folder).mkdir(parents=True)
    for number in range(3000):
        (root / "wide" / f"a rather long name, so that blocks fill {number}").write_bytes(
            b"%d" % (number % 500) * (number % 7)
        )
    (root / "deep/d0/d1/here").write_text("deep")
    (root / "empty file").touch()
    for size in (1, 4095, 4096, 4097, 32 * 1024, 32 * 1024 + 1, MIB, MIB + 1, 5 * MIB + 13):
        (root / f"file of {size}").write_bytes(
            os.urandom(997) * (size // 997) + b"e" * (size % 997)
        )
    shutil.copyfile(root / f"file of {5 * MIB + 13}", root / "again")
    _write_sparse(root)
    (root / "link").symlink_to("/etc/passwd")
    for length in (1, 2048, 2049, 4000, 4095):
        (root / f"link of {length}").symlink_to("t" * length)
    os.mkfifo(root / "pipe")
    bind_socket(os.fsencode(root / "socket"))
    for number in range(3):
        os.link(root / "file of 4097", root / "wide" / f"hard{number}")
    os.link(root / "link", root / "hard link of a link", follow_symlinks=False)
    for name in (b"\xff\xfe", b"\n", b"-rf", b"n" * 255, "ünï".encode(), b"back\\slash"):
        (root / os.fsdecode(name)).write_bytes(name)
    _dress(root)
    return root


def _write_sparse(root: Path) -> None:
    (root / "zeros").write_bytes(bytes(3 * MIB))
    (root / "small zeros").write_bytes(bytes(5000))
    for name, size, places in (
        ("all hole", 10 * 1024 * MIB, ()),
        ("huge", 8 * 1024 * MIB, (0, 4 * 1024 * MIB + 5, 8 * 1024 * MIB - 1)),
        ("hole first", 20 * MIB + 7, (16 * MIB, 20 * MIB + 6)),
    ):
        with (root / name).open("wb") as file:
            for place in places:
                os.pwrite(file.fileno(), b"x", place)
            file.truncate(size)


def _dress(root: Path) -> None:
    setuid = root / "file of 1"
    os.chown(setuid, 70000, 80000)
    setuid.chmod(0o6751)
    for number in range(20):
        path = root / "wide" / f"hard{number % 3}" if number < 3 else root / f"attributes {number}"
        path.touch()
        os.setxattr(path, "user.shared", b"the same for all" * 20)
        os.setxattr(path, "user.own", b"%d" % number)
        os.setxattr(path, "trusted.t", bytes(range(256)))
    capability = b"\1\0\0\2\0\4\0\0" + bytes(12)
    os.setxattr(root / "file of 4096", "security.capability", capability)
    # Version, then the owner, a user by name, the group, the mask and the others.
    access_list = bytes.fromhex(
        "02000000" "01000700ffffffff" "02000600e8030000" "04000500ffffffff"
        "10000700ffffffff" "20000500ffffffff"
    )  # fmt: skip
    os.setxattr(root / "empty", "system.posix_acl_access", access_list)
    os.setxattr(root / "empty", "system.posix_acl_default", access_list)
    os.setxattr(root / "link", "trusted.of.a.link", b"x", follow_symlinks=False)
    (root / "empty").chmod(0o1777)
    for number, name in enumerate(("file of 4095", "wide", "pipe", "link")):
        when = (-1, 2**33 * 1_000_000_000 + 999_999_999, 0, 1)[number]
        os.utime(root / name, ns=(when, when), follow_symlinks=False)


@pytest.fixture(scope="module")
def odd_image(odd_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> erofs.Files:
    return erofs.write_image(odd_tree, tmp_path_factory.mktemp("image"))[1]


def test_every_path_of_a_mounted_image_is_what_the_source_has(
    odd_tree: Path, odd_image: erofs.Files, tmp_path: Path
) -> None:
    wanted = erofs.walk(odd_tree)
    with erofs.mounted(odd_image, tmp_path / "mount") as mount:
        found = erofs.walk(mount)
        absent = [
            name for name in ("nothing", "wide/nothing", "wide/zzz") if (mount / name).exists()
        ]
    assert sorted(found) == sorted(wanted)
    assert {path: found[path] for path in wanted if found[path] != wanted[path]} == {}
    assert len(wanted) > 3200
    assert absent == []


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils is not here")
def test_the_tools_of_erofs_find_no_fault_and_read_the_same(
    odd_tree: Path, odd_image: erofs.Files, tmp_path: Path
) -> None:
    """A second judge, in C. It follows devices, but knows no 48-bit addresses, and no kernel's view of times."""
    devices = [f"--device={odd_image.packs}", f"--device={odd_image.pieces}"]
    fsck("fsck.erofs", *devices, odd_image.metadata)
    # It would write holes out in full, so what it extracts is a part without them.
    part, out = odd_tree / "wide", tmp_path / "out"
    _, files = erofs.write_image(part, tmp_path / "image")
    devices = [f"--device={files.packs}", f"--device={files.pieces}"]
    fsck("fsck.erofs", f"--extract={out}", "--preserve", *devices, files.metadata)
    assert _plain(erofs.walk(out)) == _plain(erofs.walk(part))


def fsck(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _plain(found: dict[bytes, erofs.Found]) -> dict[bytes, tuple[object, ...]]:
    """Return what an extraction keeps: it makes files of hard links, and sets no attributes."""
    return {path: (each.kind, each.mode, each.uid, each.content) for path, each in found.items()}


def test_an_image_without_its_devices_is_no_image(odd_image: erofs.Files, tmp_path: Path) -> None:
    """Whoever forgets a device gets errors, not zeros."""
    one = msgspec.structs.replace(odd_image, pieces=tmp_path / "none")
    with pytest.raises(FileNotFoundError), erofs.mounted(one, tmp_path / "mount"):
        pass
    with erofs.mounted(odd_image, tmp_path / "mount", devices=False) as mount:
        for name in ("file of 1", f"file of {MIB}"):
            with pytest.raises(OSError, match="Input/output"):
                (mount / name).read_bytes()
    short = msgspec.structs.replace(odd_image, pieces=tmp_path / "short")
    short.pieces.write_bytes(odd_image.pieces.read_bytes()[:BLOCK])
    with (
        erofs.mounted(short, tmp_path / "mount") as mount,
        pytest.raises(OSError, match="Input/output"),
    ):
        (mount / f"file of {5 * MIB + 13}").read_bytes()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FOLDERS)
def test_whatever_tree_is_written_is_what_is_mounted(drawing: Folder) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        write_drawing(drawing, root)
        _, files = erofs.write_image(root, Path(folder, "image"))
        wanted = erofs.walk(root)
        with erofs.mounted(files, Path(folder, "mount")) as mount:
            assert erofs.walk(mount) == wanted


@pytest.mark.skipif(erofs.kernel() < erofs.KNOWS_48BIT, reason="48-bit addresses came with 6.15")
def test_content_past_what_32_bits_of_blocks_can_name_is_read(tmp_path: Path) -> None:
    """The devices are sparse files of over 16 TiB, which tmpfs can hold, as it can attributes of many blocks.

    The metadata can't be there: the kernel mounts no file of a tmpfs.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as roomy:
        root = Path(roomy, "root")
        root.mkdir()
        (root / "small").write_bytes(b"small" * 1000)
        (root / "large").write_bytes(os.urandom(2 * MIB + 5))
        with (root / "sparse").open("wb") as file:
            os.pwrite(file.fileno(), b"end", 9 * MIB)
        for name, value in (("small", b"s"), ("large", b"s"), ("sparse", b"other")):
            os.setxattr(root / name, "trusted.long", value * (40_000 // len(value)))
        flattened = flatten(root)
        devices = [
            place_objects(objects, 2**32 + 5)
            for objects in (flattened.tree.packs, flattened.tree.pieces)
        ]
        image = build_image(flattened.tree, erofs.IDENTITY, *devices)
        files = erofs.write_files(root, flattened, image, tmp_path / "image", Path(roomy))
        with erofs.mounted(files, tmp_path / "mount") as mount:
            assert erofs.walk(mount) == erofs.walk(root)
