"""`glowplug secret …`: values for containers. They are read from standard input, never from arguments."""

from __future__ import annotations

import sys

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import age, column, json_option, print_json, print_table


@click.group()
def secret() -> None:
    """Keep values that containers get as environment variables."""


@secret.command()
@click.argument("name")
@click.option("--key", "keys", multiple=True, help="A variable to ask for; without it, NAME's own.")
@json_option
@click.pass_context
def create(ctx: click.Context, name: str, keys: tuple[str, ...], *, as_json: bool) -> None:
    """Keep a new secret.

    In a terminal each value is asked for, and not shown. Otherwise standard input holds lines
    VARIABLE=value: `glowplug secret create openai < .env`.
    """
    values = read_values(name, keys)
    _said(ask(ctx, "POST", "/api/v1/secrets", {"name": name, "values": values}), as_json=as_json)


@secret.command()
@click.argument("name")
@click.option(
    "--key", "keys", multiple=True, help="A variable to ask for; without it, those it has."
)
@json_option
@click.pass_context
def rotate(ctx: click.Context, name: str, keys: tuple[str, ...], *, as_json: bool) -> None:
    """Replace a secret's values; containers that start from now on get the new ones."""
    if not keys and sys.stdin.isatty():
        keys = tuple(ask(ctx, "GET", f"/api/v1/secrets/{name}")["keys"])
    values = read_values(name, keys)
    _said(ask(ctx, "PUT", f"/api/v1/secrets/{name}", {"values": values}), as_json=as_json)


@secret.command(name="list")
@json_option
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """List secrets, without their values."""
    found = ask(ctx, "GET", "/api/v1/secrets")["secrets"]
    if as_json:
        print_json(found)
        return
    print_table(
        found,
        [
            column("name"),
            ("keys", lambda one: ", ".join(one["keys"])),
            column("version"),
            ("changed", lambda one: age(float(one["updated_at"]))),
        ],
        "no secrets; `glowplug secret create NAME` makes one",
    )


@secret.command()
@click.argument("name")
@click.pass_context
def delete(ctx: click.Context, name: str) -> None:
    """Forget a secret."""
    ask(ctx, "DELETE", f"/api/v1/secrets/{name}")
    click.echo(f"{name} is gone")


def read_values(name: str, keys: tuple[str, ...]) -> dict[str, str]:
    """Return the values, asked for or from standard input. Raises: UsageError."""
    if sys.stdin.isatty():
        wanted = keys or (name.upper().replace("-", "_"),)
        return {key: click.prompt(key, hide_input=True) for key in wanted}
    values: dict[str, str] = {}
    for number, line in enumerate(sys.stdin.read().splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, found, value = text.partition("=")
        if not found:
            raise click.UsageError(f"line {number} of standard input is not VARIABLE=value")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[key.strip().removeprefix("export ").strip()] = value
    if keys and set(keys) - set(values):
        missing = ", ".join(sorted(set(keys) - set(values)))
        raise click.UsageError(f"standard input has no line for {missing}")
    if not values:
        raise click.UsageError("standard input holds no line VARIABLE=value")
    return values


def _said(found: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        keys = ", ".join(str(key) for key in found["keys"])  # type: ignore[attr-defined]
        click.echo(f"{found['name']} (version {found['version']}): {keys}")
