"""The runner as its worker sees it: a real process, a real socket, real user code."""

from __future__ import annotations

import base64
import pickle
import sys
from pathlib import Path

import pytest
from glowplug_worker.runtime.python import find_pythons

from tests.support.eventually import eventually_sync
from tests.support.runner_process import open_runner, open_runners


def _by_value(source: str, name: str = "f") -> object:
    """A function whose code no container can import."""
    namespace: dict = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace[name]


@pytest.mark.parametrize("value", [0, False, "", [], None, {}, 0.0, b""])
def test_falsy_results_are_results(value):
    with open_runner() as runner:
        runner.start(function=_by_value("def f(x): return x"))
        assert runner.call(value) == value


def test_hello_comes_before_anything_of_the_users():
    with open_runner() as runner:
        runner.init(function=_by_value("def f(): pass"))
        header, _ = runner.receive()
        assert header["type"] == "hello"
        assert header["python"] == sys.version.split()[0]


def test_a_handler_is_imported_from_source_with_helper_modules(tmp_path):
    (tmp_path / "app.py").write_text(
        "from helper import double\nclass K:\n    run = staticmethod(double)\n"
    )
    (tmp_path / "helper.py").write_text("def double(x): return 2 * x\n")
    with open_runner() as runner:
        runner.start(source=str(tmp_path), handler="app:K.run")
        assert runner.call(4) == 8


def test_decorated_functions_are_unwrapped(tmp_path):
    (tmp_path / "app.py").write_text(
        "class W:\n"
        "    def __init__(self, fn): self.__glowplug_fn__ = fn\n"
        "    def __call__(self): raise RuntimeError('the wrapper ran')\n"
        "@W\n"
        "def f(x): return x + 1\n"
    )
    with open_runner() as runner:
        runner.start(source=str(tmp_path), handler="app:f")
        assert runner.call(1) == 2


def test_packages_of_the_layer_are_importable_and_the_hosts_are_not(tmp_path):
    package = tmp_path / "site-packages" / "from_layer.py"
    package.parent.mkdir()
    package.write_text("here = True\n")
    code = (
        "def f():\n"
        "    import from_layer, importlib.util as u\n"
        "    return from_layer.here, u.find_spec('pytest') is None and u.find_spec('msgspec') is None\n"
    )
    with open_runner() as runner:
        runner.start(layer=str(tmp_path), function=_by_value(code))
        assert runner.call() == (True, True)


def test_the_source_goes_before_the_layer(tmp_path):
    for folder, value in (("source", "mine"), ("layer/site-packages", "theirs")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "app.py").write_text(f"def f(): return {value!r}\n")
    with open_runner() as runner:
        runner.start(
            source=str(tmp_path / "source"), layer=str(tmp_path / "layer"), handler="app:f"
        )
        assert runner.call() == "mine"


def test_an_import_error_is_told_with_the_users_frames_only(tmp_path):
    (tmp_path / "app.py").write_text("print('loading')\nimport not_there_at_all\n")
    with open_runner() as runner:
        runner.init(source=str(tmp_path), handler="app:f")
        error = runner.kind("start_failed")[0]["error"]
        assert error["code"] == "function.start_failed"
        assert error["type"] == "ModuleNotFoundError"
        assert 'File "app.py", line 2' in error["traceback"]
        assert "import not_there_at_all" in error["traceback"]
        assert "glowplug" not in error["traceback"]
        assert runner.logged() == "loading\n"
        assert runner.wait() == 1


def test_on_start_runs_once_and_its_value_is_in_the_context():
    on_start = _by_value("def f():\n    print('once')\n    return {'model': 1}\n")
    code = "def f(context): return context.on_start_value, context.task_id, context.attempt, context.timeout\n"
    with open_runner() as runner:
        header = runner.start(function=_by_value(code), on_start_function=on_start, timeout_s=9.0)
        assert set(header["phases"]) == {"import_s", "on_start_s"}
        assert runner.call() == ({"model": 1}, "inv_1", 1, 9.0)
        assert runner.call()[0] == {"model": 1}
        assert runner.logged() == "once\n"


