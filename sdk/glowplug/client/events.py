"""Sending events to the gateway, listing, following and replaying what it keeps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from glowplug_contracts.ids import ENTROPY_BYTES, make_id

from glowplug.client.http import BrokenAnswerError, Http, json_lines
from glowplug.client.loop import background
from glowplug.client.session import current_session
from glowplug.errors import NotYetSupportedError, error_for
from glowplug.events import Event
from glowplug.remote import is_remote

STRUCTURED_TYPE = "application/cloudevents+json"
REPLAY = "/api/v1/events/replay"


def new_event_id() -> str:
    """Return an id for an event that its sender did not name."""
    return make_id("event", time.time_ns() // 1_000_000, os.urandom(ENTROPY_BYTES))


def send_blocking(event: Event) -> str:
    """Send an event; return the platform's id of it.

    Raises: NotYetSupportedError inside a container.
    """
    if is_remote():
        raise NotYetSupportedError(
            "send_event() inside a container is not yet supported; return what happened, and let the "
            "deployment's callback_url tell of it"
        )
    return background().run(send(event))


async def send(event: Event) -> str:
    """Send an event. A request that is sent again is the same event."""
    http = await current_session().reach()
    try:
        body = json.dumps(event.to_json(), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"the event's data is neither JSON nor bytes: {error}") from error
    answer = await http.request(
        "POST", "/events", body=body, headers={"Content-Type": STRUCTURED_TYPE}
    )
    return str(answer.json()["id"])


async def follow(
    http: Http, params: Mapping[str, str], take: Callable[[dict[str, Any]], None]
) -> None:
    """Hand on events as they are stored, for ever; after a lost connection from where it was."""
    asked = {**params, "follow": "1"}

    async def once(url: str) -> None:
        async with http.open_stream(url, "GET", "/api/v1/events", params=asked) as response:
            async for line in json_lines(response):
                asked["cursor"] = str(line["cursor"])
                asked.pop("since", None)
                take(line)
        raise BrokenAnswerError("the gateway ended the stream")

    await http.retrying(once)


async def replay(
    http: Http, asked: dict[str, Any], take: Callable[[dict[str, Any]], None]
) -> dict[str, int]:
    """Have kept events delivered again; hand on each delivery, and return the counts.

    Sent again after a lost connection: what the replay has made it does not make twice.
    """
    counts = {"events": 0, "created": 0, "repeated": 0}
    while True:
        done = await http.retrying(partial(_replay_once, http, asked, take))
        for name in counts:
            counts[name] += int(done[name])
        if not done["cursor"]:
            return counts
        asked = {**asked, "cursor": done["cursor"]}


async def _replay_once(
    http: Http, asked: dict[str, Any], take: Callable[[dict[str, Any]], None], url: str
) -> dict[str, Any]:
    body = json.dumps(asked).encode()
    async with http.open_stream(url, "POST", REPLAY, body=body) as response:
        async for line in json_lines(response):
            if line["event"] == "error":
                raise error_for(line["error"]["code"], line["error"]["message"])
            if line["event"] == "done":
                return line
            take(line)
    raise BrokenAnswerError("the gateway ended the replay")
