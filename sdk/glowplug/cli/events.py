"""`glowplug event …`: send events, watch them, have them delivered again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from glowplug.cli.platform import open_session
from glowplug.cli.show import json_option, print_json
from glowplug.cli.since import Since
from glowplug.cli.terminal import one_line
from glowplug.client.loop import background

SHOWN_CHARS_MAX = 120


@click.group()
def event() -> None:
    """Send events, watch them, and have them delivered again."""


@event.command()
@click.argument("type_", metavar="TYPE")
@click.option("--source", default="/cli", show_default=True, help="Who says so; a URI reference.")
@click.option("--subject", default="", help="What it is about.")
@click.option(
    "--id", "id_", default="", help="With the source it names the event; default: a new one."
)
@click.option("--data", default=None, help="JSON; text that is no JSON goes as text.")
@click.option(
    "--file", "file", type=click.Path(dir_okay=False, allow_dash=True), help="Data; - reads stdin."
)
@click.option(
    "--ext", "extensions", multiple=True, metavar="NAME=VALUE", help="A further attribute."
)
@json_option
@click.pass_context
def send(
    ctx: click.Context,
    type_: str,
    source: str,
    subject: str,
    id_: str,
    data: str | None,
    file: str | None,
    extensions: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Send an event; print its id once it is stored for good."""
    from glowplug.events import send_event  # noqa: PLC0415 - the command is called send

    if data is not None and file is not None:
        raise click.UsageError("give --data or --file, not both")
    more = {}
    for one in extensions:
        name, equals, value = one.partition("=")
        if not equals:
            raise click.UsageError(f"--ext {one!r}: give NAME=VALUE")
        more[name] = value
    open_session(ctx)
    found = send_event(type_, _data(data, file), source=source, subject=subject, id=id_, **more)
    if as_json:
        print_json({"id": found})
    else:
        click.echo(found)


def _data(text: str | None, file: str | None) -> Any:
    if file is None:
        raw = b"" if text is None else text.encode()
    elif file == "-":
        raw = sys.stdin.buffer.read()
    else:
        raw = Path(file).read_bytes()
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        pass
    try:
        return raw.decode()
    except UnicodeError:
        return raw


@event.command()
@click.option("--type", "type_", default="", help="Only types that this glob matches.")
@click.option("--source", default="", help="Only sources that this glob matches.")
@click.option("--subject", default="", help="Only subjects that this glob matches.")
@click.option("--since", type=Since(), default=None, help="From a time on: 15m, 2h, or a date.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--no-follow", is_flag=True, help="Only what is there.")
@json_option
@click.pass_context
def tail(
    ctx: click.Context,
    type_: str,
    source: str,
    subject: str,
    since: float | None,
    limit: int,
    *,
    no_follow: bool,
    as_json: bool,
) -> None:
    """Show the newest events, and those that come."""
    from glowplug.client.events import follow  # noqa: PLC0415 - with the network

    session = open_session(ctx)
    given = {"type": type_, "source": source, "subject": subject, "limit": str(limit)}
    if since is not None:
        given["since"] = str(since)
    params = {name: value for name, value in given.items() if value}

    async def read() -> None:
        http = await session.reach()
        found = await http.request_json("GET", "/api/v1/events", params=params)
        for one in found["events"]:
            _print(one, as_json=as_json)
        if not no_follow:
            later = {**params, "cursor": found["cursor"]}
            later.pop("since", None)
            await follow(http, later, lambda line: _print(line, as_json=as_json))

    background().run(read())


@event.command()
@click.option(
    "--since", type=Since(), required=True, help="From a time on: 15m, 2h, 3d, or a date."
)
@click.option("--until", type=Since(), default=None, help="Up to a time; default: now.")
@click.option("--trigger", default="", help="Only to this function; default: to all that want it.")
@click.option("--type", "type_", default="", help="Only types that this glob matches.")
@click.option("--source", default="", help="Only sources that this glob matches.")
@click.option("--subject", default="", help="Only subjects that this glob matches.")
@click.option(
    "--id",
    "replay_id",
    default="replay",
    show_default=True,
    help="Names the replay: under one name an event is delivered again once to each function.",
)
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    since: float,
    until: float | None,
    trigger: str,
    type_: str,
    source: str,
    subject: str,
    replay_id: str,
    *,
    as_json: bool,
) -> None:
    """Deliver kept events again. The same command again delivers nothing twice."""
    from glowplug.client import events  # noqa: PLC0415 - with the network

    session = open_session(ctx)
    asked: dict[str, Any] = {
        "since": since,
        "until": time.time() if until is None else until,
        "trigger": trigger,
        "type": type_,
        "source": source,
        "subject": subject,
        "id": replay_id,
    }

    def show(line: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(line))
        elif not line["repeated"]:
            kind, event_id = one_line(line["type"]), one_line(line["id"])
            click.echo(f"{line['trigger']:<24} {kind}  {event_id}  {line['task_id']}")

    async def run() -> dict[str, int]:
        return await events.replay(await session.reach(), asked, show)

    counts = background().run(run())
    if as_json:
        click.echo(json.dumps({"event": "done", "id": replay_id, **counts}))
        return
    click.echo(f"{counts['created']} delivered again")
    if counts["repeated"]:
        click.echo(
            f"{counts['repeated']} had been, by the replay {replay_id!r}; --id with another name "
            "delivers them once more"
        )


def _print(line: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(line))
        return
    found = line["event"]
    at = time.strftime("%H:%M:%S", time.localtime(line.get("accepted_at", 0)))
    data = found.get("data", found.get("data_base64", ""))
    text = data if isinstance(data, str) else json.dumps(data)
    if len(text) > SHOWN_CHARS_MAX:
        text = text[:SHOWN_CHARS_MAX] + "…"
    about = f"  {one_line(found['subject'])}" if found.get("subject") else ""
    kind, source = one_line(found["type"]), one_line(found["source"])
    head = click.style(f"{at} {line['event_id']} ", dim=True)
    click.echo(f"{head}{click.style(kind, bold=True)}  {source}{about}  {one_line(text)}")
