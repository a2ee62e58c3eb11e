"""Which way of mounting is chosen: what really works here, tried once per boot, with a sentence."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from glowplug_local.doctor import check_images
from glowplug_runtime.settings import SettingsError
from glowplug_worker.images.mounts.probe import (
    MountsWanted,
    choose,
    choose_wanted,
    try_all,
    why_not_fanotify,
    why_not_fuse,
)
from glowplug_worker.runtime.leftovers import mounts_below

from tests.support import erofs, lazy_trees
from tests.support.ordinary import UID, find_ordinary


def test_what_is_chosen_is_what_works_here(tmp_path: Path) -> None:
    choice = try_all(tmp_path)
    works = erofs.kernel_mounts_erofs() and lazy_trees.kernel_tells_of_reads(tmp_path)
    assert choice.method == ("fanotify" if works else "extraction")
    assert len(choice.reason) > 20
    assert list(tmp_path.iterdir()) == []
    assert mounts_below(tmp_path) == []


def test_fuse_is_found_where_it_works(tmp_path: Path) -> None:
    works = erofs.kernel_mounts_erofs() and Path("/dev/fuse").exists()
    assert (why_not_fuse(tmp_path) == "") == works
    assert mounts_below(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="takes a tmpfs")
def test_a_file_system_that_tells_nothing_is_said_to_be_one() -> None:
    choice = try_all(Path("/dev/shm"))
    assert choice.method == "extraction"
    assert "root" in choice.reason or "ext4" in choice.reason


def test_what_was_found_counts_until_the_machine_starts_again(tmp_path: Path) -> None:
    found = choose(tmp_path)
    kept = tmp_path / "probe.json"
    said = json.loads(kept.read_bytes())
    said["choice"]["reason"] = "kept"
    kept.write_text(json.dumps(said))
    assert choose(tmp_path).reason == "kept"
    for change in ({"boot": "another"}, {"uid": 4242}):
        kept.write_text(json.dumps({**said, **change}))
        assert choose(tmp_path) == found
    kept.write_text("{")
    assert choose(tmp_path) == found


def test_what_an_operator_wants_is_had_or_the_worker_says_why_not(tmp_path: Path) -> None:
    assert choose_wanted("auto", tmp_path) == choose(tmp_path)
    extracted = choose_wanted("extract", tmp_path)
    assert extracted.method == "extraction"
    assert "GLOWPLUG_WORKER_IMAGE_MOUNTS=extract" in extracted.reason
    wants: tuple[tuple[MountsWanted, str], ...] = (
        ("fanotify", why_not_fanotify(tmp_path)),
        ("fuse", why_not_fuse(tmp_path)),
    )
    for wanted, why_not in wants:
        if why_not:
            with pytest.raises(SettingsError, match=f"{wanted} can't be had: .{{10}}"):
                choose_wanted(wanted, tmp_path)
        else:
            assert choose_wanted(wanted, tmp_path).method == wanted


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="takes a tmpfs")
def test_what_is_wanted_where_it_can_not_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="GLOWPLUG_WORKER_IMAGE_MOUNTS=fanotify can't be had"):
        choose_wanted("fanotify", Path("/dev/shm"))


def test_doctor_says_what_works() -> None:
    finding = check_images()
    assert finding.what == "images"
    assert finding.verdict in {"ok", "note"}
    assert bool(finding.mend) == (finding.verdict == "note")


def test_an_ordinary_user_extracts_and_is_told_why(tmp_path: Path) -> None:
    ordinary = find_ordinary(tmp_path)
    if isinstance(ordinary, str):
        pytest.skip(ordinary)
    done = subprocess.run(
        [ordinary.python, "-m", "glowplug_worker.images.mounts.probe", str(tmp_path)],
        env=ordinary.env,
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["method"] == "extraction"
    assert "root" in found["reason"]
