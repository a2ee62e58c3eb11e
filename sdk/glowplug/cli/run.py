"""`glowplug run FILE[::fn] --arg x`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import click

from glowplug.cli.arguments import parse_arguments
from glowplug.cli.loading import find_target, load_file, split_target
from glowplug.cli.platform import open_session
from glowplug.cli.show import print_json
from glowplug.wrappers import TaskQueue


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("target", metavar="FILE[::FUNCTION]")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--ARGUMENT VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def run(ctx: click.Context, target: str, words: tuple[str, ...], *, as_json: bool) -> None:
    """Run one function of a file; its parameters are options.

    A decorated function runs on the platform, a plain one here. If no platform answers, one is started
    for as long as this takes.
    """
    path, name = split_target(target)
    open_session(ctx, may_start=True)
    found = find_target(load_file(path), name)
    plain = getattr(found, "__glowplug_fn__", found)
    if not callable(plain):
        raise click.UsageError(f"{target!r} names no function")
    result = _run(found, parse_arguments(plain, words))
    if inspect.iscoroutine(result):
        import asyncio  # noqa: PLC0415

        result = asyncio.run(result)
    for one in result if isinstance(result, Iterator) else [result]:
        _print(one, as_json=as_json)


def _run(found: Any, arguments: dict[str, Any]) -> Any:
    if isinstance(found, TaskQueue):
        return found.put(**arguments).result()
    return found(**arguments)


def _print(result: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    elif result is not None:
        click.echo(result if isinstance(result, str) else repr(result))
    sys.stdout.flush()
