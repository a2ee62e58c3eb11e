"""Plan a build: is the image possible, what is each step called, and which steps are left to run.

Pure. A step's chain digest names everything that led to it (host, Python, workspace, environment, all
steps before it), so one that is known in BUILD_STEPS need not run again. What can't be built is refused
here, before anything starts, with a sentence that says what can.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError, RejectedError
from glowplug_contracts.ids import Digest, ImageDigest, WorkspaceId
from glowplug_contracts.manifests import check_path
from glowplug_contracts.messages.deployment import ImageSpec, ImageStep
from glowplug_contracts.tree_rules import MODE_BITS, OWNER_MAX

from glowplug_imagecache.registry.platforms import parse_platform
from glowplug_imagecache.registry.reference import parse_reference

STEPS_MAX = 100
LAYER_PATH = "/layer/"
TEXT_MAX = 200
ON_OCI = (
    "that takes a root of the image's own, which OCI bases have: begin with "
    'Image.from_registry("python:3.12-slim"), for example'
)
# What imagecache does itself, without a container.
PULL = "pull"
# A "copy" whose stage is built: `blob` is that image's tree. Nobody can ask for it.
COPY_TREE = "copy-tree"
OWN_STEPS = frozenset({PULL, "file", "copy", COPY_TREE, "config"})
# What may change the root of an image of a registry, in a container.
ROOT_STEPS = frozenset({"run", "apt", "exec"})
# What only images of a registry have.
OCI_STEPS = frozenset({"apt", "exec", "copy", "config"})
# What has a command that may need secrets.
SECRET_STEPS = frozenset({"pip", "apt", "run"})
STAGES_DEEP_MAX = 8
# A name of Debian's, with a version or an architecture, as apt takes them; never an option.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9-]+)?(=[A-Za-z0-9.+~:-]+)?\Z")


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What one live worker could build on: its host identity and minor Python versions."""

    host: str
    pythons: tuple[str, ...]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is built for.

    Attributes:
        host, python_version: of a build on the host's base; "" and "" for an image of a registry.
        platform: what an image of a registry must be for; "" for the host's base.
        reference: what is pulled, with its digest.
    """

    host: str = ""
    python_version: str = ""
    platform: str = ""
    reference: str = ""


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a build. `number` counts from 1; `text` is what people see."""

    number: int
    spec: ImageStep
    chain: Digest
    text: str


class BuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A build's steps, and how many of them a cached image already holds.

    `tip` names the whole: the chain of the last step, or of the start where there is none.
    """

    spec: ImageSpec
    workspace: WorkspaceId
    target: Target
    tip: Digest
    steps: tuple[PlannedStep, ...]
    cached: int = 0
    image_digest: ImageDigest = ImageDigest("")

    @property
    def reusable(self) -> tuple[PlannedStep, ...]:
        """Return the steps that need not be made again where they are known."""
        if self.spec.force:
            return ()
        forced = (number for number, step in enumerate(self.steps) if step.spec.force)
        return self.steps[: next(forced, len(self.steps))]

    @property
    def writes_root(self) -> bool:
        """Return whether its containers may change their root."""
        return changes_root(self.spec)


def changes_root(spec: ImageSpec) -> bool:
    """Return whether a build has steps that may change the root of an image of a registry."""
    return not spec.on_host and any(step.kind in ROOT_STEPS for step in spec.steps)


def brings_python(spec: ImageSpec) -> bool:
    """Return whether steps may bring the Python that a base lacks."""
    return not spec.on_host and any(step.kind in ROOT_STEPS | OCI_STEPS for step in spec.steps)


def count_steps(spec: ImageSpec, deep: int = 1) -> int:
    """Return how many steps a build has, those of its stages included. Raises: RejectedError."""
    if deep > STAGES_DEEP_MAX:
        raise _unsupported(f"stages copy from stages {deep} deep; {STAGES_DEEP_MAX} are possible")
    stages = (step.stage for step in spec.steps if step.stage is not None)
    return len(spec.steps) + sum(count_steps(stage, deep + 1) for stage in stages)


def check_spec(spec: ImageSpec) -> None:
    """Refuse what no worker could build. Raises: RejectedError (image.unsupported)."""
    if not spec.on_host:
        parse_reference(spec.base)
    elif spec.credentials:
        raise _unsupported("credentials are for an image of a registry; leave them out")
    if (steps := count_steps(spec)) > STEPS_MAX:
        raise _unsupported(f"{steps} steps; an image may have {STEPS_MAX}")
    for number, step in enumerate(spec.steps, 1):
        _check_step(number, step, on_host=spec.on_host)
        if step.secrets and step.kind not in SECRET_STEPS:
            raise _unsupported(f"step {number}: {step.kind} has no command that gets secrets")


def choose_target(spec: ImageSpec, offers: Sequence[Offer]) -> Target:
    """Return what to build for: the host that most workers with the wanted Python have.

    For an image of a registry it is the kind of machine that most workers are.

    Raises: RejectedError (image.unsupported) if no live worker has that Python.
    """
    if not spec.on_host:
        machines = Counter(str(parse_platform(offer.host.rpartition("/")[2])) for offer in offers)
        return Target(platform=min(machines, key=lambda each: (-machines[each], each)))
    wanted = spec.python_version
    fitting = [offer for offer in offers if offer.pythons and wanted in ("", *offer.pythons)]
    if not fitting:
        there = sorted({version for offer in offers for version in offer.pythons}, key=_by_number)
        raise _unsupported(
            f"python_version {wanted!r} is on no live worker; there is {', '.join(there)}. "
            "Install it on a worker's machine, or take one of these"
        )
    counted = Counter((offer.host, wanted or offer.pythons[0]) for offer in fitting)
    host, version = min(counted, key=lambda each: (-counted[each], each))
    return Target(host=host, python_version=version)


def plan_build(
    spec: ImageSpec,
    workspace: WorkspaceId,
    target: Target,
    stamps: Mapping[str, str] | None = None,
) -> BuildPlan:
    """Return every step with its chain digest; nothing counts as cached yet.

    `stamps` say by name which values the steps' secrets have: with other values a step is another one.
    """
    begins = [workspace, target.host, target.python_version, sorted(spec.env.items())]
    pulls: list[ImageStep] = []
    if not spec.on_host:
        # Which Python is taken is decided when the image is there.
        begins += [target.platform, spec.python_version]
        pulls = [ImageStep(kind=PULL, args=(target.reference,))]
    link = _link(b"", encode(begins, "msgpack"))
    steps: list[PlannedStep] = []
    for number, step in enumerate((*pulls, *spec.steps), 1):
        # What was pulled is the same for every build on it.
        rooted = b"root" if changes_root(spec) and step.kind != PULL else b""
        meant = [(ref.name, (stamps or {})[ref.name]) for ref in step.secrets]
        opened = encode(meant, "msgpack") if meant else b""
        # However it came about that it is made, it is the same step.
        called = msgspec.structs.replace(step, force=False)
        link = _link(link.encode(), encode(called, "msgpack") + rooted + opened)
        steps.append(PlannedStep(number=number, spec=step, chain=link, text=describe(step)))
    return BuildPlan(
        spec=spec,
        workspace=workspace,
        target=target,
        tip=link,
        steps=tuple(steps),
    )


def describe(step: ImageStep) -> str:
    """Return a step as people write it, in one bounded line."""
    words = {"pip": "pip install", "file": "add", "apt": "apt-get install", "exec": "run"}
    args = step.args
    if step.kind == "config":
        args = (*sorted(step.env), step.cwd)
    elif step.kind in ("copy", COPY_TREE):
        args = ("copy", *step.args[1:], "to", step.args[0])
        words[step.kind] = ""
    text = f"{words.get(step.kind, step.kind)} {' '.join(args)}".replace("\n", " ").strip()
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def place_in_layer(path: str) -> str:
    """Return where in the layer a file step's path lies.

    Raises: RejectedError (image.unsupported) for a path that is outside it.
    """
    inner = path.removeprefix(LAYER_PATH)
    try:
        return check_path(inner.rstrip("/"))
    except InvalidRequestError as err:
        raise _unsupported(
            f"{path[:TEXT_MAX]!r} is outside the image's layer; give a relative path. {ON_OCI}"
        ) from err


def _check_step(number: int, step: ImageStep, *, on_host: bool) -> None:
    if step.kind == "pip":
        if not step.args or not all(line.strip() for line in step.args):
            raise _unsupported(f"step {number}: pip needs requirement lines")
    elif step.kind == "run":
        if len(step.args) != 1 or not step.args[0].strip():
            raise _unsupported(f"step {number}: run needs one command")
    elif step.kind == "file":
        if len(step.args) != 1 or step.blob is None:
            raise _unsupported(f"step {number}: file needs one path and the blob of its content")
        place_in_layer(step.args[0])
    elif step.kind in OCI_STEPS:
        if on_host:
            raise _unsupported(f"step {number}: {step.kind} can't be done on the host; {ON_OCI}")
        _check_on_oci(number, step)
    else:
        raise _unsupported(
            f"step {number}: {step.kind[:TEXT_MAX]!r} can't be done in a build, which has Python packages, "
            "commands, files and, on images of a registry, system packages"
        )
    texts = (*step.args, *step.env, *step.env.values(), step.cwd, step.user)
    if any("\0" in text for text in texts):
        raise _unsupported(f"step {number} holds a zero byte")


def _check_on_oci(number: int, step: ImageStep) -> None:
    if step.kind == "apt":
        _check_packages(number, step)
    elif step.kind == "exec" and not step.args:
        raise _unsupported(f"step {number}: exec needs a command")
    elif step.kind == "copy":
        _check_copy(number, step)
    if any("=" in name or name.startswith("GLOWPLUG_") for name in step.env):
        raise _unsupported(f"step {number}: a variable's name has a = or begins with GLOWPLUG_")


def _check_copy(number: int, step: ImageStep) -> None:
    if not step.args or not step.args[0] or (step.blob is None) == (step.stage is None):
        raise _unsupported(f"step {number}: copy needs a target, and either a tar or a stage")
    if step.stage is not None:
        if len(step.args) < 2 or step.stage.on_host:  # noqa: PLR2004 - to and from
            raise _unsupported(f"step {number}: copy needs what to copy of an image of a registry")
        check_spec(step.stage)
    owners = (step.uid, step.gid)
    if not all(0 <= owner <= OWNER_MAX for owner in owners) or not -1 <= step.mode <= MODE_BITS:
        raise _unsupported(f"step {number}: owner {owners} or mode {step.mode} is out of range")


def _check_packages(number: int, step: ImageStep) -> None:
    for name in step.args:
        if not _PACKAGE.match(name):
            raise _unsupported(f"step {number}: {name[:TEXT_MAX]!r} is no name of a Debian package")
    if not step.args:
        raise _unsupported(f"step {number}: apt needs names of packages")


def _by_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _link(before: bytes, added: bytes) -> Digest:
    return Digest(hashlib.blake2b(before + b"\0" + added, digest_size=32).hexdigest())


def _unsupported(message: str) -> RejectedError:
    return RejectedError("image.unsupported", message)
