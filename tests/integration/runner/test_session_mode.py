"""Sandboxes and builds as the worker sees them: code in contexts, commands, and their ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.runner_process import RunnerProcess, open_runner


@pytest.fixture
def session() -> Iterator[RunnerProcess]:
    with open_runner() as runner:
        runner.start(mode="session")
        yield runner


class Ended:
    """Everything an exec said, put together."""

    def __init__(self, runner: RunnerProcess, exec_id: str) -> None:
        events = [
            (header, body)
            for header, body in runner.seen
            if header["type"] == "exec_event" and header["exec_id"] == exec_id
        ]
        texts = dict.fromkeys(("stdout", "stderr", "result"), b"")
        for header, body in events[:-1]:
            texts[header["kind"]] += body
        self.stdout, self.stderr, self.result = (text.decode() for text in texts.values())
        self.exit_code = events[-1][0]["exit_code"]
        self.error = events[-1][0]["error"]
        assert [header["kind"] for header, _ in events].count("ended") == 1


def _until_ended(runner: RunnerProcess, exec_id: str) -> Ended:
    runner.until(lambda h: h.get("exec_id") == exec_id and h["kind"] == "ended")
    return Ended(runner, exec_id)


def _code(runner: RunnerProcess, code: str, exec_id: str = "x1", **fields: object) -> Ended:
    runner.send("exec", code.encode(), exec_id=exec_id, mode="code", **fields)
    return _until_ended(runner, exec_id)


def _command(runner: RunnerProcess, *argv: str, exec_id: str = "x1", **fields: object) -> Ended:
    runner.send("exec", exec_id=exec_id, mode="command", argv=argv, **fields)
    return _until_ended(runner, exec_id)


def test_variables_persist_within_a_context_and_not_across(session):
    assert _code(session, "x = 41").result == ""
    assert _code(session, "x += 1\nx", "x2").result == "42"
    assert _code(session, "x", "x3", context="other").error["type"] == "NameError"


def test_output_and_result_come_apart(session):
    ended = _code(
        session,
        "import os, sys\nprint('out'); os.write(1, b'raw\\n'); print('err', file=sys.stderr)\n'res'",
    )
    assert (ended.stdout, ended.stderr, ended.result) == ("out\nraw\n", "err\n", "'res'")
    assert (ended.exit_code, ended.error) == (0, None)


@pytest.mark.parametrize(
    ("code", "result"), [("0", "0"), ("''", "''"), ("None", ""), ("x = 1", "")]
)
def test_only_none_has_no_result(session, code, result):
    assert _code(session, code).result == result


def test_an_exception_has_name_value_and_a_traceback_with_source_lines(session):
    _code(session, "def f(n):\n    return 1 / n\n")
    ended = _code(session, "f(0)", "x2")
    assert ended.exit_code == 1
    assert ended.error["type"] == "ZeroDivisionError"
    assert ended.error["message"] == "division by zero"
    assert "return 1 / n" in ended.error["traceback"]
    assert "glowplug" not in ended.error["traceback"]


def test_a_syntax_error_is_an_error_of_the_code(session):
    ended = _code(session, "def f(:\n")
    assert ended.error["type"] == "SyntaxError"
    assert _code(session, "1", "x2").result == "1"


def test_our_own_future_imports_do_not_reach_the_code(session):
    ended = _code(session, "def f(a: int): ...\nf.__annotations__")
    assert ended.result == "{'a': <class 'int'>}"


def test_sys_exit_is_an_exit_code(session):
    ended = _code(session, "import sys; sys.exit(3)")
    assert (ended.exit_code, ended.error) == (3, None)
    assert _code(session, "'still here'", "x2").result == "'still here'"


def test_a_time_out_interrupts_and_variables_survive(session):
    _code(session, "kept = 1")
    ended = _code(session, "import time\nprint('in')\ntime.sleep(600)", "x2", timeout_s=0.2)
    assert ended.error["code"] == "function.timeout"
    assert "time.sleep(600)" in ended.error["traceback"]
    assert ended.stdout == "in\n"
    assert _code(session, "kept", "x3").result == "1"


def test_code_that_cannot_be_interrupted_is_killed_and_the_context_begins_anew(session):
    code = (
        "kept = 1\n"
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('in')\n"
        "while True: time.sleep(600)\n"
    )
    session.send("exec", code.encode(), exec_id="x1", mode="code")
    session.until(lambda h: h.get("kind") == "stdout")
    session.send("kill_exec", exec_id="x1")
    ended = _until_ended(session, "x1")
    assert ended.error["code"] == "invocation.cancelled"
    assert "variables are lost" in ended.error["message"]
    assert _code(session, "'kept' in globals()", "x2").result == "False"


def test_a_crash_costs_its_context_and_nothing_else(session):
    _code(session, "kept = 1", context="other")
    ended = _code(session, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "x2")
    assert ended.error["code"] == "function.crashed"
    assert ended.error["details"] == {"signal": 11}
    assert ended.exit_code == 128 + 11
    assert _code(session, "kept", "x3", context="other").result == "1"
    assert _code(session, "1 + 1", "x4").result == "2"


def test_pieces_of_one_context_run_in_order_and_contexts_at_once(session, tmp_path):
    wait = (
        "import os, time\n"
        f"open({str(tmp_path)!r} + '/' + me, 'w').close()\n"
        f"while len(os.listdir({str(tmp_path)!r})) < 2: time.sleep(0.005)\n"
    )
    session.send("exec", ("me = 'a'\n" + wait).encode(), exec_id="a", mode="code", context="a")
    session.send("exec", b"me", exec_id="a2", mode="code", context="a")
    session.send("exec", ("me = 'b'\n" + wait).encode(), exec_id="b", mode="code", context="b")
    _until_ended(session, "a2")
    _until_ended(session, "b") if not any(
        h.get("exec_id") == "b" and h["kind"] == "ended" for h, _ in session.seen
    ) else None
    order = [h["exec_id"] for h, _ in session.seen if h.get("kind") == "ended"]
    assert order.index("a") < order.index("a2")
    assert Ended(session, "a2").result == "'a'"


def test_killing_an_exec_reports_its_end(session):
    session.send("exec", b"import time\nprint('in')\ntime.sleep(600)", exec_id="k", mode="code")
    session.send("exec", b"'next'", exec_id="waiting", mode="code")
    session.until(lambda h: h.get("kind") == "stdout")
    session.send("kill_exec", exec_id="waiting")
    assert _until_ended(session, "waiting").error["code"] == "invocation.cancelled"
    session.send("kill_exec", exec_id="k")
    assert _until_ended(session, "k").error["code"] == "invocation.cancelled"
    assert _code(session, "'on'", "x9").result == "'on'"


def test_env_and_cwd_of_a_piece_of_code_are_its_own(session, tmp_path):
    code = "import os\n(os.environ.get('MINE'), os.getcwd())"
    ended = _code(session, code, env={"MINE": "1"}, cwd=str(tmp_path))
    assert ended.result == repr(("1", str(tmp_path)))
    assert _code(session, code, "x2").result.startswith("(None")


def test_a_large_piece_of_code_travels_in_pieces(session):
    ended = _code(session, "x = '" + "a" * 3_000_000 + "'\nlen(x)")
    assert ended.result == "3000000"


def test_a_command_streams_and_has_an_exit_code(session, tmp_path):
    ended = _command(
        session, "sh", "-c", "echo out; echo err >&2; pwd; echo $MINE; exit 3",
        env={"MINE": "mine"}, cwd=str(tmp_path),
    )  # fmt: skip
    assert ended.stdout == f"out\n{tmp_path}\nmine\n"
    assert ended.stderr == "err\n"
    assert (ended.exit_code, ended.error) == (3, None)


def test_a_command_that_is_not_there(session):
    ended = _command(session, "/not/there")
    assert ended.exit_code == 127
    assert ended.error["type"] == "FileNotFoundError"


def test_a_command_that_overruns_is_killed_with_its_children(session):
    ended = _command(session, "sh", "-c", "echo in; sleep 600 & sleep 600", timeout_s=0.2)
    assert ended.error["code"] == "function.timeout"
    assert ended.stdout == "in\n"


def test_a_command_is_killed_on_demand_while_code_runs(session):
    session.send("exec", exec_id="c", mode="command", argv=["sh", "-c", "echo in; sleep 600"])
    session.until(lambda h: h.get("kind") == "stdout")
    assert _code(session, "1").result == "1"
    session.send("kill_exec", exec_id="c")
    assert _until_ended(session, "c").error["code"] == "invocation.cancelled"


def test_background_children_do_not_hold_the_end_up(session):
    ended = _command(session, "sh", "-c", "sleep 10 & echo started")
    assert (ended.exit_code, ended.stdout) == (0, "started\n")


def test_much_output_arrives_whole(session):
    ended = _command(
        session, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    )
    assert ended.stdout == "".join(f"line {i}\n" for i in range(20000))
    ended = _code(session, "for i in range(20000): print('line', i)", "x2")
    assert ended.stdout == "".join(f"line {i}\n" for i in range(20000))


def test_stop_ends_everything_and_says_bye(session):
    session.send("exec", exec_id="c", mode="command", argv=["sleep", "600"])
    session.send("exec", b"import time; print('in'); time.sleep(600)", exec_id="x", mode="code")
    session.until(lambda h: h.get("kind") == "stdout")
    session.send("stop", grace_s=0.05)
    session.kind("bye")
    assert session.wait() == 0


def test_a_session_ends_when_its_worker_is_gone(session):
    _code(session, "1")
    with contextlib.suppress(OSError):
        session.close_socket()
    assert session.wait() == 0


def test_a_message_before_the_end_of_output_is_never_lost(session):
    for n in range(30):
        assert _code(session, f"import os; os.system('echo {n}')", f"x{n}").stdout == f"{n}\n"
