"""`glowplug deploy FILE[:fn]`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import click

from glowplug.cli.build_progress import progress_of
from glowplug.cli.loading import find_target, load_file, split_target, wrappers_of
from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option, print_json
from glowplug.client.deploying import Deployed
from glowplug.client.loop import background
from glowplug.client.session import Session
from glowplug.wrappers import Wrapper


@click.command()
@click.argument("target", metavar="FILE[:FUNCTION]")
@click.option("--name", "as_name", default="", help="Of a plain handler; default: the file's.")
@click.option("--gpu", default="", help="For a plain handler: a kind of GPU, or any.")
@click.option("--memory", default="", help="For a plain handler: 512Mi, 2gb …")
@click.option("--cpu", default="", help="For a plain handler: cores, or 500m.")
@click.option("--package", "packages", multiple=True, help="For a plain handler: a requirement.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="For a plain handler.")
@click.option("--timeout", type=float, default=None, help="For a plain handler: seconds.")
@click.option("--public", is_flag=True, help="For a plain handler: its URL takes no token.")
@json_option
@click.pass_context
def deploy(
    ctx: click.Context,
    target: str,
    *,
    as_name: str,
    gpu: str,
    memory: str,
    cpu: str,
    packages: tuple[str, ...],
    env: tuple[str, ...],
    timeout: float | None,
    public: bool,
    as_json: bool,
) -> None:
    """Deploy one function of a file, or all that are decorated; each becomes a new version.

    A plain lambda_handler(event, context) becomes an endpoint that is called with the whole request; the
    options say what a decorator would.
    """
    path, name = split_target(target)
    session = open_session(ctx)
    module = load_file(path)
    decorated = list(wrappers_of(module).values())
    chosen = [find_target(module, name)] if name or not decorated else decorated
    given = {
        "name": as_name,
        "gpu": gpu,
        "memory": memory,
        "cpu": cpu,
        "python_packages": list(packages),
        "env": list(env),
        "timeout": timeout,
        "authorized": False if public else None,
    }
    given = {option: value for option, value in given.items() if value not in ("", [], None)}
    if any(isinstance(one, Wrapper) for one in chosen) and given:
        raise click.UsageError(
            f"{', '.join(given)}: these belong into the decorator of what is decorated"
        )
    chosen = [
        one if isinstance(one, Wrapper) else plain_handler(one, path, given) for one in chosen
    ]
    shown = []
    for wrapper in chosen:
        with progress_of(wrapper.name, quiet=as_json) as progress:
            deployed = background().run(
                session.deploy(wrapper, ephemeral=False, progress=progress, follow=False)
            )
        shown.append(_value(deployed))
        if not as_json:
            _print(session, wrapper, deployed)
    if as_json:
        print_json({"deployments": shown})


def plain_handler(function: object, path: Path, given: dict[str, Any]) -> Wrapper[Any, Any]:
    """Return the endpoint that a plain `lambda_handler(event, context)` stands for.

    Raises: click.UsageError for what is none.
    """
    from glowplug.asked import ask  # noqa: PLC0415 - only for what is not decorated
    from glowplug.image import Image  # noqa: PLC0415 - likewise
    from glowplug.wrappers import Endpoint  # noqa: PLC0415 - likewise

    places = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    parameters = (
        inspect.signature(function).parameters.values() if inspect.isfunction(function) else ()
    )
    if not inspect.isfunction(function) or [p.kind in places for p in parameters] != [True, True]:
        raise click.UsageError(
            f"{getattr(function, '__name__', function)} is neither decorated nor a handler: decorate it "
            "with @endpoint, @function or @task_queue, or give it two parameters, (event, context)"
        )
    packages = given.pop("python_packages", None)
    image = Image(python_packages=packages) if packages else None
    name = given.pop("name", "") or default_name_of(path)
    asked = ask("endpoint", function, name=name, image=image, **given)
    return Endpoint(function, dataclasses.replace(asked, takes="request", inputs=None))


def default_name_of(path: Path) -> str:
    """Return the name of a plain handler that was given none: its file's."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", path.stem).strip("-_")[:63] or "handler"


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
