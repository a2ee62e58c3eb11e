"""Following and replaying the events that the platform keeps: for the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from glowplug.client.answers import BrokenAnswerError, json_lines
from glowplug.client.http import Http
from glowplug.errors import error_for

REPLAY = "/api/v1/events/replay"


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
