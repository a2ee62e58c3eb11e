"""`glowplug model …`: weights under a name, and how far they are."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, mib, print_json, print_table
from glowplug.cli.terminal import one_line
from glowplug.client.loop import background
from glowplug.client.models import pull_model, upload_model
from glowplug.model import ModelStatus


@click.group()
def model() -> None:
    """Keep weights that containers see read-only."""


@model.command()
@click.argument("name")
@click.argument("source")
@click.option("--credentials", default="", metavar="SECRET", help="A secret that has HF_TOKEN.")
@json_option
@click.pass_context
def pull(ctx: click.Context, name: str, source: str, *, credentials: str, as_json: bool) -> None:
    """Bring weights under a name: SOURCE is ./folder, hf:organisation/name@revision or volume:name/folder."""
    session = open_session(ctx)
    progress = Progress(shown=not as_json)
    folder = Path(source).expanduser().absolute() if is_folder(source) else None

    async def bring() -> ModelStatus:
        http = await session.reach()
        if folder is not None:
            return await upload_model(http, name, folder, progress.say)
        return await pull_model(http, name, source, progress.say, credentials=credentials)

    found = background().run(bring())
    progress.end()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        click.echo(f"{name} is ready: {found.files} files, {mib(found.bytes)}, {found.digest[:16]}")


@model.command(name="list")
@json_option
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """List models."""
    found = ask(ctx, "GET", "/models")["models"]
    if as_json:
        print_json(found)
        return
    print_table(
        found,
        [
            column("name"),
            column("state"),
            ("progress", lambda one: f"{one['progress']:.0f}%"),
            ("size", lambda one: mib(one["bytes"])),
            column("files"),
            ("digest", lambda one: one["digest"][:16]),
            column("source"),
        ],
        "no models; `glowplug model pull NAME FOLDER` brings one",
    )


@model.command()
@click.argument("name")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show a model: how far its last pull is, and its versions."""
    found = ask(ctx, "GET", f"/models/{name}/status")
    if as_json:
        print_json(found)
        return
    click.echo(f"{name}: {found['state']}, {found['progress']:.0f} % {one_line(found['text'])}")
    if found["error"]:
        click.echo(one_line(f"{found['error']['code']}: {found['error']['message']}"))
    print_table(
        found["versions"],
        [
            column("digest"),
            ("size", lambda one: mib(one["bytes"])),
            column("files"),
            ("ready", lambda one: age(float(one["ready_at"]))),
            column("source"),
        ],
        "no version is here yet",
    )


@model.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def rm(ctx: click.Context, name: str, *, yes: bool) -> None:
    """Forget a model; containers that have it keep it."""
    if not yes:
        click.confirm(f"remove model {name}?", abort=True)
    ask(ctx, "DELETE", f"/models/{name}")
    click.echo(f"{name} is gone")


class Progress:
    """A line on the terminal that says how far something is; nothing where nobody looks."""

    def __init__(self, *, shown: bool) -> None:
        self._live = shown and sys.stderr.isatty()
        self._shown = shown
        self._text = ""

    def say(self, text: str, done: int, total: int) -> None:
        """Say it: on a terminal again and again in one line, elsewhere when something else is done."""
        if self._live:
            share = f" {100 * done / total:5.1f} % of {mib(total)}" if total else ""
            click.echo(f"\r\x1b[K{one_line(text)}{share}", nl=False, err=True)
        elif self._shown and text != self._text:
            click.echo(one_line(text), err=True)
        self._text = text

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._text:
            click.echo("\r\x1b[K", nl=False, err=True)


def is_folder(source: str) -> bool:
    """Return whether a source is a place of this machine, and no name of something elsewhere."""
    return source.startswith((".", "/", "~")) or Path(source).is_dir()
