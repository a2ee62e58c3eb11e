"""Lists of tasks and dead letters, page by page, and one task's changes as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from glowplug.client.http import TRANSPORT_ERRORS, Http
from glowplug.client.loop import background
from glowplug.client.session import current_session
from glowplug.errors import UnavailableError

PAGE = 200
TASKS = "/api/v1/tasks"
LETTERS = "/api/v1/dead-letters"
NO_CONTENT = 204
AGAIN_S = 0.2
# A connection that was open and broke is made again for so long; what is not there at all is said sooner.
PATIENCE_S = 60.0


def query(**filters: object) -> dict[str, str]:
    """Return filters as a query; what is None or empty is left out, lists are joined by commas."""
    found: dict[str, str] = {}
    for name, value in filters.items():
        if isinstance(value, list | tuple | set | frozenset):
            value = ",".join(str(one) for one in value)  # noqa: PLW2901
        if value not in (None, ""):
            found[name] = str(value)
    return found


async def page_of(path: str, params: Mapping[str, str], method: str = "GET") -> dict[str, Any]:
    """Return one page of a list, or what was done to one page's letters."""
    http = await current_session().reach()
    found: dict[str, Any] = await http.request_json(method, path, params=params)
    return found


def rows_of(path: str, key: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a list's rows, newest first, asking for the next page when one is used up."""
    cursor: str | None = ""
    while cursor is not None:
        asked = {**params, "limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
        page = background().run(page_of(path, asked))
        yield from page[key]
        cursor = page["cursor"]


async def every_page(
    path: str, params: Mapping[str, str], method: str
) -> AsyncIterator[dict[str, Any]]:
    """Do something to all letters that fit; yield what was done, a page at a time."""
    cursor: str | None = ""
    while cursor is not None:
        asked = {**params, "limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
        page = await page_of(path, asked, method)
        yield page
        cursor = page["cursor"]


async def changes(task_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield how a task is, then every change until it has ended; a broken connection goes on.

    Raises: NotFoundError; UnavailableError when no gateway answers for PATIENCE_S.
    """
    http = await current_session().reach()
    clock = asyncio.get_running_loop().time
    seen, turn, heard_at = "", 0, clock()
    while True:
        url = http.profile.urls[turn % len(http.profile.urls)]
        try:
            async for event_id, value in _events(http, url, task_id, seen):
                if event_id is None:
                    return
                seen, heard_at = event_id, clock()
                yield value
                if value.get("ended_at"):
                    return
        except TRANSPORT_ERRORS as err:
            turn += 1
            if clock() - heard_at > PATIENCE_S:
                raise UnavailableError(
                    f"the changes of {task_id} can't be followed: {err}"
                ) from err
        await asyncio.sleep(AGAIN_S)


async def _events(
    http: Http, url: str, task_id: str, seen: str
) -> AsyncIterator[tuple[str | None, dict[str, Any]]]:
    headers = {"Last-Event-ID": seen} if seen else {}
    path = f"/tasks/{task_id}/subscribe"
    async with http.open_stream(url, "GET", path, headers=headers) as response:
        if response.status == NO_CONTENT:
            yield None, {}
            return
        found: dict[str, str] = {}
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                found[name] = value
            elif "data" in found:
                yield found.get("id", ""), json.loads(found["data"])
                found = {}
