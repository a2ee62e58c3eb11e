"""How an image's tree becomes a root in which everything else finds its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_worker.runtime import treebase
from glowplug_worker.runtime.treebase import Bound, tree_base

from tests.support.builders_images import write_tree

PLACES = dict.fromkeys(("/proc", "/dev", "/sys", "/tmp", "/app"), True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(
        tmp_path / "root",
        {
            "usr/bin/tool": b"",
            "usr/lib/x.so": b"",
            "etc/passwd": b"",
            "etc/group": "passwd",
            "bin": "usr/bin",
            "proc": None,
            "app/theirs": b"",
            "tmp": "var/tmp",
            "var/tmp": None,
        },
    )


def test_what_has_its_place_already_is_bound_whole(root: Path) -> None:
    base = tree_base(root, PLACES | {"/etc/passwd": False, "/usr/lib": True})
    assert base.links == (("/bin", "usr/bin"),)
    assert [each.target for each in base.binds] == ["/etc", "/usr", "/var"]
    assert base.directories == ()


def test_a_directory_that_lacks_a_place_is_opened_as_far_as_it_must_be(root: Path) -> None:
    base = tree_base(root, PLACES | {"/etc/hosts": False, "/usr/lib/new/er": True})
    assert set(base.directories) == {"/etc", "/usr", "/usr/lib"}
    assert Bound("/usr/bin", "usr/bin", directory=True) in base.binds
    assert Bound("/usr/lib/x.so", "usr/lib/x.so", directory=False) in base.binds
    assert ("/etc/group", "passwd") in base.links
    assert not any(each.target in ("/etc", "/usr", "/usr/lib") for each in base.binds)


def test_a_place_that_is_a_link_or_of_another_kind_is_ours(root: Path) -> None:
    places = PLACES | {"/etc/group": False, "/bin/volume": True, "/usr/bin/tool": True}
    base = tree_base(root, places)
    named = {each.target for each in base.binds} | {path for path, _ in base.links}
    assert not named & {"/etc/group", "/bin", "/usr/bin/tool", "/tmp", "/app", "/proc"}
    assert "/etc/passwd" in named


def test_what_would_take_too_many_mounts_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(treebase, "BINDS_MAX", 3)
    with pytest.raises(RejectedError, match="/etc/hosts, /usr/bin/new, /usr/lib/new"):
        tree_base(root, {"/etc/hosts": False, "/usr/lib/new": True, "/usr/bin/new": True})
