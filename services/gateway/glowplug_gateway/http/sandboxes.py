"""Sandboxes over HTTP."""

from __future__ import annotations

import base64
from typing import TypeVar

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.container import ExecEvent
from glowplug_contracts.messages.sandbox import SandboxRecord, SandboxSpec

from glowplug_gateway.bounds import check_sandbox
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.inputs import invalid
from glowplug_gateway.mounts import check_mounts
from glowplug_gateway.reaching import check_network
from glowplug_gateway.sandboxes import ExecAsked, Sandboxes

T = TypeVar("T")

BYTES_MAX = 8 * 1024 * 1024
MODES = ("code", "command")


class SandboxRoutes:
    """See the module."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/sandboxes",
                action="sandbox.create",
                summary="Create a sandbox; lines tell of its image, the last one of the session.",
                on_request=self.on_create,
                answers=answers.NDJSON_TYPE,
                traced=True,
            ),
            Route(
                method="GET",
                path="/api/v1/sandboxes",
                action="sandbox.list",
                summary="List sandboxes.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/api/v1/sandboxes/{sandbox}",
                action="sandbox.show",
                summary="Show a sandbox.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/api/v1/sandboxes/{sandbox}",
                action="sandbox.terminate",
                summary="End a sandbox.",
                on_request=self.on_terminate,
            ),
            Route(
                method="POST",
                path="/api/v1/sandboxes/{sandbox}/exec",
                action="sandbox.exec",
                summary="Run code or a command in a sandbox; lines carry its output and its end.",
                on_request=self.on_exec,
                answers=answers.NDJSON_TYPE,
                traced=True,
            ),
        )

    async def on_create(self, exchange: Exchange) -> web.StreamResponse:
        """Create."""
        spec = _decoded(await body(exchange.request, BYTES_MAX), SandboxSpec)
        wrong = check_sandbox(spec) | check_network(spec.network)
        wrong |= check_mounts(spec.volumes, spec.models)
        if wrong:
            raise invalid(wrong)
        async with answers.lines(exchange) as stream:
            created = self._sandboxes.create(exchange.workspace, spec, exchange.trace)
            async for one in created:
                if isinstance(one, SandboxRecord):
                    await stream.line({"event": "created", "sandbox": sandbox_value(one)})
                else:
                    await stream.line(answers.image_event(one))
        return await stream.end()

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        found = await self._sandboxes.list(exchange.workspace)
        return answers.json({"sandboxes": [sandbox_value(one) for one in found]})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show."""
        record = await self._sandboxes.command(
            exchange.workspace, exchange.path["sandbox"], "status"
        )
        return answers.json(sandbox_value(record))

    async def on_terminate(self, exchange: Exchange) -> web.StreamResponse:
        """Terminate."""
        record = await self._sandboxes.command(
            exchange.workspace, exchange.path["sandbox"], "terminate"
        )
        return answers.json(sandbox_value(record))

    async def on_exec(self, exchange: Exchange) -> web.StreamResponse:
        """Run something."""
        asked = _decoded(await body(exchange.request, BYTES_MAX), ExecAsked)
        if asked.mode not in MODES:
            raise InvalidRequestError("request.invalid", f"mode must be {' or '.join(MODES)}")
        if asked.mode == "command" and not asked.argv:
            raise InvalidRequestError("request.invalid", "argv is missing")
        async with answers.lines(exchange) as stream:
            events = self._sandboxes.run(exchange.workspace, exchange.path["sandbox"], asked)
            async for event in events:
                await stream.line(_event_value(event))
        return await stream.end()


def sandbox_value(record: SandboxRecord) -> dict[str, object]:
    """Return a session with every field written out."""
    return {
        "sandbox_id": record.sandbox_id,
        "workspace": record.workspace,
        "state": record.state,
        "container_id": record.container_id,
        "worker_id": record.worker_id,
        "created_at": record.created_at,
        "used_at": record.used_at,
        "spec": record.spec,
        "error": record.error,
    }


def _event_value(event: ExecEvent) -> dict[str, object]:
    value: dict[str, object] = {"kind": event.kind}
    if event.data:
        try:
            value["text"] = event.data.decode()
        except UnicodeDecodeError:
            value["data"] = base64.b64encode(event.data).decode()
    elif event.kind != "ended":
        value["text"] = ""
    if event.kind == "ended":
        value["exit_code"] = event.exit_code
        value["error"] = event.error
    return value


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except UNREADABLE as err:
        raise InvalidRequestError(
            "request.invalid", str(err), details={"fields": {"": str(err)}}
        ) from err
