"""Models: uploaded piece by piece, mounted read-only, listed, moved to another version, forgotten."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys

import pytest
from glowplug import Model
from glowplug.errors import NotFoundError

from tests.e2e.conftest import APPS

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def weighs(platform, tmp_path_factory):
    local = tmp_path_factory.mktemp("local")
    (local / "deep").mkdir()
    (local / "deep" / "vocabulary.json").write_text("{}")
    (local / "model.safetensors").write_bytes(b"s" * 5000)
    os.environ["LOCAL_WEIGHTS"] = str(local)
    sys.path.insert(0, str(APPS))
    try:
        import weighs

        yield weighs
    finally:
        sys.path.remove(str(APPS))
        del os.environ["LOCAL_WEIGHTS"]


def test_weights_are_uploaded_once_and_mapped_read_only(weighs, platform, tmp_path):
    data = bytearray(random.Random(7).randbytes(5 * MIB + 77))
    (tmp_path / "w.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text('{"layers": 1}')
    done = json.loads(platform.cli("model", "pull", "llama", str(tmp_path), "--json").stdout)
    assert (done["state"], done["files"], done["progress"]) == ("ready", 2, 1.0)
    digest, error, is_mount = weighs.reads.remote("w.safetensors")
    assert digest == hashlib.sha256(data).hexdigest()
    if is_mount:  # a backend that mounts keeps it from writing
        assert error == "OSError"

    # The same folder is the same version, whatever its times say.
    os.utime(tmp_path / "config.json", (1, 1))
    again = json.loads(platform.cli("model", "pull", "llama", str(tmp_path), "--json").stdout)
    assert again["digest"] == done["digest"]

    # Another version, of which one piece is new.
    data[0] ^= 1
    (tmp_path / "w.safetensors").write_bytes(data)
    moved = platform.cli("model", "pull", "llama", str(tmp_path)).stderr
    assert "uploading" in moved
    shown = platform.http("GET", "/models/llama/status").json()
    assert (shown["state"], shown["progress"]) == ("ready", 100.0)
    assert [one["digest"] for one in shown["versions"]][1:] == [done["digest"]]
    assert shown["digest"] != done["digest"]


def test_a_folder_is_uploaded_when_its_function_is_deployed(weighs, platform):
    assert weighs.reads_local.remote() == ["deep/vocabulary.json", "model.safetensors"]
    listed = platform.cli("model", "list").stdout
    assert "local" in listed


def test_a_model_that_is_not_there_is_said_before_anything_starts(platform):
    answer = platform.http("GET", "/models/none/status")
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model.not_found")
    with pytest.raises(NotFoundError):
        Model("none").status()
    assert platform.http("DELETE", "/models/none").status == 404


def test_a_forgotten_model_can_be_had_no_more(weighs, platform, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a")
    Model("brief").upload(tmp_path)
    assert Model("brief").status().files == 1
    platform.cli("model", "rm", "brief", "--yes")
    failed = platform.cli("model", "show", "brief", check=False)
    assert failed.returncode == 1
    assert "model pull" in failed.stderr
