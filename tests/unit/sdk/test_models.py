"""Models as programs write them, and what of a folder is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from glowplug import Model, function
from glowplug.client.models import batches, list_folder, read_folder
from glowplug.errors import InvalidInputError, NotYetSupportedError
from glowplug_contracts.trees import PIECE_BYTES


def asked(models):
    return function(models=models)(lambda: None).asked.models


def test_models_are_seen_where_it_was_said():
    assert asked([Model("llama")])[0].mount_path == "/models/llama"
    assert asked({"/weights": Model("llama", version="a" * 64)}) == (
        Model("llama", "/weights", version="a" * 64),
    )
    assert Model.from_dir("some/llama", mount_path="/x").name == "llama"
    assert asked({"/y": Model.from_dir("some/llama")})[0].directory == Path("some/llama").absolute()


def test_a_hubs_model_says_where_it_comes_from():
    model = Model.from_hub("org/Some.Name-7B", "v1", credentials="hub")
    assert (model.name, model.mount_path) == ("Some-Name-7B", "/models/Some-Name-7B")
    assert (model.source, model.credentials) == ("hf:org/Some.Name-7B@v1", "hub")
    assert asked({"/x": model})[0].source == model.source
    assert Model("a") != Model.from_hub("org/a")


@pytest.mark.parametrize(
    "wrong",
    [
        "llama",
        Model("a"),
        ["a"],
        [Model("a"), Model("a", "/b")],
        [Model("a", "/x"), Model("b", "/x")],
    ],
)
def test_what_is_no_list_of_models_is_said(wrong):
    with pytest.raises((TypeError, ValueError), match="models"):
        asked(wrong)


def test_what_no_model_can_be_is_said():
    for name, path, version in (("a b", "", ""), ("a", "", "latest"), ("", "", "")):
        with pytest.raises(ValueError, match=r"Model|version"):
            Model(name, path, version=version)
    with pytest.raises(NotYetSupportedError):
        Model("a", "relative")
    with pytest.raises(RuntimeError, match="inside containers"):
        _ = Model("a").path


def test_the_place_is_what_the_container_says(monkeypatch):
    monkeypatch.setenv("GLOWPLUG_MODELS", '{"a": "/elsewhere/a"}')
    assert Model("a").path == Path("/elsewhere/a")


def test_a_folder_is_named_piece_by_piece(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "run.sh").write_bytes(b"#!")
    (tmp_path / "deep" / "run.sh").chmod(0o755)
    (tmp_path / "large").write_bytes(bytes(PIECE_BYTES) + b"x")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "large")
    listing, places = read_folder(list_folder(tmp_path), lambda *_: None)
    found = {file.path: (file.size, len(file.pieces), file.executable) for file in listing.files}
    assert found == {
        "deep/run.sh": (2, 1, True),
        "empty": (0, 0, False),
        "large": (PIECE_BYTES + 1, 2, False),
        "link": (PIECE_BYTES + 1, 2, False),
    }
    assert sorted(size for _, _, size in places.values()) == [1, 2, PIECE_BYTES]
    missing = [(digest, place) for digest, place in places.items()] * 20
    cut = list(batches(missing))
    assert [one for batch in cut for one in batch] == missing
    assert len(cut) > 1


def test_what_no_model_may_have_is_named(tmp_path):
    def check(match):
        with pytest.raises(InvalidInputError, match=match):
            list_folder(tmp_path)

    check("no file")
    os.mkfifo(tmp_path / "pipe")
    check("pipe is no file")
    (tmp_path / "pipe").unlink()
    (tmp_path / "gone").symlink_to("nowhere")
    check("gone can't be read")
    (tmp_path / "gone").unlink()
    (tmp_path / "folder").symlink_to("/")
    check("folder is a link")
    (tmp_path / "folder").unlink()
    (tmp_path / "a\nb").write_bytes(b"")
    check("can't be shown")
