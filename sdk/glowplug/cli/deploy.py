"""`glowplug deploy FILE[:fn]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from glowplug.cli.loading import find_target, load_file, split_target, wrappers_of
from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option, print_json
from glowplug.client.deploying import Deployed, Progress
from glowplug.client.loop import background
from glowplug.client.profile import no_color
from glowplug.client.session import Session
from glowplug.errors import NotYetSupportedError
from glowplug.wrappers import Wrapper


@click.command()
@click.argument("target", metavar="FILE[:FUNCTION]")
@json_option
@click.pass_context
def deploy(ctx: click.Context, target: str, *, as_json: bool) -> None:
    """Deploy one function of a file, or all that are decorated; each becomes a new version."""
    path, name = split_target(target)
    session = open_session(ctx)
    module = load_file(path)
    decorated = list(wrappers_of(module).values())
    chosen = [find_target(module, name)] if name or not decorated else decorated
    shown = []
    for wrapper in chosen:
        if not isinstance(wrapper, Wrapper):
            raise NotYetSupportedError(
                f"{name or 'main'} is not decorated; deploying plain handlers is not yet supported; "
                "decorate it with @endpoint, @function or @task_queue"
            )
        with progress_of(wrapper.name, quiet=as_json) as progress:
            deployed = background().run(
                session.deploy(wrapper, ephemeral=False, progress=progress, follow=False)
            )
        shown.append(_value(deployed))
        if not as_json:
            _print(session, wrapper, deployed)
    if as_json:
        print_json({"deployments": shown})


@contextmanager
def progress_of(name: str, *, quiet: bool) -> Iterator[Progress]:
    """Show a deployment's progress: live on a terminal, else a line for each step."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty() and not no_color():
        from rich.console import Console  # noqa: PLC0415 - 20 ms, only on a terminal

        console = Console(stderr=True)
        with console.status(f"{name}: packing and uploading") as status:

            def update(event: dict[str, Any]) -> None:
                text = str(event.get("text", "")).rstrip()
                if event.get("kind") == "step":
                    cached = " (cached)" if event.get("cached") else ""
                    console.print(f"  {text}{cached}", highlight=False, markup=False)
                status.update(f"{name}: {text[:100]}")

            yield update
    else:

        def say(event: dict[str, Any]) -> None:
            if event.get("text"):
                cached = " (cached)" if event.get("cached") else ""
                click.echo(f"image: {str(event['text']).rstrip()}{cached}", err=True)

        yield say


def _value(deployed: Deployed) -> dict[str, Any]:
    return {
        "deployment_id": deployed.deployment_id,
        "name": deployed.name,
        "version": deployed.version,
        "url": deployed.url,
    }


def _print(session: Session, wrapper: Wrapper[Any, Any], deployed: Deployed) -> None:
    click.echo(f"{deployed.name} v{deployed.version}  {deployed.url}")
    header = ""
    if wrapper.asked.authorized:
        token = "$GLOWPLUG_TOKEN" if session.http.profile.given else "…"
        header = f' -H "Authorization: Bearer {token}"'
    hint = "" if session.http.profile.given or not header else "   (token: glowplug config show)"
    click.echo(f"  curl -X POST {deployed.url}{header} -d '{{}}'{hint}")
