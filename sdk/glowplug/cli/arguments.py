"""A function's parameters as command-line options: `--name Ada --count 3`, required ones by place too."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from typing import Any

import click


class JsonType(click.ParamType[Any]):
    """JSON where it is JSON, else the text itself."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        del param, ctx
        try:
            return json.loads(value)
        except (TypeError, ValueError):
            return value


def parse_arguments(function: Callable[..., Any], words: tuple[str, ...]) -> dict[str, Any]:
    """Return keyword arguments for a function from the words after it.

    Raises: click.UsageError naming what is missing or unknown.
    """
    parameters = [
        parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "context"
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    hints = _hints(function)
    options = [_option(one, hints.get(one.name, Any)) for one in parameters]
    places = click.Argument(["_places"], nargs=-1, type=click.UNPROCESSED)
    command = click.Command(
        getattr(function, "__name__", "function"), params=[*options, places], add_help_option=False
    )
    with command.make_context(command.name, list(words)) as ctx:
        return _placed(parameters, hints, ctx)


def _placed(
    parameters: list[inspect.Parameter], hints: dict[str, Any], ctx: click.Context
) -> dict[str, Any]:
    given = {
        one.name: ctx.params[one.name.lower()]
        for one in parameters
        if ctx.get_parameter_source(one.name.lower()) is click.core.ParameterSource.COMMANDLINE
    }
    free = [one for one in parameters if one.name not in given]
    places: tuple[str, ...] = ctx.params["_places"]
    if len(places) > len(free):
        raise click.UsageError(f"unexpected: {' '.join(places[len(free) :])}")
    for one, word in zip(free, places, strict=False):
        given[one.name] = _type(hints.get(one.name, Any)).convert(word, None, ctx)
    missing = [one.name for one in parameters if one.name not in given and one.default is one.empty]
    if missing:
        raise click.UsageError("missing: " + ", ".join(f"--{name}" for name in missing))
    return given


def _option(parameter: inspect.Parameter, hint: Any) -> click.Option:
    name = parameter.name.replace("_", "-")
    if hint is bool:
        return click.Option([parameter.name.lower(), f"--{name}/--no-{name}"], default=None)
    return click.Option([parameter.name.lower(), f"--{name}"], type=_type(hint), default=None)


def _type(hint: Any) -> click.ParamType[Any]:
    others = [one for one in typing.get_args(hint) if one is not type(None)]
    if len(others) == 1 and type(None) in typing.get_args(hint):
        hint = others[0]
    known: dict[Any, click.ParamType[Any]] = {
        int: click.INT,
        float: click.FLOAT,
        str: click.STRING,
        bool: click.BOOL,
    }
    return known.get(hint, JsonType())


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - a hint may name what only the image has
        return {}
