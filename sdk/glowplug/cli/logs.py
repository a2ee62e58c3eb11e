"""`glowplug logs`: what functions have written, and what they write from now on."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option
from glowplug.cli.since import since_option
from glowplug.cli.terminal import many_lines
from glowplug.client.http import json_lines
from glowplug.client.loop import background
from glowplug.client.output import dropped_sentence
from glowplug.errors import UnavailableError

TAIL_DEFAULT = 200
TAIL_MAX = 100_000


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--tail",
    type=click.IntRange(0, TAIL_MAX),
    default=None,
    help=f"Lines back: {TAIL_DEFAULT}, or with --since all, at most {TAIL_MAX}.",
)
@click.option(
    "--function", "functions", multiple=True, metavar="NAME", help="The same as the argument NAME."
)
@click.option(
    "--task",
    "--invocation",
    "invocation",
    default="",
    metavar="ID",
    help="Only what this task or call has written.",
)
@click.option("--container", default="", metavar="ID", help="Only what this container has written.")
@since_option
@json_option
@click.pass_context
def logs(
    ctx: click.Context,
    names: tuple[str, ...],
    tail: int | None,
    functions: tuple[str, ...],
    invocation: str,
    container: str,
    since: float | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the output of deployments, by name or id; without one, of all.

    What ended containers wrote is kept as well.
    """
    names += functions
    if tail is None:
        tail = TAIL_DEFAULT if since is None else TAIL_MAX
    session = open_session(ctx)
    params = [("deployment", name) for name in names]
    params += [("tail", str(tail)), ("tag", f"cli-{os.urandom(8).hex()}")]
    params += [("follow", "1")] if follow else []
    params += [("invocation", invocation)] if invocation else []
    params += [("container", container)] if container else []
    params += [("since", f"{since:.6f}")] if since is not None else []

    async def read() -> None:
        http = await session.reach()

        async def once(url: str) -> None:
            async with http.open_stream(url, "GET", "/api/v1/logs", params=params) as response:
                async for line in json_lines(response):
                    _print(line, as_json=as_json, several=len(names) != 1)

        # Followed again from the start, lines would appear twice: whoever follows starts anew.
        await http.retrying(once, repeat=False)

    try:
        background().run(read())
    except UnavailableError as err:
        if not follow:
            raise
        raise click.ClickException(f"the connection ended: {err}") from err


def _print(line: dict[str, Any], *, as_json: bool, several: bool) -> None:
    if as_json:
        click.echo(json.dumps(line))
    elif "dropped" in line:
        click.secho(dropped_sentence(line), dim=True)
    elif "text" in line:
        at = time.strftime("%H:%M:%S", time.localtime(line.get("at", 0)))
        name = f" {line.get('name', '')}" if several else ""
        head = click.style(f"{at}{name} ", dim=True)
        red = line.get("stream") == "stderr"
        text = many_lines(str(line["text"]).rstrip("\n"))
        click.echo(head + (click.style(text, fg="yellow") if red else text))
