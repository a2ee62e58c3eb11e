"""What every backend promises: a tree that starts, is told apart, and ends as a whole."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_worker.ports import FDS, Backend, StartPlan
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.uids import RANGES

from tests.support.containers import PRELUDE, Bind, a_plan, open_container
from tests.support.crowded import crowded
from tests.support.eventually import eventually
from tests.support.runner_process import BOOT

ROOT = Path(__file__).parents[3]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _marked(mark: str) -> list[int]:
    """Host pids of the processes whose environment holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "environ").read_bytes() and _alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def test_code_runs_and_speaks_over_the_inherited_socket(backend, tmp_path):
    async with open_container(backend, tmp_path / "c", "say(hear().decode())") as inside:
        await inside.tell()
        assert await inside.said() == "go"
        end = await inside.container.wait()
        assert (end.code, end.signal) == (0, None)


async def test_exit_codes_and_signals_are_told_apart(backend, tmp_path):
    async with open_container(backend, tmp_path / "a", "sys.exit(7)") as inside:
        assert (await inside.container.wait()).code == 7
    code = "import signal; os.kill(os.getpid(), signal.SIGSEGV)"
    async with open_container(backend, tmp_path / "b", code) as inside:
        assert (await inside.container.wait()).signal == signal.SIGSEGV


