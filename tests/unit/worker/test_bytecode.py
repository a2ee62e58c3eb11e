"""The package that containers see is compiled once for each Python, where its compiled files are missing."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from glowplug_worker.ports import Interpreter
from glowplug_worker.runtime import bytecode

OWN = Interpreter(
    version=".".join(map(str, sys.version_info[:3])),
    executable=Path(sys._base_executable),
    prefix=Path(sys.base_prefix),
)
TAG = bytecode.tag_of(OWN.version)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "p" / "inner").mkdir(parents=True)
    for name in ("__init__", "a", "inner/__init__", "inner/b"):
        (tmp_path / "p" / f"{name}.py").write_text("x = 1\n")
    return tmp_path / "p"


def test_the_tag_is_the_interpreters_own():
    assert sys.implementation.cache_tag == TAG
    assert bytecode.tag_of("3.9.18") == "cpython-39"


async def test_what_is_missing_is_compiled_and_then_nothing_is(package):
    tasks: list[asyncio.Task[None]] = []

    def spawn(work, name):
        tasks.append(asyncio.create_task(work, name=name))
        return tasks[-1]

    wanted = bytecode.Bytecode(package, spawn)
    assert len(bytecode.uncompiled(package, TAG)) == 4
    wanted.want(OWN)
    wanted.want(OWN)
    assert len(tasks) == 1, "it looks once for each Python"
    await asyncio.gather(*tasks)
    assert bytecode.uncompiled(package, TAG) == []
    assert {each.name for each in package.rglob("*.pyc")} >= {f"a.{TAG}.pyc", f"b.{TAG}.pyc"}


def test_what_changed_since_counts_as_missing(package):
    assert bytecode.compile_package(package, OWN.executable) == ""
    source = package / "a.py"
    source.write_text("x = 22\n")
    assert bytecode.uncompiled(package, TAG) == [source]
    assert bytecode.compile_package(package, OWN.executable) == ""
    os.utime(source, (1, 1))
    assert bytecode.uncompiled(package, TAG) == [source]


def test_it_fails_in_words(package, tmp_path):
    assert "No such file" in bytecode.compile_package(package, tmp_path / "no-python")
    (package / "bad.py").write_text("def (\n")
    assert "SyntaxError" in bytecode.compile_package(package, OWN.executable)
