"""Models made of volumes: what is there now, and nothing that a link leads to."""

from __future__ import annotations

import os

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_imagecache.models.volumes import _Files, _list, _open_folder

from tests.integration.imagecache.test_models import W, ask, ended


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "volumes" / W / "data"
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "a").write_bytes(b"a" * 100_000)
    (folder / "in" / "deep" / "run").write_bytes(b"#!")
    (folder / "in" / "deep" / "run").chmod(0o755)
    (folder / "beside").write_bytes(b"beside")
    return folder


@pytest.fixture
def told(tmp_path):
    return {"volumes_dir": str(tmp_path / "volumes")}


async def pulled(bus, source):
    await ask(bus, source)
    return await ended(bus)


async def test_a_folder_of_a_volume_is_a_model_that_stays_as_it_was(
    bus, imagecache, images, volume
):
    version = (await pulled(bus, "volume:data/in")).versions[0]
    (volume / "in" / "a").write_bytes(b"changed")
    (volume / "beside").unlink()
    root = await images.hold_tree(version.tree, "ctr_1", mounts=True)
    assert (root / "a").read_bytes() == b"a" * 100_000
    assert (root / "deep" / "run").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in root.rglob("*")) == ["a", "deep", "run"]
    newer = await pulled(bus, "volume:data")
    assert [one.files for one in newer.versions] == [2, 2]


async def test_what_leads_out_of_a_volume_is_refused(bus, imagecache, volume):
    (volume / "out").symlink_to("/")
    wrong = {
        "volume:none": "volume.not_found",
        "volume:data/none": "volume.no_file",
        "volume:data/in/a": "volume.no_file",
        "volume:data/out": "volume.no_file",
        "volume:data/out/etc": "volume.no_file",
        "volume:data/../other": "model.refused",
        "volume:data": "model.refused",
    }
    for source, code in wrong.items():
        record = await pulled(bus, source)
        assert (record.versions, record.pull.error.code) == ((), code), source


def test_what_changes_while_it_is_read_is_said(volume, tmp_path):
    folder = _open_folder(volume, "data", [])
    try:
        seen = _list(folder)
        files = _Files(folder, seen)
        number = [one.path for one in seen].index("in/a")
        assert files.read(number, 99_990, 10) == b"a" * 10
        (volume / "in" / "a").unlink()
        (volume / "in" / "a").symlink_to("/etc/passwd")
        with pytest.raises(UnavailableError, match="changed"):
            files.read(number, 0, 10)
        (volume / "in").rename(volume / "moved")
        (volume / "in").symlink_to(tmp_path)
        (tmp_path / "a").write_bytes(b"a" * 100_000)
        with pytest.raises(UnavailableError, match="changed"):
            files.read(number, 0, 10)
        number = [one.path for one in seen].index("beside")
        with (volume / "beside").open("ab") as file:
            file.write(b"more")
        os.utime(volume / "beside")
        with pytest.raises(UnavailableError, match="changed"):
            files.read(number, 0, 6)
    finally:
        os.close(folder)
