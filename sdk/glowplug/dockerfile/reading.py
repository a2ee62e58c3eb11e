"""A Dockerfile's instructions as stages of build steps. Pure: nothing of the context is read here.

What each instruction becomes, or why it is refused, stands in one table, which the guide shows.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from glowplug.dockerfile.lines import DockerfileError, Instruction, read_lines
from glowplug.dockerfile.words import fill, split_words

SHELL: Final = ("/bin/sh", "-c")
DONE: Final = "done"
NOTED: Final = "noted, and without effect"
TABLE: Final[dict[str, tuple[str, str]]] = {
    "FROM": (
        DONE,
        "an image of a registry, or an earlier stage; `scratch` and --platform are refused",
    ),
    "RUN": (
        DONE,
        "shell and JSON form; --mount, --network, --security and here-documents are refused",
    ),
    "COPY": (DONE, "--from, --chown (numbers), --chmod (octal), --link; .dockerignore"),
    "ADD": (DONE, "as COPY, and tars are unpacked; addresses are refused"),
    "ENV": (DONE, "for later steps and for the image"),
    "ARG": (DONE, "build_args; for later steps of the stage"),
    "WORKDIR": (DONE, "for later steps and for the image"),
    "USER": (DONE, "for later RUN; containers have a user of their own"),
    "SHELL": (DONE, "for later RUN in shell form"),
    "LABEL": (NOTED, "images have no labels"),
    "MAINTAINER": (NOTED, "images have no labels"),
    "EXPOSE": (NOTED, "endpoints and sandboxes have addresses of the platform's"),
    "ENTRYPOINT": (NOTED, "containers run your functions"),
    "CMD": (NOTED, "containers run your functions"),
    "STOPSIGNAL": (NOTED, "the platform ends containers its own way"),
    "HEALTHCHECK": (NOTED, "the platform looks after containers its own way"),
    "VOLUME": ("refused", "name volumes where functions are: volumes=[…]"),
    "ONBUILD": ("refused", "write its instruction into the Dockerfile that begins with this image"),
}
_STAGE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_OWNER: Final = re.compile(r"(\d{1,9}|root)(?::(\d{1,9}|root))?\Z")
_MODE: Final = re.compile(r"[0-7]{3,4}\Z")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Exec:
    """RUN: a command, and where and as whom. Values of `env` are templates (`words.py`)."""

    line: int
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str


@dataclass(frozen=True)
class Copy:
    """COPY and ADD. `stage`: whose files; None = the context's. `mode` -1 = as they are."""

    line: int
    sources: tuple[str, ...]
    target: str
    stage: Stage | None
    unpacks: bool
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Stage:
    """What one FROM begins: an image of a registry, and the steps on it."""

    base: str
    steps: tuple[Exec | Copy, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""


@dataclass
class _Now:
    """What instructions change for those after them, within a stage."""

    stage: Stage
    args: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    shell: tuple[str, ...] = SHELL

    @property
    def values(self) -> dict[str, str]:
        return {**self.args, **self.env}


@dataclass(frozen=True)
class Reading:
    """The last stage, or the one that was asked for, and what was noted without effect."""

    stage: Stage
    notices: tuple[str, ...]


def read_dockerfile(text: str, build_args: Mapping[str, str], target: str = "") -> Reading:
    """Return what a Dockerfile makes.

    Args:
        build_args: values for its ARGs.
        target: name of the stage to build; "" = the last.

    Raises: DockerfileError, with the line, for what is refused or misspelled.
    """
    reader = _Reader(build_args)
    for instruction in read_lines(text):
        reader.read(instruction)
    return reader.finish(target)


class _Reader:
    def __init__(self, build_args: Mapping[str, str]) -> None:
        self._build_args = build_args
        self._wanted = set(build_args)
        self._globals: dict[str, str] = {}
        self._stages: list[_Now] = []
        self._names: dict[str, _Now] = {}
        self._notices: list[str] = []
        self._line = 1
        self._doing: dict[str, Callable[[Instruction, _Now], None]] = {
            "RUN": self._run,
            "COPY": self._copy,
            "ADD": self._copy,
            "ENV": self._env,
            "ARG": self._arg,
            "WORKDIR": self._workdir,
            "USER": self._user,
            "SHELL": self._shell,
        }

    def read(self, instruction: Instruction) -> None:
        self._line = instruction.line
        known = TABLE.get(instruction.name)
        if known is None:
            raise DockerfileError(
                instruction.line, f"there is no instruction {instruction.name[:40]}"
            )
        what, why = known
        if what == "refused":
            raise DockerfileError(instruction.line, f"{instruction.name} is not supported: {why}")
        if instruction.name == "FROM":
            self._from(instruction)
            return
        if not self._stages:
            if instruction.name != "ARG":
                raise DockerfileError(
                    instruction.line, f"{instruction.name} stands before any FROM"
                )
            self._globals |= self._argument(instruction, self._globals)
            return
        if what == NOTED:
            self._notices.append(
                f"Dockerfile, line {instruction.line}: {instruction.name} has no effect: {why}"
            )
            return
        self._doing[instruction.name](instruction, self._stages[-1])

    def finish(self, target: str) -> Reading:
        if not self._stages:
            raise DockerfileError(self._line, "there is no FROM")
        if unknown := self._wanted:
            names = ", ".join(sorted(unknown))
            raise DockerfileError(self._line, f"no ARG takes the build arguments {names}")
        if target and target not in self._names:
            raise DockerfileError(self._line, f"there is no stage {target!r}")
        now = self._names[target] if target else self._stages[-1]
        return Reading(_whole(now), tuple(self._notices))

    def _from(self, instruction: Instruction) -> None:
        line = instruction.line
        if instruction.flags:
            raise DockerfileError(
                line, "FROM with --platform is not supported: workers say what they are"
            )
        words = split_words(line, instruction.text)
        name = ""
        if len(words) == 3 and words[1].upper() == "AS":  # noqa: PLR2004 - image AS name
            name = words[2].lower()
            if not _STAGE_NAME.match(name):
                raise DockerfileError(line, f"{name!r} is no name of a stage")
        elif len(words) != 1:
            raise DockerfileError(line, "FROM takes an image, and AS with a name")
        base = _plain(line, fill(line, words[0], self._globals))
        before = self._names.get(base.lower())
        if before is not None:
            now = replace(before, stage=_whole(before), args={}, env=dict(before.env))
        elif base == "scratch":
            raise DockerfileError(
                line, "FROM scratch is not supported: begin with an image of a registry"
            )
        else:
            now = _Now(Stage(base))
        self._stages.append(now)
        self._names[str(len(self._stages) - 1)] = now
        if name:
            self._names[name] = now

    def _run(self, instruction: Instruction, now: _Now) -> None:
        for flag, value in instruction.flags:
            instead = "leave it out"
            if flag == "mount" and "type=secret" in value.split(","):
                instead = "write it as run_commands(…, secrets=[…]) after from_dockerfile"
            raise DockerfileError(instruction.line, f"RUN --{flag} is not supported: {instead}")
        argv = instruction.words() or (*now.shell, instruction.text)
        if not instruction.text:
            raise DockerfileError(instruction.line, "RUN needs a command")
        # What came with ARG is seen by commands, and by nothing after the build.
        env = {
            **{name: value for name, value in now.args.items() if name not in now.env},
            **now.env,
        }
        step = Exec(instruction.line, argv, tuple(env.items()), now.cwd, now.user)
        now.stage = replace(now.stage, steps=(*now.stage.steps, step))

    def _copy(self, instruction: Instruction, now: _Now) -> None:
        line = instruction.line
        flags = dict(instruction.flags)
        if unknown := set(flags) - {"from", "chown", "chmod", "link"}:
            raise DockerfileError(line, f"{instruction.name} --{min(unknown)} is not supported")
        given = instruction.words()
        words = [
            fill(line, word, now.values) for word in (given or split_words(line, instruction.text))
        ]
        if len(words) < 2:  # noqa: PLR2004 - from and to
            raise DockerfileError(line, f"{instruction.name} takes sources and a target")
        *sources, target = (_plain(line, word) for word in words)
        if any("://" in source or source.startswith("git@") for source in sources):
            raise DockerfileError(
                line, f"{instruction.name} of an address is not supported: RUN curl, or COPY a file"
            )
        stage = None
        if "from" in flags:
            stage = self._stage(line, _plain(line, fill(line, flags["from"], now.values)))
        uid, gid = _owner(line, flags.get("chown", "0:0"))
        mode = flags.get("chmod", "")
        if mode and not _MODE.match(mode):
            raise DockerfileError(line, f"--chmod={mode}: give an octal number, 755 for example")
        if not target.startswith("/") and now.cwd:
            slash = "/" if target.endswith("/") or target == "." else ""
            target = posixpath.normpath(posixpath.join(now.cwd, target)) + slash
        step = Copy(
            line,
            tuple(sources),
            target,
            stage,
            instruction.name == "ADD" and stage is None,
            uid,
            gid,
            int(mode, 8) if mode else -1,
        )
        now.stage = replace(now.stage, steps=(*now.stage.steps, step))

    def _stage(self, line: int, name: str) -> Stage:
        before = self._names.get(name.lower())
        if before is self._stages[-1]:
            raise DockerfileError(line, "a stage can't copy from itself")
        if before is not None:
            return _whole(before)
        if name.isdecimal():
            raise DockerfileError(line, f"there is no stage {name} before this one")
        return Stage(name)

    def _env(self, instruction: Instruction, now: _Now) -> None:
        now.env |= _pairs(instruction, now.values)

    def _arg(self, instruction: Instruction, now: _Now) -> None:
        now.args |= self._argument(instruction, now.values)

    def _argument(self, instruction: Instruction, values: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for word in split_words(instruction.line, instruction.text):
            name, equals, value = word.partition("=")
            if not _VARIABLE.match(name):
                raise DockerfileError(instruction.line, f"{name!r} is no name of a variable")
            self._wanted.discard(name)
            if name in self._build_args:
                found[name] = self._build_args[name].replace("$", "$$")
            elif equals:
                found[name] = fill(instruction.line, value, values)
            elif name in self._globals:
                found[name] = self._globals[name]
        return found

    def _workdir(self, instruction: Instruction, now: _Now) -> None:
        path = _plain(instruction.line, fill(instruction.line, instruction.text, now.values))
        if not path:
            raise DockerfileError(instruction.line, "WORKDIR needs a directory")
        now.cwd = posixpath.normpath(posixpath.join(now.cwd or "/", path))

    def _user(self, instruction: Instruction, now: _Now) -> None:
        now.user = _plain(instruction.line, fill(instruction.line, instruction.text, now.values))

    def _shell(self, instruction: Instruction, now: _Now) -> None:
        words = instruction.words()
        if not words:
            raise DockerfileError(
                instruction.line, 'SHELL takes the JSON form: ["/bin/bash", "-c"]'
            )
        now.shell = words


def _whole(now: _Now) -> Stage:
    return replace(now.stage, env=tuple(now.env.items()), cwd=now.cwd)


def _plain(line: int, template: str) -> str:
    """Return a word in which every variable is known."""
    if match := re.search(r"(?<!\$)(?:\$\$)*\$\{(\w+)\}", template):
        raise DockerfileError(line, f"nothing in the Dockerfile says what {match[1]} is")
    return template.replace("$$", "$")


def _owner(line: int, text: str) -> tuple[int, int]:
    match = _OWNER.match(text)
    if match is None:
        raise DockerfileError(
            line, f"--chown={text}: give numbers, 1000:1000 for example, or RUN chown after it"
        )
    user = 0 if match[1] == "root" else int(match[1])
    group = user if match[2] is None else 0 if match[2] == "root" else int(match[2])
    return user, group


def _pairs(instruction: Instruction, values: Mapping[str, str]) -> dict[str, str]:
    line = instruction.line
    words = split_words(line, instruction.text)
    if words and "=" not in words[0]:  # ENV name the rest is the value
        name, _, rest = instruction.text.partition(" ")
        if not rest.strip():
            raise DockerfileError(line, f"{instruction.name} takes NAME=value")
        return {_name(line, name): fill(line, rest.strip(), values)}
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(line, f"{word[:80]!r} is no NAME=value")
        found[_name(line, name)] = fill(line, value, values)
    return found


def _name(line: int, name: str) -> str:
    if not _VARIABLE.match(name):
        raise DockerfileError(line, f"{name[:80]!r} is no name of a variable")
    return name
