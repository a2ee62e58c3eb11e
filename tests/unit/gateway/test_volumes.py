"""Files of a volume: nothing leads out, whatever user code left inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from glowplug_contracts.errors import InvalidRequestError, NotFoundError
from glowplug_contracts.messages.deployment import VolumeMount
from glowplug_gateway.mounts import check_mounts
from glowplug_gateway.volumes import Volumes


@pytest.fixture
def volumes(tmp_path):
    (tmp_path / "secret").write_text("secret")
    found = Volumes(tmp_path / "volumes")
    assert found.ensure("default", "v")
    assert not found.ensure("default", "v")
    return found


@pytest.fixture
def inside(tmp_path, volumes) -> Path:
    return tmp_path / "volumes" / "default" / "v"


def write(volumes: Volumes, path: str, data: bytes = b"data") -> None:
    with volumes.writing("default", "v", path) as file:
        file.write(data)


def read(volumes: Volumes, path: str) -> bytes:
    file, size = volumes.open_file("default", "v", path)
    with file:
        data = file.read()
    assert len(data) == size
    return data


def paths(volumes: Volumes, path: str = "", *, deep: bool = True) -> list[str]:
    return [one.path for one in volumes.entries("default", "v", path, deep=deep)]


def test_what_is_written_is_read_listed_and_removed(volumes):
    write(volumes, "a/b/c.txt", b"1")
    write(volumes, "/a/./d.txt", b"")
    assert read(volumes, "a/b/c.txt") == b"1"
    assert paths(volumes) == ["a", "a/b", "a/b/c.txt", "a/d.txt"]
    assert paths(volumes, "a", deep=False) == ["a/b", "a/d.txt"]
    assert paths(volumes, "a/d.txt") == ["a/d.txt"]
    with pytest.raises(InvalidRequestError, match="recursive"):
        volumes.remove("default", "v", "a", deep=False)
    volumes.remove("default", "v", "a/d.txt", deep=False)
    volumes.remove("default", "v", "a", deep=True)
    assert paths(volumes) == []
    volumes.delete("default", "v")
    with pytest.raises(NotFoundError):
        paths(volumes)


def test_a_write_that_fails_leaves_what_was_there(volumes):
    write(volumes, "a", b"old")
    with pytest.raises(OSError, match="gone"), volumes.writing("default", "v", "a") as file:  # noqa: PT012
        file.write(b"half")
        raise OSError("gone")
    assert read(volumes, "a") == b"old"
    assert paths(volumes) == ["a"]


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "..", "a\0b", "x/" * 40, "x" * 2000]
)
def test_a_path_that_leads_out_is_refused(volumes, path):
    for tried in (read, write, lambda v, p: v.remove("default", "v", p, deep=True), paths):
        with pytest.raises(InvalidRequestError):
            tried(volumes, path)


def test_links_of_user_code_are_not_followed(volumes, inside, tmp_path):
    (inside / "file").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "own").symlink_to(inside)
    for path in ("file", "folder/secret", "own/file"):
        with pytest.raises(InvalidRequestError):
            read(volumes, path)
    with pytest.raises(InvalidRequestError):
        write(volumes, "folder/new")
    assert not (tmp_path / "new").exists()
    assert {one.kind for one in volumes.entries("default", "v", "", deep=True)} == {"other"}
    # Writing replaces the link itself, and removing takes the link: what it pointed at stays.
    write(volumes, "file", b"mine")
    volumes.remove("default", "v", "folder", deep=True)
    assert (tmp_path / "secret").read_text() == "secret"
    assert read(volumes, "file") == b"mine"


def test_pipes_and_folders_are_no_files(volumes, inside):
    os.mkfifo(inside / "pipe")
    (inside / "folder").mkdir()
    for path in ("pipe", "folder"):
        with pytest.raises(InvalidRequestError):
            read(volumes, path)
    with pytest.raises(InvalidRequestError):
        write(volumes, "folder")


def test_workspaces_and_names_are_checked(volumes, tmp_path):
    for workspace, name in (("..", "v"), ("default", ".."), ("default", "a/b"), ("other", "v")):
        with pytest.raises((InvalidRequestError, NotFoundError)):
            volumes.entries(workspace, name, "", deep=False)
    (tmp_path / "volumes" / "default" / "link").symlink_to(tmp_path)
    with pytest.raises(NotFoundError):
        volumes.entries("default", "link", "", deep=False)


def test_what_one_container_makes_another_may_change(volumes, inside):
    assert inside.stat().st_mode & 0o777 == 0o777
    write(volumes, "folder/file")
    assert (inside / "folder" / "file").stat().st_mode & 0o666 == 0o666


def test_without_a_directory_there_are_no_volumes():
    with pytest.raises(InvalidRequestError, match="VOLUMES_DIR"):
        Volumes(None).every("default")


@pytest.mark.parametrize(
    "places",
    [
        ["data"], ["/"], ["/etc"], ["/app/x"], ["/usr/x"], ["/tmp/x"], ["/a/../b"], ["/a//b"], ["/a/"],
        ["/a", "/a"], ["/a", "/a/b"], ["/a/b", "/a"], ["/a b"], ["/" + "a/" * 9 + "b"],
    ],
)  # fmt: skip
def test_a_place_that_is_taken_or_none_is_refused(places):
    mounts = [VolumeMount(name=f"v{n}", path=path) for n, path in enumerate(places)]
    assert check_mounts(mounts, ())


def test_places_of_their_own_are_fine():
    mounts = [VolumeMount(name="a", path="/data"), VolumeMount(name="b", path="/models/x.y")]
    assert check_mounts(mounts, ()) == {}
