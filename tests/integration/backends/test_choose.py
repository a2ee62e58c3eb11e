"""The choice of a backend: by trying, with a reason, never a weaker one in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.ports import Interpreter
from glowplug_worker.runtime import choose
from glowplug_worker.runtime.choose import Findings, choose_backend, probe
from glowplug_worker.runtime.process import WARNING, ProcessBackend
from glowplug_worker.runtime.python import own_python


async def test_a_plain_process_is_found_out_and_says_what_it_is(tmp_path):
    backend = ProcessBackend("for this test")
    findings = await probe(backend, tmp_path)
    assert findings.data
    if os.geteuid() == 0:
        assert len(findings.holes()) >= 3
    assert WARNING in backend.reason
    assert not backend.enforces


async def test_the_choice_leaves_nothing_in_the_data_directory(tmp_path):
    await choose_backend("auto", tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_without_bubblewrap_auto_falls_back_with_the_reason_and_bwrap_refuses(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(choose, "find_binary", lambda: None)
    backend = await choose_backend("auto", tmp_path)
    assert backend.name == "process"
    assert "bubblewrap is not installed" in backend.reason
    with pytest.raises(UnavailableError, match="not installed"):
        await choose_backend("bwrap", tmp_path)


async def test_a_bubblewrap_that_fails_is_not_chosen(tmp_path, monkeypatch):
    broken = tmp_path / "bin" / "bwrap"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no namespaces here >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(choose, "find_binary", lambda: broken)
    backend = await choose_backend("auto", tmp_path / "data")
    assert backend.name == "process"
    assert "no namespaces here" in backend.reason


async def test_a_sandbox_with_a_hole_is_not_chosen(tmp_path, monkeypatch):
    async def leaky(*_args: object) -> Findings:
        return Findings(caps=1, data=False, core_pattern=False, shadow=False)

    monkeypatch.setattr(choose, "find_binary", lambda: tmp_path / "bwrap")
    monkeypatch.setattr(choose, "probe", leaky)
    backend = await choose_backend("auto", tmp_path / "data")
    assert backend.name == "process"
    assert "capabilities 0x1 are left" in backend.reason


async def test_an_unknown_backend_is_refused_by_name(tmp_path):
    with pytest.raises(UnavailableError, match="docker"):
        await choose_backend("docker", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could give containers their own users")
async def test_a_plain_process_that_keeps_roots_id_is_said(monkeypatch):
    python = own_python()
    open_python = Interpreter(
        version=python.version, executable=Path("/bin/sh"), prefix=Path("/usr")
    )
    monkeypatch.setattr(choose, "own_python", lambda: open_python)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        closed = Path(directory) / "data"
        closed.mkdir(mode=0o700)
        backend = await choose_backend("process", closed)
        assert f"run as ROOT, because other users can't reach {closed}" in backend.reason
        Path(directory).chmod(0o755)  # noqa: ASYNC240
        closed.chmod(0o755)
        backend = await choose_backend("process", closed)
        assert "ROOT" not in backend.reason
        assert "users of their own" in backend.reason
        assert WARNING in backend.reason


def test_doctor_can_ask_from_outside():
    done = subprocess.run(
        [sys.executable, "-m", "glowplug_worker.runtime.choose"], capture_output=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["backend"] in {"bwrap", "process"}
    assert said["reason"]
    assert said["system_calls"].startswith("glowplug 1: ") == (said["backend"] == "bwrap")
    assert said["pythons"][0] == f"{sys.version_info[0]}.{sys.version_info[1]}"
