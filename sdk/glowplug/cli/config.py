"""`glowplug config …`: profiles."""

from __future__ import annotations

from dataclasses import asdict

import click

from glowplug.cli.show import column, json_option, print_json, print_table
from glowplug.client.profile import LOCAL, config_path, load_profile, read_config, use_profile


@click.group()
def config() -> None:
    """Choose the platform that programs and commands use."""


@config.command()
@json_option
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> None:
    """Show the profile in use, its token included."""
    profile = load_profile(ctx.find_root().obj or "")
    if as_json:
        print_json({**asdict(profile), "file": str(config_path())})
        return
    click.echo(f"profile  {profile.name}")
    click.echo(f"urls     {', '.join(profile.urls)}")
    click.echo(f"token    {profile.token or '(none)'}")
    click.echo(f"file     {config_path()}")


@config.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the profiles."""
    stored = read_config()
    current = str(stored.get("current", LOCAL))
    rows = [
        {"name": name, "urls": list(value.get("urls", ())), "current": name == current}
        for name, value in sorted(stored.get("profiles", {}).items())
    ]
    if as_json:
        print_json({"profiles": rows, "file": str(config_path())})
        return
    columns = [column("PROFILE", "name"), column("CURRENT", "current"), column("URLS", "urls")]
    print_table(rows, columns, f"no profiles in {config_path()}; `glowplug up` writes one")


@config.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a profile the current one."""
    click.echo(f"{name} is the current profile ({use_profile(name)})")
