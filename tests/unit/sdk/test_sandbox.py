"""Sandboxes through a fake gateway."""

from __future__ import annotations

import pytest
from glowplug import Sandbox, errors

from tests.support.fake_gateway import FakeGateway


def test_code_gives_its_output_result_and_error(gateway: FakeGateway):
    gateway.exec_events = [
        {"kind": "stdout", "text": "one\n"},
        {"kind": "stderr", "data": "dHdvCg=="},
        {"kind": "stdout", "text": "three\n"},
        {"kind": "result", "text": "42"},
        {
            "kind": "ended",
            "exit_code": 1,
            "error": {"type": "ValueError", "message": "bad", "traceback": "line 1"},
        },
    ]
    heard = []
    with Sandbox().create() as sandbox:
        assert sandbox.status() == "running"
        found = sandbox.process.run_code("x", context="c", timeout=3, on_stdout=heard.append)
    assert (found.stdout, found.stderr, found.result) == ("one\nthree\n", "two\n", "42")
    assert (found.exit_code, found.error.name, found.error.value) == (1, "ValueError", "bad")
    assert heard == ["one\n", "three\n"]
    assert gateway.calls[0]["context"] == "c"
    assert gateway.calls[0]["timeout_s"] == 3
    assert gateway.sandboxes[sandbox.sandbox_id]["state"] == "terminated"


def test_one_that_has_ended_is_not_found_again(gateway: FakeGateway):
    sandbox = Sandbox().create()
    assert Sandbox.connect(sandbox.sandbox_id).sandbox_id == sandbox.sandbox_id
    sandbox.terminate()
    with pytest.raises(errors.NotFoundError):
        Sandbox.connect(sandbox.sandbox_id)
    with pytest.raises(errors.NotFoundError):
        Sandbox.connect("sbx_none")


async def test_twins_do_the_same(gateway: FakeGateway):
    gateway.exec_events = [{"kind": "ended", "exit_code": 3}]
    async with await Sandbox().create.aio() as sandbox:
        assert (await sandbox.process.exec.aio("false")).exit_code == 3
    assert gateway.calls[0]["argv"] == ["false"]
