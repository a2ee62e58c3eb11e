"""The stages, played once each, and the table at the end of a run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from glowplug_contracts.errors import UnavailableError

from tests.security.ledger import Ledger, Row
from tests.security.stage import Played, Stage, play, play_free
from tests.support.ordinary import ROOT, UID, find_ordinary

# All backends and the whole table, or what a change is judged by.
FULL = os.environ.get("GLOWPLUG_SECURITY", "") == "all"
ORDINARY = Stage("bwrap", "an ordinary user")
STAGES = [Stage("bwrap", "this user"), ORDINARY, Stage("crun", "this user")]
if FULL:
    STAGES += [Stage("runc", "this user"), Stage("gvisor", "this user")]
LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()
    config.addinivalue_line(
        "markers", "attempt(control): an attempt of the suite; what shows that it would work"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ledger = terminalreporter.config.stash[LEDGER]
    if ledger.rows:
        terminalreporter.section("attempts on containers and platform")
        for line in ledger.lines(full=FULL):
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    mark = item.get_closest_marker("attempt")
    if mark is not None and report.when == "call" and not report.skipped:
        family = Path(str(item.path)).stem.removeprefix("test_").replace("_", " ")
        item.config.stash[LEDGER].rows.append(
            Row(
                family=family,
                name=f"{family}: {item.name.removeprefix('test_')}",
                place="the platform",
                contained=report.passed,
                shown="control" in mark.kwargs,
                why_not=mark.kwargs.get("why_not", ""),
            )
        )
    return report


@pytest.fixture(scope="session")
def ledger(pytestconfig: pytest.Config) -> Ledger:
    return pytestconfig.stash[LEDGER]


@pytest.fixture(scope="session")
def played() -> Iterator[Callable[[Stage | None], Played | str]]:
    """Play a stage, or without one the control, once; a sentence says why it can't be played."""
    directory = Path(tempfile.mkdtemp(prefix="glowplug-security-"))
    directory.chmod(0o755)
    done: dict[Stage | None, Played | str] = {}
    # An ordinary user's stage is a program of its own, which plays while another one does.
    ordinary: list[subprocess.Popen[bytes] | str] = []

    def get(stage: Stage | None) -> Played | str:
        if stage is not None and not ordinary:
            ordinary.append(_begun_by_an_ordinary_user(directory / "ordinary"))
        if stage not in done:
            own = directory / str(len(done))
            own.mkdir()
            done[stage] = _ended(ordinary[0]) if stage == ORDINARY else _played(stage, own)
        return done[stage]

    yield get
    if ordinary and ORDINARY not in done:
        _ended(ordinary[0])
    # Not shutil's: an attempt made directories deeper than it can call itself.
    subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture(scope="session", params=STAGES, ids=str)
def stage(
    request: pytest.FixtureRequest, played: Callable[[Stage | None], Played | str]
) -> tuple[Stage, Played]:
    """A backend run by a user, and what came of all attempts there."""
    found = played(request.param)
    if isinstance(found, str):
        pytest.skip(f"{request.param}: {found}")
    return request.param, found


@pytest.fixture(scope="session")
def free(played: Callable[[Stage | None], Played | str]) -> Played:
    """What came of all attempts in a plain process."""
    found = played(None)
    assert isinstance(found, Played), found
    return found


def _played(stage: Stage | None, directory: Path) -> Played | str:
    try:
        return asyncio.run(play_free(directory) if stage is None else play(stage, directory))
    except UnavailableError as error:
        return error.message


def _begun_by_an_ordinary_user(directory: Path) -> subprocess.Popen[bytes] | str:
    directory.mkdir()
    found = find_ordinary(directory)
    if isinstance(found, str):
        return found
    return subprocess.Popen(
        [found.python, "-m", "tests.security.stage", ORDINARY.backend, str(directory)],
        cwd=ROOT,
        env=found.env,
        user=UID,
        group=UID,
        extra_groups=[],
        stdout=subprocess.PIPE,
    )


def _ended(begun: subprocess.Popen[bytes] | str) -> Played | str:
    if isinstance(begun, str):
        return begun
    said, _ = begun.communicate()
    assert begun.returncode == 0, begun.returncode
    return msgspec.json.decode(said, type=Played)
