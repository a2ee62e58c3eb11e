"""`glowplug call NAME`: a deployed function, with JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from glowplug_contracts.messages.invocation import Format, RemoteError, State

from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option, print_json
from glowplug.client import calls
from glowplug.client.http import Http
from glowplug.client.loop import background
from glowplug.client.outcomes import Ended, typed_error
from glowplug.errors import GlowplugError, NotFoundError, error_for


@click.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data", default="", help="The arguments as a JSON object; @FILE reads one, - stdin."
)
@json_option
@click.pass_context
def call(
    ctx: click.Context, name: str, pairs: tuple[str, ...], data: str, *, as_json: bool
) -> None:
    """Call a deployed function by NAME, NAME@v3 or deployment id, and print its result.

    A value that is JSON is taken as JSON, anything else as text. A task queue answers with the task's id.
    """
    arguments = _arguments(pairs, data)
    session = open_session(ctx)
    body = json.dumps({"args": [], "kwargs": arguments}).encode()

    async def send() -> None:
        http = await session.reach()
        found = await find_deployment(http, name)
        deployment_id = found["deployment_id"]
        if found.get("kind") == "task_queue":
            task_id = await _put(http, deployment_id, body)
            _print({"task_id": task_id} if as_json else task_id, as_json=as_json)
        elif (found.get("spec") or {}).get("is_generator"):
            await _stream(http, deployment_id, body, as_json=as_json)
        else:
            ended = await calls.call(http, deployment_id, body, form=Format.JSON.value)
            _print(_value(ended), as_json=as_json)

    background().run(send())


async def find_deployment(http: Http, name: str) -> dict[str, Any]:
    """Return the deployment that NAME, NAME@v3 or an id means.

    Raises: NotFoundError.
    """
    plain, _, version = name.partition("@v")
    if not version:
        found: dict[str, Any] = await http.request_json("GET", f"/api/v1/deployments/{name}")
        return found
    listed = await http.request_json(
        "GET", "/api/v1/deployments", params={"name": plain, "all": "1"}
    )
    for one in listed["deployments"]:
        if (one.get("name"), str(one.get("version"))) == (plain, version):
            return dict(one)
    raise NotFoundError(f"there is no version {version} of {plain!r}")


def _arguments(pairs: tuple[str, ...], data: str) -> dict[str, Any]:
    text = data
    if data == "-":
        text = sys.stdin.read()
    elif data.startswith("@"):
        text = Path(data[1:]).read_text("utf-8")
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as err:
        raise click.UsageError(f"--data is no JSON: {err}") from err
    if not isinstance(arguments, dict):
        raise click.UsageError("--data must be a JSON object: its members are the arguments")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{pair!r}: write KEY=VALUE")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


async def _put(http: Http, deployment_id: str, body: bytes) -> str:
    return await calls.spawn(
        http, deployment_id, body, wait_when_full=False, form=Format.JSON.value
    )


async def _stream(http: Http, deployment_id: str, body: bytes, *, as_json: bool) -> None:
    async for item in calls.stream(http, deployment_id, body, form=Format.JSON.value):
        if isinstance(item, RemoteError):
            raise typed_error(item)
        _print(json.loads(await calls.payload_bytes(http, item)), as_json=as_json)


def _value(ended: Ended) -> Any:
    if ended.state == State.SUCCEEDED:
        return json.loads(ended.data)
    raise failure_of(ended)


def failure_of(ended: Ended) -> GlowplugError:
    """Return the exception for a call that failed, without unpickling anything."""
    if ended.error is None:
        return error_for("function.failed", f"the call ended as {ended.state}")
    return typed_error(ended.error)


def _print(value: Any, *, as_json: bool) -> None:
    if as_json or not isinstance(value, str):
        print_json(value)
    else:
        click.echo(value)
