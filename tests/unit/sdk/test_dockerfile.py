"""What Dockerfiles say, what is refused with its line, and which files of a context are sent."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from glowplug import Image
from glowplug.dockerfile.context import pack_sources
from glowplug.dockerfile.ignoring import read_ignore
from glowplug.dockerfile.lines import DockerfileError, read_lines
from glowplug.dockerfile.reading import TABLE, Copy, Exec, read_dockerfile
from hypothesis import given
from hypothesis import strategies as st

WHOLE = r"""
# syntax=docker/dockerfile:1
ARG TAG=3.12
FROM python:${TAG}-slim AS build
ARG MODE=slow
ENV WHERE=/opt/app PATH=/opt/app/bin:$PATH
WORKDIR ${WHERE}
RUN make \
    # said between
    --fast '$HOME' && \

    echo done
RUN ["tool", "-x"]
FROM python:${TAG}-slim
WORKDIR /srv
WORKDIR data
USER app:users
COPY --from=build --chown=5:6 /opt/app/out* ./
ADD --chmod=600 a "b c" /etc/
SHELL ["/bin/bash", "-ec"]
RUN true
CMD ["serve"]
"""


def read(text: str, target: str = "", **args: str):
    return read_dockerfile(text, args, target)


def test_stages_steps_and_what_holds_for_them() -> None:
    found = read(WHOLE, MODE="quick")
    stage = found.stage
    assert (stage.base, stage.cwd, stage.env) == ("python:3.12-slim", "/srv/data", ())
    copy, add, run = stage.steps
    assert isinstance(copy, Copy)
    assert copy.stage is not None
    assert (copy.sources, copy.target, copy.uid, copy.gid) == (
        ("/opt/app/out*",),
        "/srv/data/",
        5,
        6,
    )
    made, tool = copy.stage.steps
    assert isinstance(made, Exec)
    assert made.argv[:2] == ("/bin/sh", "-c")
    assert made.argv[2].split() == ["make", "--fast", "'$HOME'", "&&", "echo", "done"]
    assert dict(made.env) == {
        "MODE": "quick",
        "WHERE": "/opt/app",
        "PATH": "/opt/app/bin:${PATH}",
    }
    assert (made.cwd, made.line) == ("/opt/app", 8)
    assert isinstance(tool, Exec)
    assert tool.argv == ("tool", "-x")
    assert isinstance(add, Copy)
    assert (add.sources, add.target, add.mode, add.unpacks) == (("a", "b c"), "/etc/", 0o600, True)
    assert isinstance(run, Exec)
    assert (run.argv, run.user, run.cwd) == (("/bin/bash", "-ec", "true"), "app:users", "/srv/data")
    assert "CMD has no effect" in found.notices[0]
    assert read(WHOLE, target="build", TAG="3.13").stage.base == "python:3.13-slim"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RUN x", "line 1: RUN stands before any FROM"),
        ("", "no FROM"),
        ("FROM a\nRUN --mount=type=cache,target=/x y", "line 2: RUN --mount is not supported"),
        ("FROM a\nRUN --mount=type=secret,id=t y", r"line 2: .* run_commands\(…, secrets="),
        ("FROM a\nRUN <<EOF\nx\nEOF", "line 2: RUN with a here-document"),
        ("FROM a\nCOPY https://x/y /z", None),
        ("FROM a\nADD https://x/y /z", "line 2: ADD of an address"),
        ("FROM a\nCOPY x", "sources and a target"),
        ("FROM a\nCOPY --chown=app x /y", "give numbers"),
        ("FROM a\nCOPY --from=3 x /y", "no stage 3"),
        ("FROM a AS b\nCOPY --from=b x /y", "from itself"),
        ("FROM scratch", "begin with an image"),
        ("FROM --platform=linux/arm64 a", "workers say"),
        ("FROM $X", "what X is"),
        ("FROM a\nVOLUME /x", "name volumes"),
        ("FROM a\nONBUILD RUN x", "not supported"),
        ("FROM a\nFETCH x", "no instruction FETCH"),
        ("FROM a\nENV x", "takes NAME=value"),
        ("FROM a\nENV A=${B:?no}", "are supported"),
        ("FROM a\nENV A='x", "not closed"),
        ("# escape=`\nFROM a", "use backslashes"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str, says: str | None) -> None:
    with pytest.raises(DockerfileError, match=says or "of an address"):
        read(text)


def test_build_arguments_must_be_taken_by_something() -> None:
    with pytest.raises(DockerfileError, match="build arguments NOBODY"):
        read("FROM a", NOBODY="1")


def test_every_instruction_is_in_the_guides_table() -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/dockerfiles.md").read_text()
    for name, (what, why) in TABLE.items():
        assert f"| `{name}` | {what} | {why} |" in guide, name


@given(st.text(alphabet=st.sampled_from("FROMRUNCOPYENV ab\\\n\"'$={}[],#-<"), max_size=120))
def test_no_text_is_anything_but_read_or_refused(text: str) -> None:
    with contextlib.suppress(DockerfileError):
        read_dockerfile(f"FROM a\n{text}", {})


@given(st.lists(st.text(alphabet="abc -$", min_size=1).map(str.strip).filter(bool), max_size=5))
def test_lines_may_be_continued_anywhere(words: list[str]) -> None:
    joined = read_lines("RUN " + " ".join(words)) if words else []
    split = read_lines("RUN \\\n" + " \\\n# between\n".join(words)) if words else []
    assert [each.text.split() for each in split] == [each.text.split() for each in joined]


@pytest.mark.parametrize(
    ("pattern", "out", "kept"),
    [
        ("*.log", ["a.log"], ["d/a.log", "a.txt"]),
        ("**/*.log", ["a.log", "d/e/a.log"], ["a.txt"]),
        ("build/", ["build", "build/x/y"], ["rebuild"]),
        ("d\n!d/keep", ["d/x"], ["d/keep"]),
        ("# d\n/e?", ["ef"], ["d", "e"]),
        ("[ab]c", ["ac"], ["cc"]),
    ],
)
def test_dockerignore(pattern: str, out: list[str], kept: list[str]) -> None:
    is_left_out = read_ignore(pattern)
    assert [path for path in out if not is_left_out(path)] == []
    assert [path for path in kept if is_left_out(path)] == []


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_only_what_is_copied_is_sent(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    for path in ("a.py", "b.py", "secret", "d/x", "d/e/y", "d/e/y.pyc"):
        (tmp_path / path).write_text(path)
    (tmp_path / ".dockerignore").write_text("**/*.pyc\nsecret\n")
    first = pack_sources(1, tmp_path, ("*.py", "d"), unpacks=False)
    assert names(first) == ["f/a.py", "f/b.py", "d", "d/e", "d/e/y", "d/x"]
    assert first == pack_sources(1, tmp_path, ("*.py", "d"), unpacks=False)
    for source in ("secret", "none", "../x", "*.none"):
        with pytest.raises(DockerfileError, match="line 7"):
            pack_sources(7, tmp_path, (source,), unpacks=False)
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(DockerfileError, match="outside"):
        pack_sources(1, tmp_path, ("out",), unpacks=False)


def test_added_tars_are_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("./in/side"))
    assert names(pack_sources(1, tmp_path, ("x.tgz",), unpacks=True)) == ["d/in/side"]
    assert names(pack_sources(1, tmp_path, ("x.tgz",), unpacks=False)) == ["f/x.tgz"]


def test_an_image_of_a_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:12\nENV A=1\nCOPY x /x\nCMD y\n")
    with pytest.warns(UserWarning, match="line 4: CMD has no effect"):
        image = Image.from_dockerfile(tmp_path / "Dockerfile")
    assert (image.base, [step.kind for step in image.steps]) == ("debian:12", ["copy", "config"])
