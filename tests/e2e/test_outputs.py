"""Outputs: what a task saves is there for its caller, by any of the ways, and for who has the address."""

from __future__ import annotations

import io
import sys
import urllib.error
import urllib.request
import zipfile

import pytest

from tests.e2e.conftest import APPS


@pytest.fixture(scope="module")
def saves(platform):
    sys.path.insert(0, str(APPS))
    try:
        import saves

        yield saves
    finally:
        sys.path.remove(str(APPS))


def test_a_task_saves_files_and_its_caller_and_strangers_read_them(saves, platform, tmp_path):
    text, size = "hello ü", 1_300_000
    task = saves.saves.put(text, size)
    one, url, there, unsaved, stored = task.result()
    assert (there, unsaved, stored, one.task_id) == (True, False, 8, task.id)
    with urllib.request.urlopen(url, timeout=30) as answer:  # no token
        assert answer.read() == text.encode()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.replace("expires=1", "expires=2"), timeout=30)
    with refused.value:
        assert refused.value.code == 403

    found = {output.name: output for output in task.outputs()}
    assert set(found) == {"a.txt", "renamed.bin", "in.zip", "picture.png"}
    assert found["picture.png"].read() == b"a picture in png"
    assert found["renamed.bin"].download(tmp_path).read_bytes() == text.encode() * size
    with zipfile.ZipFile(io.BytesIO(found["in.zip"].read())) as archive:
        assert archive.read("a.txt") == text.encode()
    assert one.download(tmp_path / "x").read_text() == text

    listed = platform.cli("task", "outputs", task.id).stdout
    assert "renamed.bin" in listed
    platform.cli("output", "cp", one.id, str(tmp_path))
    assert (tmp_path / "a.txt").read_text() == text
    made = platform.cli("output", "url", one.id, "--expires", "60").stdout.strip()
    platform.cli("output", "rm", one.id)
    assert not one.exists()
    with pytest.raises(urllib.error.HTTPError) as gone:
        urllib.request.urlopen(made, timeout=30)
    with gone.value:
        assert gone.value.code == 404


def test_a_call_saves_the_same_once_and_reads_it_inside(saves):
    output = saves.saves_and_reads.remote("text")
    assert output.read() == b"text"
    assert output.stat().size == 4


def test_what_can_not_be_saved_is_said(saves, tmp_path):
    from glowplug import Output
    from glowplug.errors import InvalidInputError

    with pytest.raises(InvalidInputError, match="can't name an output"):
        saves.saves_badly.remote("../b.txt")
    (tmp_path / "a").write_text("x")
    with pytest.raises(InvalidInputError, match="belongs to a task"):
        Output(path=tmp_path / "a").save()
    with pytest.raises(FileNotFoundError):
        Output(path=tmp_path / "b")
