"""Images: what a function's container holds beyond the standard library.

Each call of the chain is one cached step. Nothing is read or sent before a deployment; the client
needs none of the packages.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowplug.parameters import refuse_method, refuse_parameters
from glowplug.remote import is_remote
from glowplug.requirements import read_requirements

if TYPE_CHECKING:
    from glowplug.dockerfile.reading import Copy, Exec, Stage
    from glowplug.secret import Secret

HOST_BASE = "host"
_VERSION = re.compile(r"^(?:python)?(3(?:\.[0-9]{1,2})?)\Z")


@dataclass(frozen=True)
class Step:
    """One step: "pip" (requirement lines), "apt" (packages), "run" (one command), "file" (from here to there).

    `secrets`: of the first three: whose variables its command has. `force`: it is made again, whatever is cached.
    """

    kind: str
    arguments: tuple[str, ...]
    origin: Path | None = None
    details: Exec | Copied | Config | None = None
    secrets: tuple[Secret, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class Copied:
    """What a COPY or ADD needs beside its words: files of a context, or another image."""

    copy: Copy
    context: Path
    stage: Image | None


@dataclass(frozen=True)
class Config:
    """What becomes the image's own: its environment (templates) and working directory."""

    env: tuple[tuple[str, str], ...]
    cwd: str


