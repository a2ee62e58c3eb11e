"""Containers: those that live, and what became of those that ended."""

from __future__ import annotations

import base64
import binascii

from aiohttp import web
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import check_id

from glowplug_gateway.catalog import Catalog
from glowplug_gateway.containerlist import STATES, ContainerRow, ContainersWanted
from glowplug_gateway.http import answers
from glowplug_gateway.http.filters import UNIX_MAX, deployments_of, limit_of
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.live import Live
from glowplug_gateway.readmodel import ReadModel

CURSOR_CHARS_MAX = 200


class ContainerRoutes:
    """See the module."""

    def __init__(self, catalog: Catalog, live: Live, readmodel: ReadModel) -> None:
        self._catalog = catalog
        self._live = live
        self._readmodel = readmodel

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/containers",
                action="container.list",
                summary="List live containers; with all=1 also ended ones, the newest word first.",
                on_request=self.on_containers,
            ),
        )

    async def on_containers(self, exchange: Exchange) -> web.StreamResponse:
        """List containers."""
        reference = exchange.request.query.get("deployment", "")
        deployments = deployments_of(exchange, self._catalog, reference)
        if exchange.flag("all"):
            return await self._all(exchange, deployments, known=bool(deployments or not reference))
        found = self._live.containers(exchange.workspace)
        wanted = [one for one in found if not reference or one.deployment_id in deployments]
        return answers.json({"containers": wanted})

    async def _all(
        self, exchange: Exchange, deployments: tuple[str, ...], *, known: bool
    ) -> web.StreamResponse:
        limit = limit_of(exchange)
        states = tuple(exchange.request.query.getall("state", ()))
        if not STATES.issuperset(states):
            raise InvalidRequestError(
                "request.invalid", f"a container's state is one of {', '.join(sorted(STATES))}"
            )
        wanted = ContainersWanted(
            deployments=deployments,
            states=states,
            since=exchange.number("since", 0, 0, UNIX_MAX),
            before=_before(exchange.request.query.get("cursor", "")),
            limit=limit,
        )
        rows = await self._readmodel.containers(exchange.workspace, wanted) if known else []
        names: dict[str, str] = {
            one.deployment_id: one.spec.name
            for one in self._catalog.deployments(exchange.workspace)
        }
        return answers.json(
            {
                "containers": [_value(row, names.get(row.deployment_id, "")) for row in rows],
                "cursor": _cursor(rows[-1]) if len(rows) == limit else None,
            }
        )


def _value(row: ContainerRow, name: str) -> dict[str, object]:
    value = {field: getattr(row, field) for field in row.__struct_fields__}
    del value["sequence"], value["workspace"]
    return value | {"name": name}


def _cursor(row: ContainerRow) -> str:
    return base64.urlsafe_b64encode(f"{row.at!r} {row.container_id}".encode()).decode()


def _before(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        at, _, container = base64.urlsafe_b64decode(text[:CURSOR_CHARS_MAX]).decode().partition(" ")
        return float(at), check_id("container", container)
    except (ValueError, binascii.Error, InvalidRequestError):
        raise InvalidRequestError(
            "request.invalid", "cursor must be what an earlier page said"
        ) from None
