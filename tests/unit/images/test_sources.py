"""Source archives unpack inside their directory, whatever they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_worker.images import sources
from glowplug_worker.images.sources import unpack_source

from tests.support.builders_images import read_tree


def a_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def a_member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def test_unpacks_files_folders_and_executable_bits(tmp_path: Path) -> None:
    archive = a_zip(
        tmp_path / "a.zip",
        ("pkg/", b""),
        ("pkg/ü.py", b"x = 1"),
        (a_member("run.sh", 0o100755), b"#!/bin/sh"),
        ("deep/er/empty", b""),
    )
    unpack_source(archive, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {
        "pkg": ("dir", None),
        "pkg/ü.py": ("file", (b"x = 1", False)),
        "run.sh": ("file", (b"#!/bin/sh", True)),
        "deep": ("dir", None),
        "deep/er": ("dir", None),
        "deep/er/empty": ("file", (b"", False)),
    }


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a//b"])
def test_refuses_names_that_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        unpack_source(a_zip(tmp_path / "a.zip", (name, b"x")), tmp_path / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out").exists()


def test_refuses_links(tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "a.zip", (a_member("link", 0o120777), b"/etc/passwd"))
    with pytest.raises(InvalidRequestError, match="link or a device"):
        unpack_source(archive, tmp_path / "out")


def test_refuses_a_name_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = a_zip(tmp_path / "a.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(InvalidRequestError, match="twice"):
        unpack_source(archive, tmp_path / "out")


def test_refuses_what_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BYTES_MAX", 1000)
    archive = a_zip(tmp_path / "a.zip", ("zeros", bytes(1001)))
    with pytest.raises(InvalidRequestError) as caught:
        unpack_source(archive, tmp_path / "out")
    assert caught.value.code == "request.too_large"


def test_refuses_bytes_that_are_no_zip(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"no zip at all")
    with pytest.raises(InvalidRequestError, match="no usable zip"):
        unpack_source(archive, tmp_path / "out")
