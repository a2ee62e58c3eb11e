"""A command's hold on the platform: the session with the profile that was given, and plain requests."""

from __future__ import annotations

from typing import Any

import click

from glowplug.client.http import Http
from glowplug.client.loop import background
from glowplug.client.profile import is_quiet, load_profile
from glowplug.client.session import Session, use_session


def open_session(ctx: click.Context, *, may_start: bool = False) -> Session:
    """Make the program's session for the profile that the command line names."""
    profile = load_profile(ctx.find_root().obj or "")
    session = Session(profile, quiet=is_quiet(), may_start=may_start)
    use_session(session)
    return session


def ask(ctx: click.Context, method: str, path: str, value: Any = None, **options: Any) -> Any:
    """Send one request and return the answer's JSON."""
    session = open_session(ctx)

    async def send() -> Any:
        http: Http = await session.reach()
        return await http.request_json(method, path, value, **options)

    return background().run(send())
