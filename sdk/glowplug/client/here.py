"""The way to the platform from where this code runs: over HTTP, or through the container's door.

The one place that knows of both; everything above asks `current_session()` and does not care.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from glowplug.remote import is_remote

if TYPE_CHECKING:
    from glowplug.client.http import Http
    from glowplug.client.session import Session


def current_session() -> Session:
    """Return the program's session, or the container's, which offers the same where it can.

    Raises: NotYetSupportedError where a container has no door, such as a sandbox.
    """
    if is_remote():
        from glowplug.inside.session import inside_session  # noqa: PLC0415 - one of the two is loaded

        return cast("Session", inside_session())
    from glowplug.client import session  # noqa: PLC0415

    return session.current_session()


async def reach() -> Http:
    """Return the connection to a platform that answers. Raises: UnavailableError."""
    return await current_session().reach()
