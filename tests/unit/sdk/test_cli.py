"""The command line against a fake gateway: what it prints and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from glowplug.cli import main as cli_main
from glowplug.cli.arguments import parse_arguments
from glowplug.cli.trace import arrange, draw
from glowplug.client.session import close_session
from glowplug_contracts.messages.invocation import RemoteError

from tests.support.fake_gateway import FakeGateway

APP = """
import absent_package
from absent_package.inner import Thing
from glowplug import endpoint, function, task_queue

class Own(absent_package.Base): ...

@function
def greet(name: str, times: int = 1, loud: bool = False):
    text = " ".join([f"hello {name}"] * times)
    return text.upper() if loud else text

@task_queue
def queue(number: int):
    return {"got": number}

@function
def count(number: int):
    yield from range(number)

@function
def fail():
    raise ValueError("on purpose")

def here(number: int):
    return number + 1
"""


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line; return exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        modules, path = set(sys.modules), list(sys.path)
        monkeypatch.setattr(sys, "argv", ["glowplug", *words])
        with pytest.raises(SystemExit) as ended:
            cli_main.main()
        close_session()
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if not name.startswith(("glowplug", "click", "rich", "asyncio", "aiohttp")):
                sys.modules.pop(name)
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def app(tmp_path: Path) -> str:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".glowplugignore").write_text("")
    (folder / "app.py").write_text(APP)
    return str(folder / "app.py")


@pytest.fixture
def app_there(app: str, gateway: FakeGateway) -> str:
    """The app, with its image's package present in the fake container only."""
    original = gateway._source

    def source(deployment_id, spec):
        folder = original(deployment_id, spec)
        package = folder / "absent_package"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("class Base: ...\n")
        (package / "inner.py").write_text("class Thing: ...\n")
        return folder

    gateway._source = source
    return app


def test_run_makes_options_of_parameters(run, app_there):
    assert run("run", f"{app_there}::greet", "--name", "Ada", "--times", "2")[:2] == (
        0,
        "hello Ada hello Ada\n",
    )
    assert run("run", f"{app_there}:greet", "Bob", "--loud")[:2] == (0, "HELLO BOB\n")


def test_run_prints_json_streams_generators_and_waits_for_queues(run, app_there):
    code, out, _ = run("run", f"{app_there}::queue", "--json", "--number", "3")
    assert (code, json.loads(out)) == (0, {"got": 3})
    assert run("run", f"{app_there}::count", "--number", "3")[:2] == (0, "0\n1\n2\n")


def test_run_runs_a_plain_function_here(run, app, gateway: FakeGateway):
    assert run("run", f"{app}::here", "--number", "41")[:2] == (0, "42\n")
    assert gateway.count("POST", "/call") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.py"], "no file"),
        (["run", "{app}::nothing"], "has no 'nothing'"),
        (["run", "{app}"], "say which one"),
        (["run", "{app}::greet"], "missing: --name"),
        (["run", "{app}::greet", "--name", "a", "--times", "x"], "not a valid integer"),
        (["run", "{app}::greet", "--nmae", "a"], "No such option"),
        (["nonsense"], "No such command"),
        (["shell"], "not yet supported"),
        (["call"], "Missing argument"),
        (["call", "x", "--data", "{"], "no JSON"),
        (["sandbox", "create", "--memory", "lots"], "memory="),
    ],
)
def test_wrong_use_ends_with_two_and_says_what(run, app, gateway, words, said):
    code, _, err = run(*[word.replace("{app}", app) for word in words])
    assert code == 2
    assert said in err


def test_the_platform_s_refusals_end_with_one(run, gateway):
    code, out, err = run("deployment", "show", "nothing")
    assert (code, out) == (1, "")
    assert "no deployment nothing" in err


def test_no_platform_ends_with_one_and_says_how_to_get_one(run, monkeypatch):
    monkeypatch.setenv("GLOWPLUG_URL", "http://127.0.0.1:9")
    code, _, err = run("deployment", "list")
    assert code == 1
    assert "no gateway answers" in err


def test_deploy_makes_a_version_of_every_decorated_function(run, app, gateway: FakeGateway):
    code, out, _ = run("deploy", app, "--json")
    assert code == 0
    shown = json.loads(out)["deployments"]
    assert [one["name"] for one in shown] == ["greet", "queue", "count", "fail"]
    assert all(one["version"] == 1 for one in shown)
    code, out, _ = run("deploy", f"{app}:greet")
    assert out.startswith("greet v2")
    assert "curl -X POST" in out


def test_deploying_a_plain_function_is_refused_with_a_sentence(run, app, gateway):
    code, _, err = run("deploy", f"{app}:here")
    assert code == 2
    assert "two parameters, (event, context)" in err