def test_a_failing_on_start_is_a_failed_start():
    with open_runner() as runner:
        runner.init(
            function=_by_value("def f(): pass"),
            on_start_function=_by_value("def f(): raise OSError('no weights')"),
        )
        error = runner.kind("start_failed")[0]["error"]
        assert (error["type"], error["message"]) == ("OSError", "no weights")


def test_context_is_left_alone_when_the_caller_passes_it():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(a, context=None): return context"))
        assert runner.call(1, "mine") == "mine"
        assert runner.call(1, context="mine") == "mine"


def test_what_context_lacks_is_refused_with_a_sentence():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(context): return context.bind_port"))
        assert "not yet available" in runner.error()["message"]


def test_an_exception_keeps_type_arguments_cause_and_remote_frames(tmp_path):
    (tmp_path / "app.py").write_text(
        "def inner(x):\n"
        "    return {}[x]\n"
        "def f(x):\n"
        "    try:\n"
        "        inner(x)\n"
        "    except KeyError as error:\n"
        "        raise ValueError('bad', x) from error\n"
    )
    with open_runner() as runner:
        runner.start(source=str(tmp_path), handler="app:f")
        error = runner.error("k")
    assert error["type"] == "ValueError"
    assert error["details"]["mro"] == ["ValueError", "Exception", "BaseException", "object"]
    assert "return {}[x]" in error["traceback"]
    assert "direct cause" in error["traceback"]
    assert "glowplug" not in error["traceback"]
    rebuilt = pickle.loads(base64.b64decode(error["pickled"]))
    assert (type(rebuilt), rebuilt.args) == (ValueError, ("bad", "k"))
    assert (type(rebuilt.__cause__), rebuilt.__cause__.args) == (KeyError, ("k",))


@pytest.mark.parametrize(
    "code",
    [
        "class E(Exception):\n    def __init__(self, a, b): super().__init__(a)\n",
        (
            "import threading\nclass E(Exception):\n"
            "    def __init__(self, a, b): super().__init__(a); self.lock = threading.Lock()\n"
        ),
    ],
    ids=["can't be loaded", "can't be dumped"],
)
def test_an_exception_that_cannot_travel_keeps_name_message_and_traceback(code):
    with open_runner() as runner:
        runner.start(function=_by_value(code + "def f(): raise E('why', 2)\n"))
        error = runner.error()
    assert (error["type"], error["message"], error["pickled"]) == ("E", "why", None)
    assert "E: why" in error["traceback"]


def test_sys_exit_fails_the_call_and_not_the_process():
    with open_runner() as runner:
        runner.start(
            function=_by_value("import sys\ndef f(x):\n    if x: sys.exit(3)\n    return 'on'")
        )
        assert runner.error(True)["type"] == "SystemExit"
        assert runner.call(False) == "on"


def test_a_result_that_cannot_be_pickled_is_a_bad_result():
    with open_runner() as runner:
        runner.start(
            function=_by_value("def f():\n    import threading\n    return threading.Lock()")
        )
        error = runner.error()
        assert error["code"] == "function.bad_result"
        assert "lock" in error["message"]


def test_results_by_value_need_no_module_on_the_callers_side():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(n): return lambda x: x + n"))
        assert runner.call(2)(3) == 5


def test_json_in_is_json_out():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(a, b): return {'sum': a + b, 'text': 'ü'}"))
        runner.send("run", b'{"args":[1],"kwargs":{"b":2}}', id="j", index=0, format="json")
        header, body = runner.result("j")
        assert header["format"] == "json"
        assert body.decode() == '{"sum":3,"text":"ü"}'


@pytest.mark.parametrize("expression", ["float('nan')", "{1, 2}", "object()"])
def test_what_json_cannot_say_is_a_bad_result(expression):
    with open_runner() as runner:
        runner.start(function=_by_value(f"def f(): return {expression}"))
        runner.send("run", b'{"args":[],"kwargs":{}}', id="j", index=0, format="json")
        assert runner.result("j")[0]["error"]["code"] == "function.bad_result"


def test_outputs_are_checked_when_asked():
    schema = {"label": {"type": "string"}, "score": {"type": "float", "optional": True}}
    with open_runner() as runner:
        runner.start(function=_by_value("def f(x): return x"), outputs_schema=schema)
        assert runner.call({"label": "en"}) == {"label": "en"}
        error = runner.error({"label": 3, "more": 1})
        assert error["code"] == "function.bad_result"
        assert "label must be a string, not int" in error["message"]
        assert "more is not expected" in error["message"]


