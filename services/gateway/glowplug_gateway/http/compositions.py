"""Chains, groups and chords: tasks that are accepted together, some of which wait for others."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web
from glowplug_contracts.codec import UNREADABLE
from glowplug_contracts.errors import InvalidRequestError, PlatformError
from glowplug_contracts.messages.http import ComposeRequest

from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.composing import check_composition, records_of
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.intake import offered
from glowplug_gateway.ports import Platform
from glowplug_gateway.records import Records

_REQUEST: Final = msgspec.json.Decoder(ComposeRequest)


class CompositionRoutes:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        calls: Calls,
        records: Records,
        *,
        body_bytes_max: int,
    ) -> None:
        self._platform = platform
        self._catalog = catalog
        self._calls = calls
        self._records = records
        self._body_bytes_max = body_bytes_max

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/compositions",
                action="invocation.spawn",
                summary="Accept tasks that wait for each other (chains, groups, chords).",
                on_request=self.on_compose,
                traced=True,
                status=202,
            ),
        )

    async def on_compose(self, exchange: Exchange) -> web.StreamResponse:
        """Store those that wait first, so that nothing ends before it is known who waits for it.

        Sent again, the same composition is the same tasks; one that was never stored whole never begins.
        """
        try:
            asked = _REQUEST.decode(await body(exchange.request, self._body_bytes_max))
        except UNREADABLE as err:
            raise InvalidRequestError(
                "request.invalid", f"the body is no composition: {err}"
            ) from err
        check_composition(asked.tasks)
        deployments = {
            deployment_id: await self._catalog.to_call(exchange.workspace, deployment_id)
            for deployment_id in {task.deployment_id for task in asked.tasks}
        }
        records = records_of(
            asked.tasks, deployments, exchange.parent, exchange.trace, self._platform.clock.unix()
        )
        for task, record in zip(asked.tasks, records, strict=True):
            deployment = deployments[task.deployment_id]
            self._calls.admit(offered(self._platform, deployment, record.invocation_id))
        for some in ([r for r in records if r.after], [r for r in records if not r.after]):
            for accepted in await self._records.accept_many(some) if some else ():
                if isinstance(accepted, PlatformError):
                    raise accepted
        return answers.json({"task_ids": [record.invocation_id for record in records]}, status=202)
