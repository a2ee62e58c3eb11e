"""Hostile archives, manifests and chunks: refused with a sentence, and nothing lies where it should not."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from glowplug_contracts.errors import ContractError, InvalidRequestError, NotFoundError
from glowplug_contracts.ids import Digest
from glowplug_contracts.manifests import (
    CHUNK_BYTES,
    DIGESTS_ASKED_MAX,
    BatchReader,
    batch_bytes,
    decode_digests,
    decode_manifest,
    encode_manifest,
)
from glowplug_contracts.messages.image import ChunkRef, ManifestEntry
from glowplug_imagecache import objects as cache_objects
from glowplug_imagecache.files import add_files
from glowplug_worker.images import objects as worker_objects
from glowplug_worker.images.sources import unpack_source

from tests.support.builders_images import a_manifest, a_store

MIB = 1 << 20
CONTROL = "test_the_control_*: what is not hostile is taken"
pytestmark = pytest.mark.attempt(control=CONTROL)


@pytest.fixture(autouse=True)
def nothing_beside(tmp_path: Path) -> Iterator[None]:
    """Nothing appears next to where things are unpacked, and what was there is as it was."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "file").write_text("kept")
    yield
    assert (tmp_path / "neighbour" / "file").read_text() == "kept"
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"neighbour", "a.zip", "out", "store", "cache"} or "chunks" in names


# -- sources: zips of the SDK, as a worker unpacks them ---------------------------------------------


