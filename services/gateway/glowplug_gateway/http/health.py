"""What lives: health of every part, services, and who the caller is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web
from glowplug_contracts.messages.worker import SILENT_STREAMS, ServiceBeat

from glowplug_gateway.http import answers
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.ports import Platform

PARTS = ("gateway", "scheduler", "autoscaler", "worker", "imagecache", "sandbox")

_UNAVAILABLE = 503
SILENT = (
    "writes to {} are left unanswered: a broker that could not write to its disk takes none until it is "
    "restarted; make room, then restart it (nothing acknowledged is lost)"
)


class HealthRoutes:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        services: Callable[[], Sequence[ServiceBeat]],
        version: str,
    ) -> None:
        self._platform = platform
        self._services = services
        self._version = version

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="GET",
                path="/health",
                action="platform.health",
                summary="Say whether every part is ready; 503 if one is not.",
                on_request=self.on_health,
                access="open",
            ),
            Route(
                method="GET",
                path="/api/v1/health",
                action="platform.health",
                summary="Say whether every part is ready; 503 if one is not.",
                on_request=self.on_health,
                access="open",
            ),
            Route(
                method="GET",
                path="/api/v1/services",
                action="platform.show",
                summary="List the platform's live processes.",
                on_request=self.on_services,
            ),
            Route(
                method="GET",
                path="/api/v1/whoami",
                action="token.show",
                summary="Say whom the token stands for.",
                on_request=self.on_whoami,
            ),
        )

    async def on_health(self, _exchange: Exchange) -> web.StreamResponse:
        """Say how every part is."""
        value = health_value(
            self._services(), connected=self._platform.bus.connected, version=self._version
        )
        return answers.json(value, status=200 if value["status"] == "ok" else _UNAVAILABLE)

    async def on_services(self, _exchange: Exchange) -> web.StreamResponse:
        """List services."""
        return answers.json({"services": [_every_field(one) for one in self._services()]})

    async def on_whoami(self, exchange: Exchange) -> web.StreamResponse:
        """Show the principal."""
        name = exchange.caller.name if exchange.caller else ""
        return answers.json({"workspace": exchange.workspace, "name": name})


def health_value(
    services: Sequence[ServiceBeat], *, connected: bool, version: str
) -> dict[str, object]:
    """Return the health of every part: "ok" only if each has a ready instance, and the broker takes writes."""
    silent = _silent_streams(services)
    fine = connected and not silent
    broker: dict[str, object] = {"ready": fine, "instances": []}
    if silent:
        broker |= {"silent_streams": silent, "reason": SILENT.format(", ".join(silent))}
    parts: dict[str, object] = {"broker": broker}
    for part in PARTS:
        beats = [beat for beat in services if beat.service == part]
        ok = any(beat.ready for beat in beats)
        fine = fine and ok
        parts[part] = {
            "ready": ok,
            "instances": [
                {
                    "instance": beat.instance,
                    "ready": beat.ready,
                    "version": beat.version,
                    "notes": beat.notes,
                    "leading": beat.leading,
                }
                for beat in beats
            ],
        }
    return {"status": "ok" if fine else "degraded", "version": version, "parts": parts}


def _silent_streams(services: Sequence[ServiceBeat]) -> list[str]:
    """Return the streams that leave somebody's writes unanswered."""
    told = (beat.notes.get(SILENT_STREAMS, "") for beat in services)
    return sorted({name for names in told for name in names.split(",") if name})


def _every_field(beat: ServiceBeat) -> dict[str, object]:
    return {name: getattr(beat, name) for name in beat.__struct_fields__}
