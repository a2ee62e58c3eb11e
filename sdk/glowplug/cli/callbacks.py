"""`glowplug callback …`: what a receiver of callbacks needs."""

from __future__ import annotations

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import json_option, print_json


@click.group()
def callback() -> None:
    """Callbacks of durable work."""


@callback.command()
@json_option
@click.pass_context
def secret(ctx: click.Context, *, as_json: bool) -> None:
    """Print the secret that callbacks are signed with, for `glowplug.verify_callback`."""
    found = ask(ctx, "GET", "/api/v1/callbacks/secret")
    if as_json:
        print_json(found)
    else:
        click.echo(found["secret"])
