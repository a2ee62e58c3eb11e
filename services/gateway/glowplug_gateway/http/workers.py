"""Workers, for looking at and for taking out of service.

Workers are the platform's, not a workspace's: any caller may look, and only tokens of the platform's own
workspace give orders.
"""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
)
from glowplug_contracts.ids import DEFAULT_WORKSPACE, WorkerId
from glowplug_contracts.messages.worker import WorkerBeat, WorkerOrder, WorkerOrdered
from glowplug_contracts.subjects import WORKER_ORDER

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.live import Live
from glowplug_gateway.ports import Platform

ORDER_TIMEOUT_S = 5.0
DRAIN_GRACE_S = 60.0
DRAIN_GRACE_S_MAX = 86_400.0


class WorkerRoutes:
    """See the module."""

    def __init__(self, platform: Platform, live: Live) -> None:
        self._platform = platform
        self._live = live

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/api/v1/workers",
                action="platform.show",
                summary="List live workers, what they offer and what they hold.",
                on_request=self.on_workers,
            ),
            Route(
                method="GET",
                path="/api/v1/workers/{worker_id}",
                action="platform.show",
                summary="Show a live worker, with your containers on it.",
                on_request=self.on_worker,
            ),
            Route(
                method="POST",
                path="/api/v1/workers/{worker_id}/{order}",
                action="worker.order",
                summary="Take a worker out of service (cordon; drain?grace_s=) or back (uncordon).",
                on_request=self.on_order,
            ),
        )

    async def on_workers(self, exchange: Exchange) -> web.StreamResponse:
        """List workers."""
        shown = [_value(one, exchange.workspace) for one in self._live.workers()]
        return answers.json({"workers": shown})

    async def on_worker(self, exchange: Exchange) -> web.StreamResponse:
        """Show one."""
        beat = self._worker(exchange.path["worker_id"])
        yours = [one for one in beat.containers if one.workspace == exchange.workspace]
        return answers.json(_value(beat, exchange.workspace) | {"yours": yours})

    async def on_order(self, exchange: Exchange) -> web.StreamResponse:
        """Pass an order on to its worker."""
        if exchange.workspace != DEFAULT_WORKSPACE:
            raise ForbiddenError(
                "auth.forbidden",
                "workers belong to the platform: only its own workspace takes them out of service",
            )
        order = exchange.path["order"]
        if order not in {"cordon", "drain", "uncordon"}:
            raise InvalidRequestError(
                "request.invalid", "a worker can be told cordon, drain or uncordon"
            )
        worker_id = self._worker(exchange.path["worker_id"]).worker_id
        message = WorkerOrder(
            order=order,
            grace_s=exchange.number("grace_s", DRAIN_GRACE_S, 0, DRAIN_GRACE_S_MAX),
        )
        ordered = await self._platform.bus.request(
            WORKER_ORDER.at(worker_id=worker_id),
            message,
            WorkerOrdered,
            timeout_s=ORDER_TIMEOUT_S,
        )
        if ordered.why_not:
            raise ConflictError("worker.refused", ordered.why_not)
        return answers.json(
            {
                "worker_id": worker_id,
                "cordoned": ordered.cordoned,
                "containers": ordered.containers,
            }
        )

    def _worker(self, worker_id: str) -> WorkerBeat:
        for beat in self._live.workers():
            if beat.worker_id == WorkerId(worker_id):
                return beat
        raise NotFoundError(
            "worker.not_found",
            f"no worker {worker_id[:96]!r} is alive; `glowplug worker list` names those that are",
        )


def _value(beat: WorkerBeat, workspace: str) -> dict[str, object]:
    """Return what anybody may know of a worker, and the workspace's own templates on it."""
    held = [one.resources for one in beat.containers]
    names = set(beat.__struct_fields__) - {"templates", "plain_starts", "kept"}
    fields = {name: getattr(beat, name) for name in beat.__struct_fields__ if name in names}
    return fields | {
        "templates": [one for one in beat.kept if one.workspace == workspace],
        "templates_bytes": sum(one.memory_bytes for one in beat.kept),
        "containers": len(beat.containers),
        "cpu_millis_held": sum(one.cpu_millis for one in held),
        "memory_bytes_held": sum(one.memory_bytes for one in held),
    }