def test_call_sends_json_and_prints_json(run, app_there, gateway: FakeGateway):
    run("deploy", app_there)
    gateway.errors["fail"] = RemoteError(
        code="function.failed", type="ValueError", message="on purpose", traceback="line 9"
    )
    code, _, err = run("call", "fail")
    assert code == 1
    assert "ValueError: on purpose" in err
    assert "line 9" in err
    assert run("call", "fail@v9")[0] == 1
    code, out, _ = run("call", "queue@v1", "number=3", "--json")
    assert json.loads(out)["task_id"].startswith("inv_")


def test_tasks_are_shown_and_cancelled(run, app, gateway: FakeGateway):
    run("deploy", app)
    task_id = run("call", "queue", "number=3")[1].strip()
    assert run("task", "status", task_id)[:2] == (0, "PENDING\n")
    assert task_id in run("task", "list")[1]
    assert run("task", "cancel", task_id)[0] == 0
    assert gateway.cancelled == [task_id]


def test_lists_are_columns_or_json(run, gateway):
    assert "ctr_1" in run("container", "list")[1]
    assert json.loads(run("container", "list", "--json")[1])["containers"][0]["state"] == "ready"
    assert "nothing is deployed" in run("deployment", "list")[1]


def test_logs_print_lines_and_what_was_dropped(run, gateway: FakeGateway):
    gateway.log_lines = [
        {"at": 0, "stream": "stdout", "text": "one", "name": "f"},
        {"dropped": 7},
        {"at": 0, "stream": "stderr", "text": "two", "name": "f"},
    ]
    code, out, _ = run("logs", "f")
    assert code == 0
    first, second, third = out.splitlines()
    assert first.endswith("one")
    assert "7 lines dropped" in second
    assert third.endswith("two")
    assert len(run("logs", "f", "--json")[1].splitlines()) == 3


def test_a_trace_is_a_waterfall_parents_first(run, gateway):
    _, out, _ = run("trace", "inv_1")
    lines = out.splitlines()
    assert lines[1].startswith("call ")
    assert lines[2].startswith("  run ")
    assert "300.0 ms" in lines[2]


def test_a_waterfall_holds_what_it_can_not_place():
    orphan = {
        "span_id": "b",
        "parent_id": "gone",
        "name": "x" * 100,
        "service": "s",
        "start_at": 1.0,
        "end_at": 1.0,
        "error": "bad",
    }
    (line,) = draw(arrange([orphan]), 80)
    assert line.endswith("! bad")
    assert draw(arrange([]), 80) == []


def test_config_shows_and_chooses_profiles(run, config_folder):
    (config_folder / "glowplug").mkdir(parents=True)
    (config_folder / "glowplug" / "config.toml").write_text(
        '[profiles.work]\nurls = ["https://a"]\ntoken = "secret"\n'
    )
    assert run("config", "use", "work")[0] == 0
    shown = json.loads(run("config", "show", "--json")[1])
    assert (shown["name"], shown["urls"], shown["token"]) == ("work", ["https://a"], "secret")
    assert json.loads(run("config", "list", "--json")[1])["profiles"][0]["current"] is True
    assert run("config", "use", "nowhere")[0] == 1


def test_a_sandbox_s_exit_code_is_the_command_s(run, gateway: FakeGateway):
    sandbox_id = run("sandbox", "create")[1].strip()
    gateway.exec_events = [{"kind": "stdout", "text": "hi\n"}, {"kind": "ended", "exit_code": 3}]
    assert run("sandbox", "exec", sandbox_id, "ls", "-l")[:2] == (3, "hi\n")
    code, out, _ = run("sandbox", "run", sandbox_id, "1 + 1", "--json")
    assert (code, json.loads(out)["stdout"]) == (3, "hi\n")
    assert run("sandbox", "terminate", sandbox_id)[0] == 0


def test_help_lists_every_command_and_those_of_other_packages(run):
    _, out, _ = run("--help")
    listed = {
        line.split()[0]
        for line in out.partition("Commands:")[2].splitlines()
        if line[2:3] != " " and line.strip()
    }
    assert set(cli_main.COMMANDS) | {"up", "down", "doctor", "quickstart"} <= listed


def test_arguments_follow_annotations():
    def function(a: int, b: float | None = None, c=None, d_e: str = "", context=None): ...

    words = ("3", "--b", "2", "--c", '{"x": 1}', "--d-e", "5")
    assert parse_arguments(function, words) == {"a": 3, "b": 2.0, "c": {"x": 1}, "d_e": "5"}


def test_a_build_says_how_far_it_is(run, tmp_path: Path, gateway: FakeGateway):
    file = tmp_path / "slim.py"
    file.write_text("import glowplug\n\nslim = glowplug.Image().run_commands('true')\n")
    moving = {"event": "image", "kind": "bytes", "text": "downloading", "bytes_total": 3 * 1024**2}
    gateway.build_events = [moving | {"bytes_done": done * 1024**2} for done in (0, 3)]
    code, _, err = run("image", "build", str(file))
    assert code == 0, err
    assert "image: downloading 0M of 3M" in err
    assert "image: downloading 3M of 3M" in err
    code, out, err = run("image", "build", str(file), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["bytes"] == {"downloading": 3 * 1024**2}
