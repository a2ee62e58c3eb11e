"""`glowplug image build FILE.py:NAME | Dockerfile`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from glowplug.cli.build_progress import Moved, progress_of
from glowplug.cli.images import image
from glowplug.cli.loading import load_file, split_target
from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option, print_json
from glowplug.client.deploying import follow_events
from glowplug.client.loop import background
from glowplug.errors import ImageBuildError
from glowplug.image import Image, replace_image


@image.command("build")
@click.argument("target", metavar="FILE.py[:NAME] | DOCKERFILE")
@click.option(
    "--context", default="", metavar="DIRECTORY", help="Of a Dockerfile; default: its own."
)
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="For an ARG.")
@click.option("--stage", default="", help="Of a Dockerfile; default: the last.")
@click.option("--credentials", default="", metavar="SECRET", help="For a Dockerfile's registries.")
@click.option("--force", is_flag=True, help="Make every step again, and look tags up again.")
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    target: str,
    *,
    context: str,
    build_args: tuple[str, ...],
    stage: str,
    credentials: str,
    force: bool,
    as_json: bool,
) -> None:
    """Build an image and deploy nothing: that of a name in a file, or of a Dockerfile.

    NAME is an image, or a function that has one; without it, the file's only one.
    """
    found = _image_of(target, context, build_args, stage, credentials)
    if force:
        found = replace_image(found, force=True)
    session = open_session(ctx)

    moved = Moved()

    async def send(progress: Any) -> dict[str, Any]:
        http = await session.reach()
        spec = await session.packer.image_of(found)
        body = msgspec.json.encode(spec)
        return await follow_events(
            http, "/api/v1/images", body, last="built", progress=progress, repeat=not force
        )

    try:
        with progress_of(target, quiet=as_json) as progress:

            def take(event: dict[str, Any]) -> None:
                moved.take(event)
                progress(event)

            built = background().run(send(take))
    except ImageBuildError as err:
        if not as_json:
            raise
        print_json({"error": str(err), "step": err.step, "output": err.output})
        ctx.exit(1)
    if as_json:
        print_json(
            {
                "image_digest": built["image_digest"],
                "python": built["python"],
                "bytes": moved.value(),
            }
        )
    elif built["image_digest"]:
        click.echo(f"{built['image_digest']}  Python {built['python']}")
    else:
        click.echo("nothing to build: this image is the worker's own system")


def _image_of(
    target: str, context: str, build_args: tuple[str, ...], stage: str, credentials: str
) -> Image:
    """Return what is to be built. Raises: click.UsageError."""
    file = target.partition(":")[0]
    if file.endswith(".py"):
        if context or build_args or stage or credentials:
            raise click.UsageError(
                "--context, --build-arg, --stage and --credentials are for a Dockerfile"
            )
        return _image_in(*split_target(target))
    if not Path(target).is_file():
        raise click.UsageError(f"there is no file {target!r}")
    args = dict(_pair(each) for each in build_args)
    return Image.from_dockerfile(
        target,
        context_dir=context or None,
        build_args=args,
        target=stage,
        credentials=credentials or None,
    )


def _image_in(path: Path, name: str) -> Image:
    module = load_file(path)
    images = {key: each for key, each in vars(module).items() if isinstance(each, Image)}
    if not name and len(images) == 1:
        return next(iter(images.values()))
    value = getattr(module, name, None) if name else None
    asked = getattr(value, "asked", None)
    value = getattr(asked, "image", value)
    if isinstance(value, Image):
        return value
    known = ", ".join(images) or "none"
    raise click.UsageError(f"{os.fspath(path.name)} has no image {name!r}; it has {known}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--build-arg {text}: give NAME=value")
    return name, value