def test_large_arguments_and_results_travel_in_pieces():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(data): return data + b'!'"))
        data = bytes(range(256)) * 4096 * 12
        assert runner.call(data) == data + b"!"


def test_output_is_whole_in_order_and_before_the_result():
    code = (
        "import os, subprocess, sys\n"
        "def f():\n"
        "    print('one')\n"
        "    os.write(1, b'two\\n')\n"
        "    print('three', file=sys.stderr)\n"
        "    subprocess.run(['sh', '-c', 'echo four'])\n"
        "    print('five', end='')\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        runner.call()
        assert runner.logged("inv_1") == "one\ntwo\nthree\nfour\nfive"
        assert runner.logged("inv_1", "stderr") == "three\n"


def test_output_of_a_forked_child_arrives_and_the_child_writes_no_frames():
    code = (
        "import multiprocessing as m\n"
        "def child(): print('from the child', flush=True)\n"
        "def f():\n"
        "    p = m.get_context('fork').Process(target=child); p.start(); p.join()\n"
        "    return p.exitcode\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        assert runner.call() == 0
        assert "from the child" in runner.logged("inv_1")


def test_logging_at_info_is_visible_and_basic_config_still_works():
    code = (
        "def f(configure):\n"
        "    import logging\n"
        "    if configure: logging.basicConfig(format='mine %(message)s', force=False)\n"
        "    logging.getLogger('app').info('hello')\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        runner.call(False)
        assert "INFO app: hello" in runner.logged()
        runner.call(True)
        assert "mine hello" in runner.logged()


def test_output_of_concurrent_calls_is_told_apart(tmp_path):
    code = (
        "import threading\n"
        "both = threading.Barrier(2, timeout=30)\n"
        "def f(name):\n"
        "    for n in range(20):\n"
        "        both.wait()\n"
        "        print(name, n)\n"
    )
    (tmp_path / "app.py").write_text(code)
    with open_runner() as runner:
        runner.start(source=str(tmp_path), handler="app:f", concurrency=2)
        runner.run("a", id="inv_a")
        runner.run("b", id="inv_b")
        first, _ = runner.kind("result")
        runner.result("inv_b" if first["id"] == "inv_a" else "inv_a")
        for name in "ab":
            assert runner.logged(f"inv_{name}") == "".join(f"{name} {n}\n" for n in range(20))


def test_sync_code_runs_in_the_main_thread_when_alone():
    code = (
        "import threading\ndef f(): return threading.current_thread() is threading.main_thread()\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        assert runner.call() is True


def test_async_calls_overlap_on_one_loop():
    code = (
        "import asyncio\n"
        "here = []\n"
        "async def f(count):\n"
        "    here.append(asyncio.get_running_loop())\n"
        "    while len(here) < count: await asyncio.sleep(0.001)\n"
        "    return len(set(map(id, here)))\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code), concurrency=3)
        for n in range(3):
            runner.run(3, id=f"inv_{n}")
        seen = {runner.kind("result")[0]["id"] for _ in range(3)}
        assert seen == {"inv_0", "inv_1", "inv_2"}


@pytest.mark.parametrize("prefix", ["", "async "], ids=["sync", "async"])
def test_a_generator_stops_at_its_credit_and_goes_on_with_more(prefix):
    code = f"{prefix}def f(n):\n    for i in range(n):\n        print(i)\n        yield i\n"
    with open_runner() as runner:
        runner.start(function=_by_value(code), is_generator=True)
        runner.send(
            "run", pickle.dumps(((100,), {})), id="g", index=0, format="pickle", stream=True
        )
        items = [runner.kind("item") for _ in range(64)]
        # The 65th was made (it printed) and waits; it can't have been sent.
        runner.until(lambda header: header["type"] == "log" and "64" in runner.logged())
        assert not [h for h, _ in runner.seen if h["type"] == "item" and h["number"] >= 64]
        runner.send("credit", id="g", until=1000)
        items += [runner.kind("item") for _ in range(36)]
        assert [header["number"] for header, _ in items] == list(range(100))
        assert [pickle.loads(body) for _, body in items] == list(range(100))
        assert runner.result("g")[0]["items"] == 100


def test_a_generator_that_nobody_streams_gives_a_list():
    with open_runner() as runner:
        runner.start(function=_by_value("def f(): yield from 'abc'"), is_generator=True)
        assert runner.call() == ["a", "b", "c"]


SLEEPS = "import time\ndef f():\n    print('in', flush=True)\n    time.sleep(600)\n"
ASYNC_SLEEPS = (
    "import asyncio\nasync def f():\n    print('in', flush=True)\n    await asyncio.sleep(600)\n"
)
SPINS = "import time\ndef f():\n    print('in', flush=True)\n    while True: time.sleep(0.01)\n"


@pytest.mark.parametrize(
    ("code", "concurrency"),
    [(SLEEPS, 1), (ASYNC_SLEEPS, 1), (SPINS, 2)],
    ids=["main thread", "event loop", "thread"],
)
def test_cancel_stops_the_code_and_the_runner_goes_on(code, concurrency):
    with open_runner() as runner:
        runner.start(function=_by_value(code), concurrency=concurrency)
        runner.run()
        runner.kind("log")
        runner.send("cancel", id="inv_1")
        header, _ = runner.result()
        assert (header["state"], header["error"]["code"]) == ("failed", "invocation.cancelled")
        runner.run(id="inv_2")
        runner.until(lambda header: header["type"] == "log" and header["id"] == "inv_2")


def test_cancelling_a_waiting_input_keeps_it_from_starting(tmp_path):
    code = (
        "import os, time\n"
        "def f(path, first):\n"
        "    if not first: open(path, 'w').close()\n"
        "    print('in', flush=True)\n"
        "    while first and not os.path.exists(path + '.go'): time.sleep(0.01)\n"
    )
    marker = tmp_path / "ran"
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        runner.run(str(marker), True, id="inv_1")
        runner.run(str(marker), False, id="inv_2")
        runner.kind("log")
        runner.send("cancel", id="inv_2")
        runner.send("cancel", id="inv_unknown")
        # Frames are read in order: this answer proves that the cancel was read.
        runner.send("credit", id="inv_1", until=1)
        Path(f"{marker}.go").touch()
        runner.result("inv_1")
        header, _ = runner.result("inv_2")
        assert header["error"]["code"] == "invocation.cancelled"
        assert not marker.exists()


def test_stop_finishes_what_runs_then_says_bye():
    code = "import time\ndef f():\n    print('in', flush=True)\n    time.sleep(0.2)\n    return 'done'\n"
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        runner.run()
        runner.kind("log")
        runner.send("stop", grace_s=30)
        assert runner.value() == "done"
        runner.kind("bye")
        assert runner.wait() == 0


def test_the_grace_of_a_stop_has_an_end():
    with open_runner() as runner:
        runner.start(function=_by_value(SLEEPS))
        runner.run()
        runner.kind("log")
        runner.send("stop", grace_s=0.05)
        assert runner.receive() is None
        runner.wait()


def test_the_runner_ends_when_its_worker_is_gone():
    with open_runner() as runner:
        runner.start(function=_by_value(SLEEPS))
        runner.run()
        runner.kind("log")
        runner.close_socket()
        runner.wait()


def test_several_sockets_are_several_processes_and_the_parent_reaps():
    with open_runners(3) as runners:
        pids = set()
        for runner in runners:
            runner.start(function=_by_value("import os\ndef f(): return os.getpid()"))
            pids.add(runner.call())
        assert len(pids) == 3
        assert runners[0].process.pid not in pids
        for runner in runners:
            runner.send("stop", grace_s=1)
            runner.kind("bye")
        assert runners[0].wait() == 0


def test_sigterm_reaches_every_process():
    with open_runners(2) as runners:
        for runner in runners:
            runner.start(function=_by_value("def f(): return 1"))
        runners[0].process.terminate()
        for runner in runners:
            assert runner.receive() is None
        assert runners[0].wait() == 128 + 15


def test_processes_do_not_outlive_their_parent():
    spin = _by_value("def f():\n    print('in', flush=True)\n    while True: pass\n")
    with open_runners(2) as runners:
        for runner in runners:
            runner.start(function=spin)
            runner.run()
            runner.kind("log")
        runners[0].process.kill()
        for runner in runners:
            assert runner.receive() is None


def test_a_crash_closes_the_socket_and_shows_in_the_exit_code():
    with open_runner() as runner:
        runner.start(
            function=_by_value("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGKILL)")
        )
        runner.run()
        assert runner.receive() is None
        assert runner.wait() == -9


def test_user_code_finds_no_descriptor_of_the_socket_in_its_children():
    code = (
        "import subprocess\n"
        "def f(): return subprocess.run(['sh', '-c', 'ls /proc/self/fd'], capture_output=True,"
        " close_fds=False, text=True).stdout.split()\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        # 0-2, and the descriptor that ls itself has open.
        assert len(runner.call()) <= 4


def test_on_start_and_async_calls_share_one_loop():
    on_start = _by_value(
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return asyncio.get_running_loop()\n"
    )
    code = "import asyncio\nasync def f(context): return context.on_start_value is asyncio.get_running_loop()\n"
    with open_runner() as runner:
        runner.start(function=_by_value(code), on_start_function=on_start)
        assert runner.call() is True


def test_output_that_nobody_reads_is_dropped_and_counted_and_the_code_goes_on(tmp_path):
    code = (
        "import os\n"
        "def f(done):\n"
        "    for n in range(400): print(str(n) * 4000)\n"
        "    os.system('head -c 3000000 /dev/zero | tr \"\\\\0\" x')\n"
        "    open(done, 'w').close()\n"
    )
    done = tmp_path / "done"
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        runner.run(str(done))
        # Nothing is read from the socket: the code must come to its end all the same.
        eventually_sync(done.exists)
        runner.run("/dev/null", id="inv_2")
        runner.result()
        runner.result("inv_2")
        dropped = sum(header.get("dropped", 0) for header, _ in runner.seen)
        assert dropped > 0


@pytest.mark.parametrize("version", find_pythons().versions())
def test_the_runner_runs_on_every_python_that_the_platform_offers(version, tmp_path):
    (tmp_path / "app.py").write_text(
        "import sys, asyncio\n"
        "def f(x):\n    print('hi')\n    return sys.version.split()[0], x\n"
        "async def g(x):\n    await asyncio.sleep(0)\n    raise ValueError(x)\n"
    )
    found = find_pythons().find(version)
    with open_runner(python=str(found.executable)) as runner:
        runner.start(source=str(tmp_path), handler="app:f")
        assert runner.call([1]) == (found.version, [1])
        assert runner.logged("inv_1") == "hi\n"
    with open_runner(python=str(found.executable)) as runner:
        runner.start(source=str(tmp_path), handler="app:g", concurrency=2)
        assert 'File "app.py", line 7' in runner.error("no")["traceback"]
    with open_runner(python=str(found.executable)) as runner:
        runner.start(mode="session")
        runner.send("exec", b"print(1)\n2", exec_id="x", mode="code")
        header, _ = runner.until(lambda h: h.get("kind") == "ended")
        assert header["exit_code"] == 0


def test_a_child_of_a_child_keeps_its_own_files():
    # What the first child closes of the runner's must not be closed again: the numbers are other files' then.
    code = (
        "import os\n"
        "def in_child(act):\n"
        "    pipes = [os.pipe() for _ in range(8)]\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        try:\n"
        "            act(pipes)\n"
        "        finally:\n"
        "            os._exit(0)\n"
        "    for _, writing in pipes: os.close(writing)\n"
        "    said = [os.read(reading, 100) for reading, _ in pipes]\n"
        "    for reading, _ in pipes: os.close(reading)\n"
        "    os.waitpid(pid, 0)\n"
        "    return said\n"
        "def say(pipes):\n"
        "    for _, writing in pipes: os.write(writing, b'x')\n"
        "def inner(pipes):\n"
        "    said = in_child(say)\n"
        "    for _, writing in pipes: os.write(writing, b''.join(said))\n"
        "def f(): return in_child(inner)\n"
    )
    with open_runner() as runner:
        runner.start(function=_by_value(code))
        assert runner.call() == [b"x" * 8] * 8