async def test_the_environment_is_the_plans_and_nothing_of_the_workers(
    backend, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORKERS_SECRET", "1")
    code = "say(dict(os.environ))"
    async with open_container(backend, tmp_path / "c", code, env={"MINE": "2"}) as inside:
        seen = await inside.said()
    assert seen["MINE"] == "2"
    assert set(seen) <= {"MINE", "PWD", "HOME", "GLOWPLUG_CONTAINER_ID", "LC_CTYPE"}


async def test_no_other_descriptor_is_inherited(backend, tmp_path):
    with (tmp_path / "open").open("w") as other:
        os.set_inheritable(other.fileno(), True)
        code = (
            "mine = os.open('/', os.O_RDONLY)\n"
            "say([int(n) for n in os.listdir('/proc/self/fd') if int(n) not in (mine, mine + 1)])\n"
        )
        async with open_container(backend, tmp_path / "c", code) as inside:
            seen = await inside.said()
            assert len(seen) == 4  # 0, 1, 2 and the socket


async def test_what_the_start_says_on_stderr_is_kept(backend, tmp_path):
    code = "os.write(2, b'x' * 9000 + b'the end'); sys.exit(1)"
    async with open_container(backend, tmp_path / "c", code) as inside:
        end = await inside.container.wait()
        assert end.stderr_tail.endswith("the end")
        assert len(end.stderr_tail) <= 4096


async def test_kill_takes_sessions_and_grandchildren_along(backend, tmp_path):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    code = (
        "import time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        say('grandchild'); time.sleep(600)\n"
        "    os._exit(0)\n"
        "time.sleep(600)\n"
    )
    # The mark is in the environment of the whole tree; the host sees it in /proc.
    env = {"MARK": mark}
    async with open_container(backend, tmp_path / "c", code, env=env) as inside:
        await inside.said()
        assert len(_marked(mark)) >= 2
        inside.container.kill()
        inside.container.kill()
        end = await inside.container.wait()
        assert end.signal == signal.SIGKILL
        assert _marked(mark) == []
        assert not _alive(inside.container.pid)


async def test_a_main_process_that_ends_leaves_nothing_behind(backend, tmp_path):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    code = (
        "import time\nif os.fork() == 0:\n    os.setsid(); say('child'); time.sleep(600)\nhear()\n"
    )
    async with open_container(backend, tmp_path / "c", code, env={"MARK": mark}) as inside:
        await inside.said()
        await inside.tell()
        assert (await inside.container.wait()).code == 0
        assert _marked(mark) == []


async def test_a_program_that_is_not_there_is_said_plainly(backend, tmp_path):
    with socket.socket() as unused:
        plan = a_plan(tmp_path, backend, "", unused.fileno(), argv=("/not/there",))
        assert "not/there" in await _failure(backend, plan)


async def _failure(backend: Backend, plan: StartPlan) -> str:
    try:
        container = await backend.start(plan)
    except UnavailableError as error:
        return error.message
    # bwrap makes the container first and looks for the program then.
    end = await container.wait()
    await container.close()
    return end.stderr_tail


async def test_cancelling_a_start_leaves_nothing(backend, tmp_path):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    with socket.socket() as unused:
        plan = a_plan(tmp_path, backend, "hear()", unused.fileno(), env={"MARK": mark})
        starting = asyncio.ensure_future(backend.start(plan))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert _marked(mark) == []


async def test_one_of_very_many_containers_ends_as_any_other(backend, tmp_path):
    with crowded():
        async with open_container(backend, tmp_path / "c", "sys.exit(7)") as inside:
            assert (await inside.container.wait()).code == 7
        async with open_container(backend, tmp_path / "d", "say(1); hear()") as inside:
            assert await inside.said() == 1


async def test_the_tree_dies_with_its_worker(backend, tmp_path):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    script = f"""
import asyncio, sys
from pathlib import Path
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.launcher.client import open_launcher
from tests.support.containers import open_container
async def main():
    backend = await choose_backend(
        {backend.name!r}, Path({str(tmp_path / "other")!r}), launcher=open_launcher()
    )
    code = "say(1)\\nwhile True: pass"
    async with open_container(backend, Path({str(tmp_path / "c")!r}), code, env={{"MARK": {mark!r}}}) as inside:
        print(await inside.said(), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    worker = subprocess.Popen(  # noqa: ASYNC220 - a short line is read from it
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert worker.stdout.readline().strip() == b"1"
        assert _marked(mark)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    await eventually(lambda: not _marked(mark))


async def test_the_runner_itself_starts_inside(backend, tmp_path):
    ours, theirs = socket.socketpair()
    sdk = BOOT.parents[2]
    at = "/glowplug/sdk" if backend.mounts else str(sdk)
    plan = a_plan(
        tmp_path / "c",
        backend,
        "",
        theirs.fileno(),
        binds=(Bind(source=sdk, target="/glowplug/sdk"),),
    )
    argv = (
        plan.argv[0],
        "-I",
        "-S",
        f"{at}/glowplug/runner/boot.py",
        "--fds",
        FDS,
    )
    plan = a_plan(tmp_path / "c", backend, "", theirs.fileno(), argv=argv, binds=plan.binds)
    container = await backend.start(plan)
    theirs.close()
    try:
        ours.setblocking(False)
        hello = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 4096), 30)
        assert b'"hello"' in hello
    finally:
        ours.close()
        # Its worker is gone: the runner ends by itself.
        assert (await asyncio.wait_for(container.wait(), 30)).code == 0
        await container.close()


async def test_writable_binds_are_the_containers_and_others_are_not(bwrap, tmp_path):
    layer, source = tmp_path / "layer", tmp_path / "source"
    (layer / "sub").mkdir(parents=True)
    source.mkdir()
    code = (
        "def writes(path):\n"
        "    try: open(path, 'w').close(); return True\n"
        "    except OSError: return False\n"
        "say([writes(p) for p in ('/layer/sub/a', '/app/a', '/a', '/usr/a', '/tmp/a', '/dev/shm/a')])\n"
    )
    binds = (
        Bind(source=layer, target="/layer", writable=True),
        Bind(source=source, target="/app"),
    )
    async with open_container(bwrap, tmp_path / "c", code, binds=binds) as inside:
        assert await inside.said() == [True, False, False, False, True, True]
    assert (layer / "sub" / "a").exists()


async def test_packages_beside_the_interpreter_are_hidden(bwrap, tmp_path):
    code = (
        "import glob\n"
        "say([p for d in glob.glob(sys.base_prefix + '/lib/python3*/site-packages') for p in os.listdir(d)])\n"
    )
    async with open_container(bwrap, tmp_path / "c", code) as inside:
        assert await inside.said() == []


async def test_what_the_user_sets_for_the_loader_does_not_reach_bubblewrap(bwrap, tmp_path):
    # As LD_PRELOAD of bwrap itself it would run out here; the loader would complain about this one.
    env = {"LD_PRELOAD": str(tmp_path / "not-there.so"), "MINE": "a b\nc"}
    code = "say([os.environ['LD_PRELOAD'], os.environ['MINE']]); hear()"
    async with open_container(bwrap, tmp_path / "c", code, env=env) as inside:
        assert await inside.said() == [env["LD_PRELOAD"], env["MINE"]]
        outer = Path(f"/proc/{inside.container.pid}")
        assert b"LD_PRELOAD" not in (outer / "environ").read_bytes()
        assert b"a b\nc" not in (outer / "cmdline").read_bytes()
        await inside.tell()
        end = await inside.container.wait()
        assert end.stderr_tail.count("not-there.so") <= 1  # the container's Python, not bwrap's


async def test_a_network_of_its_own_is_given_or_refused(backend, tmp_path):
    code = "say(open('/proc/net/dev').read().count(':'))"
    if backend.mounts:
        async with open_container(backend, tmp_path / "c", code, network="none") as inside:
            assert await inside.said() == 1  # loopback only
    else:
        with pytest.raises(UnavailableError, match="network"):
            async with open_container(backend, tmp_path / "c", code, network="none"):
                pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_run_by_root_a_plain_process_has_its_own_user_where_it_can(tmp_path):
    python = Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
    if not python.exists():  # noqa: ASYNC240
        pytest.skip(f"no {python} that every user can run")
    scratch = Path(tempfile.mkdtemp(prefix="glowplug-test-", dir="/var/tmp"))
    scratch.chmod(0o755)  # noqa: ASYNC240
    backend = await choose_backend("process", tmp_path / "data")
    code = "open('mine', 'w').close(); say(os.getuid()); os.fork() or os.setsid(); hear()"
    argv = (str(python), "-I", "-S", "-c", PRELUDE + code)
    try:
        async with open_container(
            backend, scratch, "", argv_of=lambda fd: (*argv, str(fd))
        ) as inside:
            uid = await inside.said()
            assert any(uid in ids for ids in RANGES)
            inside.container.kill()
            await inside.container.wait()
    finally:
        shutil.rmtree(scratch)