@dataclass(frozen=True, init=False)
class Image:
    """A description of an image. Immutable: every call of the chain returns a new one."""

    python_version: str
    steps: tuple[Step, ...]
    environment: tuple[tuple[str, str], ...]
    base: str
    credentials: str
    force: bool
    secrets: tuple[Secret, ...]

    def __init__(
        self,
        python_version: str = "",
        python_packages: Sequence[str] | str | None = None,
        commands: Sequence[str] | None = None,
        env_vars: Mapping[str, str] | Sequence[str] | None = None,
        base_image: str = "",
        system_packages: Sequence[str] | None = None,
        force_build: bool = False,  # noqa: FBT001, FBT002 - the public surface has it so
        secrets: Sequence[Secret | str] | None = None,
        **others: Any,
    ) -> None:
        refuse_parameters("Image", others)
        named = _secrets(secrets)
        base = parse_base(base_image) if base_image else HOST_BASE
        object.__setattr__(self, "python_version", parse_python_version(python_version))
        steps: list[Step] = []
        if system_packages:
            packages = read_packages("system_packages", system_packages, base)
            steps.append(Step("apt", packages, secrets=named))
        if python_packages:
            steps.append(Step("pip", read_requirements(python_packages), secrets=named))
        steps.extend(
            Step("run", (_text("commands", command),), secrets=named) for command in commands or ()
        )
        object.__setattr__(self, "steps", tuple(steps))
        object.__setattr__(self, "environment", tuple(parse_env("env_vars", env_vars).items()))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "credentials", "")
        object.__setattr__(self, "force", force_build)
        object.__setattr__(self, "secrets", named)

    @classmethod
    def from_registry(
        cls,
        reference: str,
        *,
        credentials: Secret | str | None = None,
        python_version: str = "",
        env_vars: Mapping[str, str] | Sequence[str] | None = None,
        force_build: bool = False,
    ) -> Image:
        """Return an image that stands on one of a registry: its files, its environment, its Python.

        Args:
            reference: "python:3.12-slim", "registry.example/team/app@sha256:…". A tag is looked up each time
                that something is deployed; a digest always means the same.
            credentials: a secret with REGISTRY_USERNAME and REGISTRY_PASSWORD.
            python_version: refuse the image if it has another one.
            force_build: pull it again, and make every step again.
        """
        login = _secrets(None if credentials is None else [credentials])
        name = login[0].name if login else ""
        image = cls(python_version=python_version, env_vars=env_vars, force_build=force_build)
        return replace_image(image, base=parse_base(reference), credentials=name)

    @classmethod
    def from_dockerfile(
        cls,
        path: str | Path = "Dockerfile",
        *,
        context_dir: str | Path | None = None,
        build_args: Mapping[str, str] | None = None,
        target: str = "",
        python_version: str = "",
        credentials: Secret | str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Return what a Dockerfile makes; its text is read now, files of its context when something is deployed.

        Args:
            context_dir: what COPY and ADD name files of; usually the Dockerfile's directory.
            build_args: values for its ARGs.
            target: the stage to build; "" = the last.
            python_version: refuse the image if it has another one.
            credentials: as in `from_registry`, for every image that a FROM names.
            force_build: make every instruction again, whatever is cached.

        Raises: DockerfileError, with the line; FileNotFoundError.
        """
        from glowplug.dockerfile.reading import read_dockerfile  # noqa: PLC0415 - few programs need it

        file = Path(path).absolute()
        reading = read_dockerfile(file.read_text("utf-8"), dict(build_args or {}), target)
        for notice in reading.notices:
            warnings.warn(notice, stacklevel=2)
        context = Path(context_dir).absolute() if context_dir is not None else file.parent
        image = _image_of(reading.stage, context, credentials)
        version = parse_python_version(python_version)
        return replace_image(image, python_version=version, force=force_build)

    def pip_install(
        self,
        *packages: str | Sequence[str],
        secrets: Sequence[Secret | str] | None = None,
        force_build: bool = False,
    ) -> Image:
        """Add Python packages: requirement lines, or the path of a requirements file.

        Args:
            secrets: whose variables this step has, and nothing else has.
            force_build: make this step and those after it again, whatever is cached.
        """
        lines: list[str] = []
        for package in packages:
            lines.extend(read_requirements(package))
        if not lines:
            raise ValueError("pip_install() needs at least one package")
        return self._with(
            Step("pip", tuple(lines), secrets=self._named(secrets), force=force_build)
        )

    def add_python_packages(self, packages: Sequence[str] | str) -> Image:
        """Add Python packages; the same as pip_install."""
        return self.pip_install(packages)

    def apt_install(
        self,
        *packages: str | Sequence[str],
        secrets: Sequence[Secret | str] | None = None,
        force_build: bool = False,
    ) -> Image:
        """Install Debian packages: of an image of a registry, which is root's to change while it is built."""
        names: list[str] = []
        for package in packages:
            names.extend((package,) if isinstance(package, str) else package)
        found = read_packages("apt_install", names, self.base)
        return self._with(Step("apt", found, secrets=self._named(secrets), force=force_build))

    def run_commands(
        self,
        *commands: str | Sequence[str],
        secrets: Sequence[Secret | str] | None = None,
        force_build: bool = False,
    ) -> Image:
        """Run shell commands while the image is built, each one a step.

        Args:
            secrets: whose variables these commands have, and nothing else has.
            force_build: run them and make what comes after them again, whatever is cached.
        """
        image, named = self, self._named(secrets)
        for command in commands:
            for line in (command,) if isinstance(command, str) else tuple(command):
                text = _text("run_commands", line)
                image = image._with(Step("run", (text,), secrets=named, force=force_build))
        return image

    def with_secrets(self, secrets: Sequence[Secret | str]) -> Image:
        """Let the packages and commands that come after this have the variables of secrets.

        They are in the environment of those steps only: not in the image, nor in what a build writes.
        """
        return replace_image(self, secrets=self._named(secrets))

    def add_local_file(self, local_path: str | Path, remote_path: str) -> Image:
        """Add one file of this machine at a path inside the image's layer."""
        return self._with(Step("file", (_inside(remote_path),), Path(local_path).absolute()))

    def add_local_dir(self, local_path: str | Path, remote_path: str) -> Image:
        """Add a folder of this machine, with all that is in it, at a path inside the layer."""
        return self._with(Step("file", (_inside(remote_path),), Path(local_path).absolute()))

    def env(self, variables: Mapping[str, str] | None = None, **more: str) -> Image:
        """Add environment variables, which the image keeps in plain text."""
        added = parse_env("env", {**(variables or {}), **more})
        merged = {**dict(self.environment), **added}
        return replace_image(self, environment=tuple(merged.items()))

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Let imports of the image's packages fail here, and only here."""
        if is_remote():
            yield
            return
        try:
            yield
        except ImportError:
            return

    def __getattr__(self, name: str) -> Callable[..., Any]:
        refuse_method("Image", name)

    def _named(self, secrets: Sequence[Secret | str] | None) -> tuple[Secret, ...]:
        return tuple(dict.fromkeys((*self.secrets, *_secrets(secrets))))

    def _with(self, step: Step) -> Image:
        return replace_image(self, steps=(*self.steps, step))


def _image_of(stage: Stage, context: Path, credentials: Secret | str | None) -> Image:
    """Return the image that a Dockerfile's stage describes."""
    from glowplug.dockerfile.reading import Exec  # noqa: PLC0415 - few programs need it

    image = Image.from_registry(stage.base, credentials=credentials)
    steps: list[Step] = []
    for step in stage.steps:
        if isinstance(step, Exec):
            steps.append(Step("exec", step.argv, details=step))
        else:
            other = None if step.stage is None else _image_of(step.stage, context, credentials)
            details = Copied(step, context, other)
            steps.append(Step("copy", (step.target, *step.sources), details=details))
    if stage.env or stage.cwd:
        steps.append(Step("config", (), details=Config(stage.env, stage.cwd)))
    return replace_image(image, steps=tuple(steps))


def replace_image(image: Image, **changes: Any) -> Image:
    """Return a copy with some attributes changed."""
    copy = Image()
    names = ("python_version", "steps", "environment", "base", "credentials", "force", "secrets")
    for name in names:
        object.__setattr__(copy, name, changes.get(name, getattr(image, name)))
    return copy


def parse_python_version(value: object) -> str:
    """Return "3.11" for "python3.11" or "3.11", and "" (the platform's own) for "python3" or "".

    Raises: ValueError or TypeError with a sentence.
    """
    if not isinstance(value, str):
        raise TypeError(f'python_version={value!r}: give "3.11", "python3.11" or "python3"')
    if not value:
        return ""
    match = _VERSION.match(value.strip().lower())
    if match is None:
        raise ValueError(f'python_version={value!r}: give "3.11", "python3.11" or "python3"')
    return "" if match[1] == "3" else match[1]


def parse_base(value: object) -> str:
    """Return the name of an image in a registry. Raises: ValueError or TypeError with a sentence."""
    if not isinstance(value, str):
        raise TypeError(f'{value!r}: give the name of an image, "python:3.12-slim" for example')
    if not value.strip() or "://" in value or any(sign.isspace() for sign in value):
        raise ValueError(f'{value!r} is no name of an image; "python:3.12-slim" is one')
    # Alone, this word means the base that is no image.
    return f"docker.io/library/{value}" if value == HOST_BASE else value


def read_packages(name: str, packages: Sequence[str], base: str) -> tuple[str, ...]:
    """Return names of Debian packages. Raises: ValueError or TypeError with a sentence."""
    if isinstance(packages, str):
        raise TypeError(f"{name}={packages!r}: give a list of names")
    if base == HOST_BASE:
        raise ValueError(
            f"{name}: Image() stands on the worker's own system, which no image changes. Begin with an image "
            'of a registry: Image.from_registry("python:3.12-slim")'
        )
    if not packages:
        raise ValueError(f"{name} needs at least one package")
    return tuple(_text(name, package) for package in packages)


def parse_env(name: str, value: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Return variables from a mapping, or from a list of "NAME=value".

    Raises: ValueError or TypeError with a sentence.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        raise TypeError(f'{name}={value!r}: give a dict, or a list of "NAME=value"')
    pairs = (
        list(value.items())
        if isinstance(value, Mapping)
        else [tuple(str(item).split("=", 1)) for item in value]
    )
    variables: dict[str, str] = {}
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[0], str) or not pair[0] or "=" in pair[0]:  # noqa: PLR2004
            raise ValueError(f'{name}: {pair!r} is no variable; give a dict, or "NAME=value"')
        if not isinstance(pair[1], str):
            raise TypeError(f"{name}: the value of {pair[0]} must be a string, not {pair[1]!r}")
        variables[pair[0]] = pair[1]
    return variables


def _secrets(given: Sequence[Secret | str] | None) -> tuple[Secret, ...]:
    from glowplug.secret import parse_secrets  # noqa: PLC0415 - it knows images by way of `asked`

    return parse_secrets(given)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: {value!r} must be a string that says something")
    return value.strip()


def _inside(path: str) -> str:
    clean = path.strip("/")
    if not clean or ".." in clean.split("/"):
        raise ValueError(f"{path!r}: give a path inside the image's layer, without '..'")
    return clean
