"""Tars as different tools write them, damaged ones, and those that are bombs."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from glowplug_contracts.errors import InvalidRequestError
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.layers.headers import number
from glowplug_imagecache.layers.reading import read_layers

from tests.support.layers import BOUNDS, Nowhere, members_of, paths, read_tars, tar_of

NAMES = [
    "short",
    "d" * 99,
    "d" * 100,
    "d" * 101,
    "p" * 150 + "/" + "n" * 99,
    "x/" * 90 + "n" * 200,
    "ümläut",
]


def info(name: str, **facts: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(member, key, value)
    return member


def refusal(data: bytes, bounds: Bounds = BOUNDS) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        members_of(data, bounds)
    assert raised.value.code.startswith("layer.")
    return str(raised.value)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_links_and_numbers_of_any_size_are_read(form: int) -> None:
    members = [
        (info(name, mode=0o4755, uid=3_000_000, gid=2**31, mtime=2**35), name.encode())
        for name in NAMES
    ]
    members += [
        (info(f"l{n}", type=tarfile.SYMTYPE, linkname="t" * n), b"") for n in (1, 100, 101, 300)
    ]
    found = members_of(tar_of(members, form))
    assert [member.name.decode() for member, _ in found[: len(NAMES)]] == NAMES
    for member, content in found[: len(NAMES)]:
        assert (member.mode, member.uid, member.gid) == (0o4755, 3_000_000, 2**31)
        assert member.mtime_ns == 2**35 * 10**9
        assert content == member.name
    assert [len(member.linkname) for member, _ in found[len(NAMES) :]] == [1, 100, 101, 300]


def test_extended_headers_are_read() -> None:
    headers = {
        "mtime": "1350244992.0239601089",
        "uid": "4000000000",
        "SCHILY.xattr.user.a": "\udcff=\n b",
        "LIBARCHIVE.xattr.user.b": "YQ==",
        "comment": "nobody reads it",
    }
    ((member, content),) = members_of(tar_of([(info("f", pax_headers=headers), b"abc")]))
    assert member.mtime_ns == 1350244992_023960108
    assert member.uid == 4_000_000_000
    assert member.xattrs == {b"user.a": b"\xff=\n b"}
    assert content == b"abc"


def test_times_before_1970_are_read() -> None:
    data = tar_of([(info("f", pax_headers={"mtime": "-1.5"}), b"")])
    assert members_of(data)[0][0].mtime_ns == -1_500_000_000
    data = tar_of([(info("f", mtime=-5), b"")], tarfile.GNU_FORMAT)
    assert members_of(data)[0][0].mtime_ns == -5_000_000_000


def test_a_global_header_changes_nothing() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", pax_headers={"comment": "x", "path": "evil"}
    ) as tar:
        tar.addfile(info("f"), io.BytesIO())
    assert [member.name for member, _ in members_of(buffer.getvalue())] == [b"f"]


def test_every_kind_is_read() -> None:
    kinds = {
        b"0": "file", b"\x00": "file", b"7": "file", b"1": "hardlink", b"2": "link", b"3": "char",
        b"4": "block", b"5": "dir", b"6": "fifo",
    }  # fmt: skip
    data = tar_of(
        [(info("m", type=kind, linkname="t", devmajor=7, devminor=9), b"") for kind in kinds]
    )
    found = [member for member, _ in members_of(data)]
    assert [member.kind for member in found] == list(kinds.values())
    assert (found[5].major, found[5].minor) == (7, 9)
    old = bytearray(tar_of([(info("folder", type=b"\x00"), b"")], tarfile.USTAR_FORMAT))
    old[6:7] = b"/"
    assert members_of(resummed(old))[0][0].kind == "dir"
    assert "kind b'Q'" in refusal(tar_of([(info("m", type=b"Q"), b"")]))


def resummed(data: bytearray) -> bytes:
    """Return a tar whose first header has a right sum again."""
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\x00 " % sum(data[:512])
    return bytes(data)


def test_sums_of_signed_bytes_are_right_too() -> None:
    data = bytearray(tar_of([(info("ümläut"), b"")], tarfile.GNU_FORMAT))
    unsigned = resummed(data)
    assert members_of(unsigned)[0][0].name == "ümläut".encode()
    blanked = unsigned[:148] + b" " * 8 + unsigned[156:512]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blanked)
    data[148:156] = b"%06o\x00 " % signed
    assert members_of(bytes(data))[0][0].name == "ümläut".encode()
    data[148:156] = b"%06o\x00 " % (signed + 1)
    assert "damaged header" in refusal(bytes(data))


@pytest.mark.skipif(shutil.which("tar") is None, reason="takes GNU tar")
@pytest.mark.parametrize(
    "form",
    [
        ("--format=gnu",), ("--format=ustar",), ("--format=v7",),
        ("--format=gnu", "--sparse"),
        ("--format=pax", "--sparse", "--sparse-version=0.0"),
        ("--format=pax", "--sparse", "--sparse-version=0.1"),
        ("--format=pax", "--sparse", "--sparse-version=1.0"),
    ],
)  # fmt: skip
def test_gnu_tars_files_with_holes_are_read_whole(tmp_path: Path, form: tuple[str, ...]) -> None:
    pieces = {
        "one": [(0, b"start"), (1_000_000, b"middle" * 1000)],
        "many": [(n * 100_000, b"%d" % n) for n in range(40)],
        "end": [(2_000_000, b"x")],
        "dense": [(0, os.urandom(10_000))],
    }
    for name, parts in pieces.items():
        with (tmp_path / name).open("wb") as file:
            for offset, data in parts:
                file.seek(offset)
                file.write(data)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(3_000_000)
    names = [*pieces, "hole"]
    made = subprocess.run(
        ["tar", *form, "-C", tmp_path, "-cf", "-", *names], capture_output=True, check=True
    )
    found = {member.name.decode(): content for member, content in members_of(made.stdout)}
    assert list(found) == names
    for name, content in found.items():
        assert content == (tmp_path / name).read_bytes(), name
    if "--sparse" in form:
        assert len(made.stdout) < 1_000_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\x00", 0o644), (b" 644 \x00\x00\x00", 0o644), (b"\x00\x00 644 \x00", 0o644), (b"        ", 0),
        (b"\x80\x00\x00\x00\x00\x00\x01\x00", 256), (b"\xff" * 8, -1), (b"\xff" * 7 + b"\xfe", -2),
    ],
)  # fmt: skip
def test_numbers_are_octal_or_binary(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize(
    "field", [b"0000648\x00", b"-1      ", b"0x10    ", b"\x80" + b"\xff" * 11]
)
def test_numbers_that_are_none_are_refused(field: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        number(field)


WHOLE = tar_of([(info("a"), b"a" * 1000), (info("b"), b"b" * 10)])


def test_a_damaged_header_is_not_the_end() -> None:
    second = 512 + 1024
    damaged = WHOLE[:second] + b"X" + WHOLE[second + 1 :]
    assert "damaged header" in refusal(damaged)


def test_a_tar_that_is_cut_off_is_refused() -> None:
    assert "middle of a file" in refusal(WHOLE[:700])
    assert "middle of a header" in refusal(WHOLE[:100])
    assert "belongs to nothing" in refusal(tar_of([(info("n" * 200), b"")])[:1024])


def test_the_end_may_lack_and_nothing_may_follow_it() -> None:
    end = 512 * 5
    assert len(members_of(WHOLE[:end])) == 2
    assert len(members_of(WHOLE[:end] + bytes(512))) == 2
    assert "after its end" in refusal(WHOLE[:end] + bytes(512) + WHOLE)
    assert members_of(b"") == []


PAX_PREFIX = 512


@pytest.mark.parametrize(
    "record",
    [
        b"9999999 path=x\n",
        b"5 a=b\n",
        b"x path=a\n",
        b"6 path\n",
        b"-1 a=b\n",
        b"7 =abc\n",
        b"8 path=x",
        b"99 path=x\n",
    ],
)
def test_extended_headers_that_can_not_be_read_are_refused(record: bytes) -> None:
    assert "extended header" in refusal(with_header(record))


def with_header(records: bytes, kind: bytes = b"x") -> bytes:
    """Return a tar whose one file has these bytes as an extended header."""
    header = info("PaxHeaders/f", type=kind, size=len(records))
    padded = records.ljust(-(-len(records) // 512) * 512, b"\x00")
    blocks = header.tobuf(tarfile.USTAR_FORMAT)
    return blocks + padded + tar_of([(info("f"), b"")], tarfile.USTAR_FORMAT)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"uid": "-1"}, "number"),
        ({"uid": str(2**32 - 1)}, "no user or group"),
        ({"size": "9" * 19}, "number"),
        ({"mtime": "yesterday"}, "time"),
        ({"path": "a\x00b"}, "zero byte"),
        ({"GNU.sparse.size": "100", "GNU.sparse.map": "0,10,5,10"}, "regions"),
        ({"GNU.sparse.size": "5", "GNU.sparse.map": "0,10"}, "regions"),
        ({"GNU.sparse.size": "100", "GNU.sparse.map": "0"}, "regions"),
        ({"GNU.sparse.size": "100", "GNU.sparse.map": "0,x"}, "number"),
        ({"GNU.sparse.size": "100", "GNU.sparse.map": "0,10"}, "regions"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}, "regions"),
        ({"GNU.sparse.size": "100", "GNU.sparse.numbytes": "1", "GNU.sparse.offset": "1"}, "regions"),
    ],
)  # fmt: skip
def test_extended_headers_that_lie_are_refused(fields: dict[str, str], words: str) -> None:
    assert words in refusal(with_header(b"".join(record(*field) for field in fields.items())))


def test_headers_are_bounded_before_they_are_read() -> None:
    bounds = Bounds(header_bytes_max=10_000)
    for kind in (b"x", b"L", b"K", b"g"):
        huge = bytearray(info("f", type=kind).tobuf(tarfile.GNU_FORMAT))
        huge[124:136] = b"\x80" + (2**62).to_bytes(11, "big")  # four exabytes that are not there
        assert "headers of over 10000 bytes" in refusal(resummed(huge), bounds)
    many = with_header(record("comment", "x" * 400))[:1024] * 20
    assert "headers of over 10000 bytes" in refusal(many, bounds)


def test_attributes_are_bounded() -> None:
    bounds = Bounds(xattrs_max=3, xattr_bytes_max=100)
    many = b"".join(record(f"SCHILY.xattr.user.{n}", "x") for n in range(4))
    assert "too many" in refusal(with_header(many), bounds)
    assert "over 100 bytes" in refusal(
        with_header(record("SCHILY.xattr.user.a", "x" * 101)), bounds
    )


# Whole layers


def test_layers_are_read_in_every_form(tmp_path: Path) -> None:
    tar = tar_of([(info("d/f"), b"f" * 300_000)])
    half = len(tar) // 2
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    forms = {
        "plain": tar,
        "gzip": gzip.compress(tar),
        "gzip in members": gzip.compress(tar[:half]) + gzip.compress(tar[half:]),
        "zstd": zstandard.compress(tar),
        "zstd in frames": zstandard.compress(tar[:half])
        + skippable
        + zstandard.compress(tar[half:]),
        "zstd begins with no data": skippable + zstandard.compress(tar),
    }
    for form, data in forms.items():
        (tmp_path / "layer").write_bytes(data)
        contents = Nowhere()
        tree = read_layers([(tmp_path / "layer", digest(tar))], contents)
        assert paths(tree) == ["d/", "d/f"], form
        assert contents.taken == 300_000


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def broken(tmp_path: Path, data: bytes, diff_id: str) -> str:
    (tmp_path / "layer").write_bytes(data)
    with pytest.raises(InvalidRequestError) as raised:
        read_layers([(tmp_path / "layer", diff_id)], Nowhere())
    assert raised.value.code == "layer.corrupt"
    return str(raised.value)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bytes])
def test_a_layer_that_is_not_what_the_configuration_names_is_refused(
    tmp_path: Path, compress: type[bytes]
) -> None:
    tar = tar_of([(info("f"), os.urandom(100_000))])
    assert "configuration" in broken(tmp_path, compress(tar), digest(tar + b"x"))
    # What follows the archive's end belongs to the layer too.
    assert "configuration" in broken(tmp_path, compress(tar + bytes(512)), digest(tar))
    cut = compress(tar)
    assert broken(tmp_path, cut[: len(cut) // 2], digest(tar))
    if compress is not bytes:
        flipped = bytearray(cut)
        flipped[len(cut) // 2] ^= 0xFF
        assert broken(tmp_path, bytes(flipped), digest(tar))


@pytest.mark.parametrize("form", ["gzip", "plain"])
def test_a_bomb_of_bytes_ends_at_its_bound(tmp_path: Path, form: str) -> None:
    tar = tar_of([(info("zeros"), bytes(10_000_000))])
    for bounds, words in (
        (Bounds(ratio_max=20, ratio_free_bytes=1_000_000), "over 20 times"),
        (Bounds(bytes_max=5_000_000), "over 5000000 bytes"),
    ):
        if form == "plain" and "times" in words:
            assert paths(read_tars(tmp_path, tar, bounds=bounds, form=form)) == ["zeros"]
            continue
        with pytest.raises(InvalidRequestError, match=words) as raised:
            read_tars(tmp_path, tar, bounds=bounds, form=form)
        assert raised.value.code == "layer.too_large"


def test_a_bomb_of_holes_is_counted_by_what_it_claims(tmp_path: Path) -> None:
    fields = {"GNU.sparse.size": str(2**60), "GNU.sparse.map": f"{2**60 - 1},0"}
    tar = with_header(b"".join(record(*field) for field in fields.items()))
    with pytest.raises(InvalidRequestError, match="files of over"):
        read_tars(tmp_path, tar)


def test_bounds_hold_for_all_layers_together(tmp_path: Path) -> None:
    tars = [tar_of([(info("f"), bytes(100_000))]) for _ in range(3)]
    with pytest.raises(InvalidRequestError, match="over 250000 bytes"):
        read_tars(tmp_path, *tars, bounds=Bounds(bytes_max=250_000))
