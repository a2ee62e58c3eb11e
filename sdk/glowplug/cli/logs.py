"""`glowplug logs`: what functions have written, and what they write from now on."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option
from glowplug.client.http import json_lines
from glowplug.client.loop import background
from glowplug.client.output import dropped_sentence
from glowplug.errors import UnavailableError


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=click.IntRange(0), default=200, show_default=True, help="Lines back.")
@click.option("--invocation", default="", help="Only what this invocation has written.")
@json_option
@click.pass_context
def logs(
    ctx: click.Context,
    names: tuple[str, ...],
    tail: int,
    invocation: str,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the output of deployments, by name or id; without one, of all."""
    session = open_session(ctx)
    params = [("deployment", name) for name in names]
    params += [("tail", str(tail)), ("tag", f"cli-{os.urandom(8).hex()}")]
    params += [("follow", "1")] if follow else []
    params += [("invocation", invocation)] if invocation else []

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
        text = str(line["text"]).rstrip("\n")
        click.echo(head + (click.style(text, fg="yellow") if red else text))