def member(name: str, mode: int = 0, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def zipped(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def _bomb() -> bytes:
    """100 MiB of zeros that say they are 10 bytes."""
    data = zipped(("bomb", bytes(100 * MIB)))
    return patched(data, struct.pack("<I", 100 * MIB), struct.pack("<I", 10))


def _twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("one", "1")
        archive.writestr("two", "2")
    return patched(buffer.getvalue(), b"two", b"one")


ZIPS: dict[str, Callable[[], bytes]] = {
    "a way up": lambda: zipped(("../evil", b"x")),
    "a way up in the middle": lambda: zipped(("a/../../evil", b"x")),
    "an absolute path": lambda: zipped(("/evil", b"x")),
    "two slashes": lambda: zipped(("a//evil", b"x")),
    "a dot": lambda: zipped(("./evil", b"x")),
    "only dots": lambda: zipped(("..", b"x")),
    "a folder above": lambda: zipped(("../neighbour/", b"")),
    "a link": lambda: zipped((member("link", 0o120777), b"/etc/passwd")),
    "a link, and a file through it": lambda: zipped(
        (member("d", 0o120777), b"../neighbour"), ("d/file", b"x")
    ),
    "a device": lambda: zipped((member("null", 0o020666), b"")),
    "a disk": lambda: zipped((member("disk", 0o060666), b"")),
    "a pipe": lambda: zipped((member("pipe", 0o010666), b"")),
    "a socket": lambda: zipped((member("socket", 0o140666), b"")),
    "one name twice": _twice,
    "a file that is a folder": lambda: zipped(("a", b"x"), ("a/b", b"x")),
    "a folder that is a file": lambda: zipped(("a/b", b"x"), (member("a"), b"x")),
    "a name of 256 bytes": lambda: zipped(("n" * 256, b"x")),
    "a path of 5,000 bytes": lambda: zipped(("/".join(["n" * 200] * 25), b"x")),
    "300 folders deep": lambda: zipped(("d/" * 300 + "f", b"x")),
    "a size that lies": _bomb,
    "3 GiB, it says": lambda: patched(
        zipped(("big", b"x" * 1234)), struct.pack("<I", 1234), struct.pack("<I", 3 << 30)
    ),
    "20,001 entries": lambda: zipped(*((f"{number}", b"") for number in range(20_001))),
    "a wrong checksum": lambda: patched(
        zipped(("x", b"hello")), struct.pack("<I", 0x3610A686), struct.pack("<I", 1)
    ),
    "an unknown compression": lambda: patched(
        zipped(("x", b"hello")), struct.pack("<HHH", 20, 0, 8), struct.pack("<HHH", 20, 0, 99)
    ),
    "a password": lambda: patched(
        zipped(("x", b"hello")), struct.pack("<HHH", 20, 0, 8), struct.pack("<HHH", 20, 1, 8)
    ),
    "half of it": lambda: zipped(("x", os.urandom(10_000)))[:5_000],
    "nothing": lambda: b"",
    "no zip": lambda: b"PK\x05\x06" + b"\xff" * 18,
    "a hole in it": lambda: zipped(("x", os.urandom(10_000)))[:100] + bytes(9_000),
}


@pytest.mark.parametrize("make", ZIPS.values(), ids=ZIPS.keys())
def test_a_hostile_source_is_refused(tmp_path, make):
    (tmp_path / "a.zip").write_bytes(make())
    with pytest.raises(InvalidRequestError):
        unpack_source(tmp_path / "a.zip", tmp_path / "out")
    size = sum(path.lstat().st_size for path in (tmp_path / "out").rglob("*"))
    assert size < MIB


def test_the_control_a_source_is_unpacked_without_its_powers(tmp_path):
    data = zipped((member("d/tool", 0o104755), b"#!"), ("d\\..\\x", b"y"), ("x.zip", zipped()))
    (tmp_path / "a.zip").write_bytes(data)
    unpack_source(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / "d" / "tool").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["d", "d\\..\\x", "x.zip"]


# -- file steps of images: tars of the SDK, as imagecache reads them ---------------------------------


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tarred(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in members:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = len(content) or info.size
            archive.addfile(info, io.BytesIO(content) if content else None)
    return buffer.getvalue()


def header(name: str, kind: bytes, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def long_names(count: int) -> bytes:
    return (header("././@LongLink", b"L", 4) + block(b"d/x\0")) * count + bytes(1024)


def pax(count: int, **records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        size = len(body) + len(str(len(body) + 3))
        lines += f"{size}".encode() + body
    return (header("d/PaxHeaders/x", b"x", len(lines)) + block(lines)) * count


TARS: dict[str, Callable[[], bytes]] = {
    "a way up": lambda: tarred(tar_member("../x")),
    "a way up in the middle": lambda: tarred(tar_member("d/../../x")),
    "an absolute path": lambda: tarred(tar_member("/etc/x")),
    "outside of its place": lambda: tarred(tar_member("elsewhere/x")),
    "beside its place": lambda: tarred(tar_member("dx")),
    "an absolute link": lambda: tarred(tar_member("d/l", tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a link that leads up": lambda: tarred(tar_member("d/l", tarfile.SYMTYPE, linkname="../../x")),
    "a link that climbs after a name": lambda: tarred(
        tar_member("d/l", tarfile.SYMTYPE, linkname="a/../../x")
    ),
    "a link, and a file through it": lambda: tarred(
        tar_member("d", tarfile.DIRTYPE),
        tar_member("d/l", tarfile.SYMTYPE, linkname="../x"),
        (tar_member("d/l/file"), b"x"),
    ),
    "a hard link": lambda: tarred(tar_member("d/h", tarfile.LNKTYPE, linkname="d/x")),
    "a hard link to the host": lambda: tarred(
        tar_member("d/h", tarfile.LNKTYPE, linkname="/etc/shadow")
    ),
    "a device": lambda: tarred(tar_member("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a disk": lambda: tarred(tar_member("d/disk", tarfile.BLKTYPE, devmajor=8)),
    "a pipe": lambda: tarred(tar_member("d/pipe", tarfile.FIFOTYPE)),
    "a terabyte, it says": lambda: header("d/x", b"0", 1 << 33) + bytes(1024),
    "a file longer than the tar": lambda: header("d/x", b"0", 1 << 20) + bytes(512),
    "a hole of a terabyte": lambda: (
        pax(1, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40), "GNU.sparse.name": "d/x"})
        + header("d/x", b"0", 512) + block(b"0\n") + bytes(1024)
    ),
    "a sparse map that is no number": lambda: (
        pax(1, **{"GNU.sparse.map": "a,b", "GNU.sparse.size": "x"}) + header("d/x", b"0") + bytes(1024)
    ),
    "a size that is no number": lambda: pax(1, size="-5") + header("d/x", b"0", 5) + bytes(1024),
    "a name in an extended header": lambda: pax(1, path="../../x") + header("d/x", b"0") + bytes(1024),
    "a link in an extended header": lambda: pax(1, linkpath="/etc/x") + header("d/x", b"2") + bytes(1024),
    "5,000 long names for one file": lambda: long_names(5_000),
    "5,000 extended headers for one file": lambda: pax(5_000, comment="x") + bytes(1024),
    "a name that is no text": lambda: header("d/x", b"0").replace(b"d/x", b"d/\xff") + bytes(1024),
    "300 folders deep": lambda: tarred(tar_member("d/" * 300 + "x")),
    "no tar": lambda: b"no tar at all" * 100,
    "nothing": lambda: b"",
}  # fmt: skip


@pytest.mark.parametrize("make", TARS.values(), ids=TARS.keys())
def test_a_hostile_step_is_refused(tmp_path, make):
    store = a_store(tmp_path)
    with pytest.raises(InvalidRequestError):
        add_files(store, a_manifest(), store.add_blob(make() or b"\0"), "d")


def test_the_control_a_step_is_taken_without_its_powers(tmp_path):
    store = a_store(tmp_path)
    folder = tar_member("d", tarfile.DIRTYPE, mode=0o7777)
    file = (tar_member("d/x", mode=0o4755), b"content")
    digest = add_files(store, a_manifest(), store.add_blob(tarred(folder, file)), "d")
    entries = decode_manifest(store.blob(Digest(digest))).entries
    assert [(entry.path, entry.mode) for entry in entries] == [("d", 0o755), ("d/x", 0o755)]


# -- manifests and chunks, as both ends read them ----------------------------------------------------

ENTRY = {"path": "x", "kind": "file", "mode": 0o644}
CHUNK = {"digest": "a" * 64, "offset": 0, "size": 5}


def packed(*entries: object, **fields: object) -> bytes:
    told = {"host": "", "python_version": "", "env": {}, "entries": list(entries), **fields}
    return msgspec.msgpack.encode(told)


MANIFESTS: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xc1" * 100,
    "JSON": b'{"entries": []}',
    "100,000 levels": b"\x91" * 100_000,
    "a map of 4 G entries": b"\xdf\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "no list of entries": packed(entries={"path": "x"}),
    "entries that are numbers": packed(1, 2),
    "an unknown kind": packed({**ENTRY, "kind": "device"}),
    "a device": packed({**ENTRY, "kind": "char"}),
    "set-user-id": packed({**ENTRY, "mode": 0o4755}),
    "a negative mode": packed({**ENTRY, "mode": -1}),
    "a way up": packed({**ENTRY, "path": "../x"}),
    "an absolute path": packed({**ENTRY, "path": "/etc/x"}),
    "one path twice": packed(ENTRY, ENTRY),
    "no folder above": packed({**ENTRY, "path": "a/b"}),
    "a file above": packed(ENTRY, {**ENTRY, "path": "x/y"}),
    "a file below a link": packed(
        {"path": "x", "kind": "link", "mode": 0o777, "target": "y"}, {**ENTRY, "path": "x/y"}
    ),
    "an absolute link": packed({"path": "x", "kind": "link", "mode": 0o777, "target": "/etc"}),
    "a link without a target": packed({"path": "x", "kind": "link", "mode": 0o777}),
    "a folder with content": packed({**ENTRY, "kind": "dir", "size": 5, "chunks": [CHUNK]}),
    "a digest that is a path": packed(
        {**ENTRY, "size": 5, "chunks": [{**CHUNK, "digest": "../../etc/passwd"}]}
    ),
    "a digest with a line break": packed(
        {**ENTRY, "size": 5, "chunks": [{**CHUNK, "digest": "a" * 64 + "\n"}]}
    ),
    "a gap": packed({**ENTRY, "size": 5, "chunks": [{**CHUNK, "offset": 1}]}),
    "an overlap": packed({**ENTRY, "size": 8, "chunks": [CHUNK, {**CHUNK, "offset": 3}]}),
    "a chunk of nothing": packed({**ENTRY, "chunks": [{**CHUNK, "size": 0}]}),
    "a chunk that is too large": packed(
        {**ENTRY, "size": CHUNK_BYTES + 1, "chunks": [{**CHUNK, "size": CHUNK_BYTES + 1}]}
    ),
    "a size that lies": packed({**ENTRY, "size": 1 << 40, "chunks": [CHUNK]}),
    "a zero byte in a name": packed({**ENTRY, "path": "a\0b"}),
    "300 folders deep": packed({**ENTRY, "path": "d/" * 300 + "x"}),
}


@pytest.mark.parametrize("data", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_hostile_manifest_is_refused(data):
    with pytest.raises(ContractError):
        decode_manifest(data)


def test_the_control_a_manifest_is_read():
    entry = ManifestEntry(path="x", kind="file", mode=0o644, size=5, chunks=(ChunkRef(**CHUNK),))
    assert decode_manifest(encode_manifest(a_manifest(entry))).entries == (entry,)
    assert decode_manifest(packed({**ENTRY, "size": 5, "chunks": [CHUNK]})).entries == (entry,)


PLAIN = b"hello" * 10
DIGEST = worker_objects.digest_of(PLAIN)
_zstd = zstandard.ZstdCompressor().compress
CHUNKS: dict[str, bytes] = {
    "other bytes": _zstd(b"other"),
    "no zstd": b"\x28\xb5\x2f\xfdno",
    "nothing": b"",
    "half of it": _zstd(PLAIN)[:-5],
    "a bomb of 1 GiB": zstandard.ZstdCompressor(level=19).compress(bytes(64 * MIB)),
    "a size that is not said": zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN),
    "a size of 2**60": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 60) + b"\x01\0\0",
    "an empty frame": _zstd(b""),
    "a skippable frame": b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"xxxx",
}


@pytest.mark.parametrize("stored", CHUNKS.values(), ids=CHUNKS.keys())
def test_a_hostile_chunk_is_refused_by_both_ends(stored):
    with pytest.raises(ContractError):
        worker_objects.raw_form(DIGEST, stored)
    assert cache_objects.raw_form(DIGEST, stored) is None


def test_the_control_a_chunk_is_taken():
    assert worker_objects.raw_form(DIGEST, _zstd(PLAIN)) == PLAIN
    assert cache_objects.raw_form(DIGEST, _zstd(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    "batch",
    [
        bytes(32) + b"\xff\xff\xff\xfe" + bytes(4),
        bytes(32) + bytes(4) + b"\xff\xff\xff\xff",
        batch_bytes(worker_objects.frame_of(PLAIN))[:-1],
    ],
    ids=["4 GiB stored", "4 GiB raw", "half of it"],
)
def test_a_hostile_batch_is_refused(batch):
    with pytest.raises(ContractError):
        read_all(batch)


def read_all(batch: bytes) -> None:
    reader = BatchReader()
    list(reader.feed(batch))
    reader.finish()


@pytest.mark.parametrize(
    "asked",
    [
        msgspec.msgpack.encode(["../../etc/passwd"]),
        msgspec.msgpack.encode(["a" * 64 + "\n"]),
        msgspec.msgpack.encode(["a" * 64] * (DIGESTS_ASKED_MAX + 1)),
        msgspec.msgpack.encode([1]),
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["a path", "a line break", "too many", "a number", "4 G of them"],
)
def test_hostile_questions_are_refused(asked):
    with pytest.raises((ContractError, InvalidRequestError)):
        decode_digests(asked)


def test_a_blob_of_another_digest_is_not_kept(tmp_path):
    store = a_store(tmp_path)
    claimed = Digest("0" * 64)
    with pytest.raises(InvalidRequestError):
        upload_as(store, claimed)
    with pytest.raises(NotFoundError):
        store.blob(claimed)


def upload_as(store, digest: Digest) -> None:
    with store.open_upload(digest) as upload:
        upload.write(b"something else")
        upload.finish(None)


def test_a_chunk_that_rots_on_disk_is_not_given_out(tmp_path):
    store = a_store(tmp_path)
    frame = cache_objects.frame_of(PLAIN)
    store.put_chunks([frame])
    (path,) = [one for one in tmp_path.rglob(f"*{frame.digest[4:]}*") if one.is_file()]
    path.chmod(0o600)
    path.write_bytes(_zstd(b"poisoned"))
    assert store.chunk(frame.digest).stored is None
