"""The HTTP port that a service may have, and the token that services show each other."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator

from aiohttp import web
from glowplug_contracts.errors import PlatformError, UnauthenticatedError

from glowplug_runtime.failures import PortTakenError

SHUTDOWN_S = 2.0


@contextlib.asynccontextmanager
async def open_http(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app`; yield the bound port (chosen by the system for 0)."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=75,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=1024, reuse_address=True)
    try:
        await site.start()
    except OSError as err:
        await runner.cleanup()
        raise PortTakenError(f"can't listen on {host}:{port}: {err.strerror or err}") from err
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def check_internal(request: web.BaseRequest, token: str) -> None:
    """Let only the platform's own services pass. Raises: UnauthenticatedError."""
    shown = request.headers.get("Authorization", "")
    if not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
        raise UnauthenticatedError("auth.bad_token", "this port is for the platform's own services")


def error_response(error: PlatformError) -> web.Response:
    """Return the error as every HTTP door of the platform writes it."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    body = {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "retry_after_s": error.retry_after_s,
    }
    return web.json_response({"error": body}, status=error.http_status, headers=headers)
