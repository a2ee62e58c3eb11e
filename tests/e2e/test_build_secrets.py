"""A secret reaches the steps of a build that name it, and nothing else: a canary is looked for everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from tests.e2e.conftest import Running, a_platform
from tests.e2e.test_image_build import build
from tests.e2e.test_secrets import found_in, read

CANARY = "canary-" + os.urandom(12).hex()
# Said in one go, in two pieces, on both streams, by the shell itself, and inside of other text.
SAYS = (
    'test -n "$TOKEN" && echo "one:$TOKEN." && echo "$TOKEN" >&2 && set -x && : "$TOKEN" && set +x; '
    "python3 -c \"import os, sys; half = len(t := os.environ[chr(84) + 'OKEN']) // 2; "
    "[(sys.stdout.write(p), sys.stdout.flush()) for p in ('two:', t[:half], t[half:], chr(10))]\"; "
)
PROGRAM = """
from glowplug import Image, Secret
before = Image().run_commands('echo "first:$TOKEN"')
image = (
    before.run_commands({says!r} + 'echo "${{#TOKEN}}" > length', secrets=[Secret('token', ['TOKEN'])])
    .run_commands('echo "after:$TOKEN"')
)
fails = Image().with_secrets(['token']).run_commands({says!r} + 'exit 7')
leaks = Image().run_commands('echo "$TOKEN" > leaked', secrets=['token'])
lacks = Image().with_secrets([Secret('token', ['OTHER'])]).run_commands('true')
nobodys = Image().run_commands('true', secrets=['nobodys'])
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A platform of its own: everything it writes is searched."""
    with a_platform(tmp_path_factory.mktemp("built") / "data") as running:
        keep(running, "create", CANARY)
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "images.py"
    path.write_text(PROGRAM.format(says=SAYS))
    return path


def keep(running: Running, how: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glowplug.cli.main", "secret", how, "token"],
        env=running.env(),
        input=f"TOKEN={value}\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def arguments_watched() -> Iterator[list[bytes]]:
    """Collect the arguments of processes on this host that hold the canary, all the while."""
    found: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen = (read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
            found.extend(one for one in seen if CANARY.encode() in one)
            over.wait(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        over.set()
        watching.join()


def test_a_step_has_its_secret_and_nothing_that_is_written_has_it(
    running: Running, program: Path
) -> None:
    with arguments_watched() as in_arguments:
        made = build(running, f"{program}:image")
        assert made.returncode == 0, (made.stdout, made.stderr)
        failed = build(running, f"{program}:fails", "--json")
    assert in_arguments == []
    assert failed.returncode == 1
    for told in (made.stderr, failed.stdout + failed.stderr):
        assert "one:***." in told
        assert "two:***" in told
        assert CANARY not in told
    # Neither the step before it nor the one after it has it.
    said = {line.removeprefix("image:").strip() for line in made.stderr.splitlines()}
    assert {"first:", "after:"} <= said
    shown = running.cli("image", "list", "--json").stdout
    shown += running.http("GET", "/api/v1/containers").body.decode()
    assert "run test -n" in shown
    assert CANARY not in shown
    assert holding(running.data) == []
    # The control: a step that writes it has put it into its image, where the search finds it.
    assert build(running, f"{program}:leaks").returncode == 0
    assert {path.parent.parent.name for path in holding(running.data)} >= {"chunks"}


def holding(folder: Path) -> list[Path]:
    """Return the files that hold the canary, as they are or in what they are compressed from."""
    return found_in(folder, CANARY) + [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and CANARY.encode() in decoded(read(path))
    ]


def decoded(data: bytes) -> bytes:
    """Return what zstd frames hold, b"" for anything else."""
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    try:
        return reader.read()
    except zstandard.ZstdError:
        return b""


def test_a_changed_secret_makes_its_step_anew_and_those_after_it(
    running: Running, program: Path
) -> None:
    first, again = (build(running, f"{program}:image") for _ in range(2))
    assert first.stdout == again.stdout
    assert again.stderr.count("(cached)") == 3
    keep(running, "rotate", CANARY)
    anew = build(running, f"{program}:image")
    assert anew.stderr.count("(cached)") == 1
    assert "one:***." in anew.stderr
    # What its steps wrote is the same, so that the image is: the values are no part of it.
    assert anew.stdout == again.stdout


def test_a_secret_that_is_not_there_or_lacks_a_key_is_a_sentence(
    running: Running, program: Path
) -> None:
    lacks = build(running, f"{program}:lacks")
    assert lacks.returncode == 1
    assert "lacks OTHER (it has TOKEN)" in lacks.stderr
    nobodys = build(running, f"{program}:nobodys")
    assert nobodys.returncode == 1
    assert "glowplug secret create nobodys" in nobodys.stderr
