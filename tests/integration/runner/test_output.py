"""Whose output is whose: async code, threads and C code, in one process that runs several calls."""

from __future__ import annotations

from pathlib import Path

from tests.support.runner_process import RunnerProcess, open_runner

ASYNC = """
import asyncio, threading

def in_a_thread(name, n):
    print(f"{name} thread {n}")

async def f(name):
    for n in range(10):
        print(f"{name} {n}")
        await asyncio.sleep(0)
        await asyncio.to_thread(in_a_thread, name, n)
    await asyncio.create_task(task(name))

async def task(name):
    print(f"{name} task")
"""
C_CODE = """
import ctypes, os, subprocess

def f():
    libc = ctypes.CDLL(None)
    print("python")
    libc.puts(b"buffered by C")
    os.write(2, b"straight to 2\\n")
    libc.fflush(None)
    subprocess.run(["sh", "-c", "echo child; echo child err >&2"])
    libc.puts(b"never flushed by the code itself")
"""


def start(runner: RunnerProcess, directory: Path, code: str, **fields: object) -> None:
    (directory / "app.py").write_text(code)
    runner.start(source=str(directory), handler="app:f", **fields)


def test_async_calls_that_interleave_have_their_own_lines_threads_and_tasks(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    with open_runner() as runner:
        start(runner, tmp_path, ASYNC, concurrency=3)
        for name in names:
            runner.run(name, id=f"inv_{name}")
        ended = []
        while len(ended) < len(names):
            ended.append(runner.kind("result")[0]["id"])
        for name in names:
            wanted = [line for n in range(10) for line in (f"{name} {n}", f"{name} thread {n}")]
            assert runner.logged(f"inv_{name}").splitlines() == [*wanted, f"{name} task"]


def test_what_c_code_and_children_write_comes_whole_and_before_the_result(tmp_path: Path) -> None:
    with open_runner() as runner:
        start(runner, tmp_path, C_CODE)
        runner.call()
        both = runner.logged("inv_1").splitlines()
        assert sorted(both) == sorted(
            [
                "python",
                "buffered by C",
                "straight to 2",
                "child",
                "child err",
                "never flushed by the code itself",
            ]
        )
        assert both[0] == "python"
        assert both[-1] == "never flushed by the code itself"
        assert runner.logged("inv_1", "stderr").splitlines() == ["straight to 2", "child err"]
