"""A volume: shared by containers, reached by the command line, and never left."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.conftest import APPS
from tests.support.eventually import eventually_sync


@pytest.fixture(scope="module")
def mounted(platform):
    sys.path.insert(0, str(APPS))
    try:
        import mounted

        yield mounted
    finally:
        sys.path.remove(str(APPS))


def test_what_one_container_writes_another_changes_and_a_third_only_reads(mounted):
    mounted.writes.remote("a.txt", "one")
    assert mounted.changes.remote("a.txt", " two") == "one two"
    text, error, is_mount = mounted.reads.remote("a.txt")
    assert text == "one two"
    if is_mount:  # a backend that mounts keeps it from writing
        assert error == "OSError"


def test_files_go_in_and_out_by_the_command_line(mounted, platform, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "b.txt").write_text("from outside")
    (tmp_path / "in" / "large").write_bytes(b"x" * 3_000_000)
    platform.cli("volume", "create", "shared")
    platform.cli("volume", "cp", str(tmp_path / "in"), "shared:made/in")
    assert mounted.changes.remote("in/deep/b.txt", "!") == "from outside!"
    platform.cli("volume", "cp", "shared:made", str(tmp_path / "out"))
    assert (tmp_path / "out" / "in" / "deep" / "b.txt").read_text() == "from outside!"
    assert (tmp_path / "out" / "in" / "large").stat().st_size == 3_000_000
    listed = platform.cli("volume", "ls", "shared:made/in", "-r").stdout
    assert "made/in/deep/b.txt" in listed
    platform.cli("volume", "rm", "shared:made/in", "-r")
    assert "deep" not in platform.cli("volume", "ls", "shared", "-r").stdout
    assert "shared" in platform.cli("volume", "list", "--json").stdout


def test_a_link_that_code_left_does_not_lead_out(mounted, platform, tmp_path):
    assert mounted.leaves_a_link.remote()
    answer = platform.http("GET", "/api/v1/volumes/shared/file?path=link")
    assert answer.status == 422
    assert b"root:" not in answer.body
    failed = platform.cli("volume", "cp", "shared:link", str(tmp_path / "x"), check=False)
    assert not (tmp_path / "x").exists(), failed.stdout


def test_sandboxes_share_a_volume_with_functions(mounted, platform):
    from glowplug import Sandbox, Volume

    place = (
        "from glowplug import Volume; "
        "place = Volume('shared', '/shared').path / 'made'; place.mkdir(exist_ok=True); "
    )
    with Sandbox(volumes=[Volume("shared", "/shared")]).create() as sandbox:
        wrote = sandbox.process.run_code(f"{place}(place / 's.txt').write_text('from a sandbox')")
        assert wrote.exit_code == 0, wrote.error
    assert mounted.changes.remote("s.txt", "!") == "from a sandbox!"
    made = platform.cli("sandbox", "create", "--volume", "shared:/shared").stdout.strip()
    read = platform.cli("sandbox", "run", made, f"{place}print((place / 's.txt').read_text())")
    platform.cli("sandbox", "terminate", made)
    assert read.stdout.strip() == "from a sandbox!"


def test_a_deleted_volume_is_gone(mounted, platform):
    platform.cli("volume", "create", "brief")
    platform.cli("volume", "delete", "brief", "--yes")
    assert platform.http("GET", "/api/v1/volumes/brief/files").status == 404


def test_a_file_that_appears_calls_the_function_that_waits_for_it(platform, tmp_path):
    from glowplug import Map

    (tmp_path / "early.txt").write_text("early")
    platform.cli("volume", "create", "inbox")
    platform.cli("volume", "cp", str(tmp_path / "early.txt"), "inbox:early.txt")
    platform.cli("deploy", "uploads.py")
    try:
        (tmp_path / "a.txt").write_text("one")
        platform.cli("volume", "cp", str(tmp_path / "a.txt"), "inbox:new/a.txt")
        seen = Map("arrived")
        eventually_sync(lambda: "created new/a.txt one" in seen, what="the created file")
        (tmp_path / "a.txt").write_text("two")
        platform.cli("volume", "cp", str(tmp_path / "a.txt"), "inbox:new/a.txt")
        eventually_sync(lambda: "changed new/a.txt two" in seen, what="the changed file")
        assert dict(seen.items()) == {"created new/a.txt one": 1, "changed new/a.txt two": 1}
    finally:
        platform.cli("deployment", "delete", "arrived")
