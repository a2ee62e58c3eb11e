"""A secret reaches the containers that name it, and nothing else: a canary is looked for everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from glowplug.errors import InvalidInputError

from tests.e2e.conftest import APPS, a_platform


@pytest.fixture(scope="module")
def canary() -> str:
    return "canary-" + os.urandom(12).hex()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, canary):
    """A platform of its own: everything it writes is searched."""
    from glowplug.client.session import close_session

    data = tmp_path_factory.mktemp("sealed") / "data"
    before = {name: os.environ.get(name) for name in ("GLOWPLUG_URL", "GLOWPLUG_TOKEN")}
    sys.path.insert(0, str(APPS))
    with a_platform(data) as running:
        close_session()
        os.environ |= {"GLOWPLUG_URL": running.url, "GLOWPLUG_TOKEN": running.token}
        made = subprocess.run(
            [sys.executable, "-m", "glowplug.cli.main", "secret", "create", "canary"],
            env=running.env(),
            input=f"# a comment\nexport CANARY='{canary}'\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert made.returncode == 0, made.stderr
        assert canary not in made.stdout
        import sealed

        yield sealed, running
        close_session()
    sys.path.remove(str(APPS))
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def test_a_sandbox_that_names_it_gets_it_and_one_that_names_what_is_not_there_is_refused(
    sealed, canary
):
    from glowplug import Sandbox

    look = "import os; len(os.environ.get('CANARY', ''))"
    with Sandbox(secrets=["canary"]).create() as sandbox:
        assert sandbox.process.run_code(look).result == str(len(canary))
    with Sandbox().create() as sandbox:
        assert sandbox.process.run_code(look).result == "0"
    with pytest.raises(InvalidInputError, match="glowplug secret create missing"):
        Sandbox(secrets=["missing"]).create()


def test_a_container_that_names_it_gets_it_and_no_other_does(sealed, canary):
    functions, _ = sealed
    assert functions.length_of_it.remote() == (len(canary), False)
    assert functions.has_none.remote() == ""
    # The container is still warm: its value is in nobody's arguments on this host.
    arguments = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert len(arguments) > 5
    assert not [one for one in arguments if canary.encode() in one]


def test_deploying_without_a_required_key_is_a_sentence(sealed):
    functions, _ = sealed
    with pytest.raises(InvalidInputError) as refused:
        functions.needs_more.remote()
    assert "MISSING" in str(refused.value) + str(refused.value.details)


def test_it_is_found_nowhere_in_what_the_platform_writes(sealed, canary):
    functions, running = sealed
    functions.length_of_it.spawn().get(timeout=60)
    shown = running.cli("secret", "list", "--json").stdout + running.cli("secret", "list").stdout
    assert "CANARY" in shown
    for path in (
        "/api/v1/secrets",
        "/api/v1/deployments?all=1",
        "/api/v1/tasks",
        "/api/v1/containers",
    ):
        shown += running.http("GET", path).body.decode()
    shown += running.cli("logs", "length_of_it", check=False).stdout
    assert canary not in shown
    assert found_in(running.data, canary) == []
    # The control: it is in the container's environment, and the search finds what is written.
    assert functions.reads_it.remote() == canary
    control = running.data / "control"
    control.write_text(f"x{canary}x")
    assert found_in(running.data, canary) == [control]
    control.unlink()


def found_in(folder, text: str) -> list:
    """Return the files under a folder that hold a text, in any place of theirs."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in read(path)
    ]


def read(path: Path) -> bytes:
    """Return a file's bytes, b"" where it has gone meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
