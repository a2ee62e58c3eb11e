"""What a Dockerfile says about how its image is run: environment, PATH, working directory. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

import msgspec
from glowplug_contracts.messages.deployment import ImageStep
from glowplug_contracts.messages.image import BaseImage

from glowplug_imagecache.pythons import PATH_USUAL

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)\})")
PATH = "PATH"


def fill(template: str, known: Mapping[str, str]) -> str:
    """Return a template with what is known; a name that nobody knows is nothing, as for Docker."""
    return _VARIABLE.sub(lambda match: known.get(match[1], "") if match[1] else "$", template)


def filled(step: ImageStep, base: BaseImage | None) -> dict[str, str]:
    """Return a step's environment with what the image has."""
    known = {} if base is None else {**base.env, PATH: base.path or PATH_USUAL}
    return {name: fill(value, known) for name, value in step.env.items()}


def configure(base: BaseImage, step: ImageStep) -> BaseImage:
    """Return how an image is run after a "config" step."""
    env = filled(step, base)
    path = env.pop(PATH, base.path)
    cwd = posixpath.join(base.cwd or "/", step.cwd) if step.cwd else base.cwd
    return msgspec.structs.replace(base, env={**base.env, **env}, path=path, cwd=cwd)


def cwd_of(step: ImageStep, base: BaseImage | None) -> str:
    """Return where a command of a Dockerfile runs."""
    return posixpath.join("/", base.cwd if base is not None else "", step.cwd)
