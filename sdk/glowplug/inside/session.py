"""What one container's process shares: its door, and the deployments its code calls.

A function of the same program that runs without being deployed is deployed likewise, from the source this
container was started from; everything else is found by its name.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from glowplug.errors import NotFoundError, NotYetSupportedError
from glowplug.inside.http import DoorHttp, open_door


@dataclass(frozen=True)
class Found:
    """A deployment; what `glowplug.client.deploying.Deployed` is outside."""

    deployment_id: str
    name: str
    version: int
    url: str
    python_there: str
    raw: dict[str, Any] = field(default_factory=dict)


class InsideSession:
    """See the module. Everything runs in the background loop."""

    def __init__(self, deployment_id: str) -> None:
        self.http = DoorHttp()
        self._deployment_id = deployment_id
        self._own: dict[str, Any] | None = None
        self._finding = asyncio.Lock()

    async def reach(self) -> DoorHttp:
        """Return the way to the platform."""
        return self.http

    async def deployment_of(self, wrapper: Any) -> Found:
        """Return what this function was deployed as. Raises: NotFoundError with what to do."""
        found: Found | None = wrapper.deployed_in(self)
        if found is not None:
            return found
        async with self._finding:
            found = wrapper.deployed_in(self)
            if found is None:
                found = await self._find(wrapper)
                wrapper.set_deployed(self, found)
        return found

    async def deploy(self, wrapper: Any, **_: object) -> Found:
        """Refuse: code is deployed from outside."""
        raise NotYetSupportedError(
            f"{wrapper.name}.deploy() inside a container is not yet supported; deploy it from outside"
        )

    async def _find(self, wrapper: Any) -> Found:
        own = await self._own_deployment()
        if own.get("ephemeral"):
            from glowplug.inside.siblings import deploy_sibling  # noqa: PLC0415 - only where needed

            return found_in(await deploy_sibling(self.http, own, wrapper))
        try:
            raw = await self.http.request_json("GET", f"/api/v1/deployments/{wrapper.name}")
        except NotFoundError as err:
            raise NotFoundError(
                f"{wrapper.name} is not deployed, and {own.get('name')} is: deploy {wrapper.name}, too "
                "(`glowplug deploy`), and call it again"
            ) from err
        return found_in(raw)

    async def _own_deployment(self) -> dict[str, Any]:
        if self._own is None:
            path = f"/api/v1/deployments/{self._deployment_id}"
            self._own = await self.http.request_json("GET", path)
        return self._own


def found_in(raw: dict[str, Any]) -> Found:
    """Return the deployment in an answer."""
    there = str(raw.get("base_python") or "")
    return Found(
        deployment_id=str(raw["deployment_id"]),
        name=str(raw.get("name", "")),
        version=int(raw.get("version") or 0),
        url="",
        python_there=".".join(there.split(".")[:2]),
        raw=raw,
    )


_session: list[InsideSession] = []


def inside_session() -> InsideSession:
    """Return this process's session.

    Raises: NotYetSupportedError where the process has no door.
    """
    door = open_door()
    if not _session:
        _session.append(InsideSession(door.deployment_id))
    return _session[0]
