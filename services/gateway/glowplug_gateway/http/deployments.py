"""Deploy, list, show and delete versions."""

from __future__ import annotations

from aiohttp import web
from glowplug_contracts.errors import ForbiddenError
from glowplug_contracts.messages.container import ContainerState
from glowplug_contracts.messages.deployment import Deployment, DeploymentSpec, FunctionKind

from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.containerlist import ContainersWanted
from glowplug_gateway.deployments import Deployer, read_spec
from glowplug_gateway.http import answers
from glowplug_gateway.http.arguments import body
from glowplug_gateway.http.route import Exchange, Route
from glowplug_gateway.live import Live
from glowplug_gateway.readmodel import ReadModel

SPEC_BYTES_MAX = 2 * 1024 * 1024


class DeploymentRoutes:
    """See the module."""

    def __init__(
        self,
        catalog: Catalog,
        deployer: Deployer,
        calls: Calls,
        live: Live,
        readmodel: ReadModel,
    ) -> None:
        self._catalog = catalog
        self._deployer = deployer
        self._calls = calls
        self._live = live
        self._readmodel = readmodel

    def routes(self) -> tuple[Route, ...]:
        """Return this area's routes."""
        return (
            Route(
                method="POST",
                path="/api/v1/deployments",
                action="deployment.create",
                summary="Deploy a version; lines tell of its image, the last one of the deployment.",
                on_request=self.on_deploy,
                answers=answers.NDJSON_TYPE,
                traced=True,
            ),
            Route(
                method="GET",
                path="/api/v1/deployments",
                action="deployment.list",
                summary="List deployments: the latest versions, or all; by app and name.",
                on_request=self.on_list,
            ),
            Route(
                method="GET",
                path="/api/v1/deployments/{deployment}",
                action="deployment.show",
                summary="Show a deployment by id or name, and what is going on with it.",
                on_request=self.on_show,
            ),
            Route(
                method="DELETE",
                path="/api/v1/deployments/{deployment}",
                action="deployment.delete",
                summary="Delete a version by id, or a name with all its versions.",
                on_request=self.on_delete,
            ),
        )

    async def on_deploy(self, exchange: Exchange) -> web.StreamResponse:
        """Deploy."""
        ephemeral = exchange.flag("ephemeral")
        spec = read_spec(await body(exchange.request, SPEC_BYTES_MAX))
        workspace = exchange.workspace
        if exchange.inside is not None:
            asker = await self._catalog.by_id(workspace, exchange.inside.deployment_id)
            check_sibling(asker, spec, ephemeral=ephemeral)
        await self._deployer.prepare(workspace, spec)
        async with answers.lines(exchange) as stream:
            if ephemeral:
                known = await self._deployer.known_ephemeral(workspace, spec)
                if known is not None:
                    await stream.line(_deployed(exchange, known))
                    return await stream.end()
            await self._deployer.keep_source(exchange.workspace, spec)
            async for one in self._deployer.deploy(workspace, spec, ephemeral=ephemeral):
                if isinstance(one, Deployment):
                    await stream.line(_deployed(exchange, one))
                else:
                    await stream.line(answers.image_event(one))
        return await stream.end()

    async def on_list(self, exchange: Exchange) -> web.StreamResponse:
        """List."""
        query = exchange.request.query
        app, name, everything = query.get("app"), query.get("name"), exchange.flag("all")
        found = [
            self._shown(exchange, one)
            for one in self._catalog.deployments(exchange.workspace)
            if (app is None or one.spec.app == app)
            and (name is None or one.spec.name == name)
            and (everything or one.latest)
            and (everything or not one.ephemeral)
        ]
        return answers.json({"deployments": found})

    async def on_show(self, exchange: Exchange) -> web.StreamResponse:
        """Show one."""
        found = await self._catalog.find(exchange.workspace, exchange.path["deployment"])
        return answers.json(
            self._shown(exchange, found) | {"last_failure": await self._last_failure(found)}
        )

    async def _last_failure(self, deployment: Deployment) -> dict[str, object] | None:
        """Return how the last of its containers that failed ended."""
        wanted = ContainersWanted(
            deployments=(deployment.deployment_id,), states=(ContainerState.FAILED.value,), limit=1
        )
        for row in await self._readmodel.containers(deployment.workspace, wanted):
            return {
                "container_id": row.container_id,
                "at": row.at,
                "reason": row.reason,
                "code": row.code,
                "message": row.message,
            }
        return None

    async def on_delete(self, exchange: Exchange) -> web.StreamResponse:
        """Delete."""
        gone = await self._deployer.delete(exchange.workspace, exchange.path["deployment"])
        return answers.json({"deleted": gone})

    def _shown(self, exchange: Exchange, deployment: Deployment) -> dict[str, object]:
        backlog = self._calls.backlogs.get(deployment.deployment_id)
        containers = [
            one
            for one in self._live.containers(exchange.workspace)
            if one.deployment_id == deployment.deployment_id
        ]
        return deployment_value(deployment) | {
            "url": deployment_url(exchange, deployment),
            "target": self._live.target(deployment.deployment_id),
            "scaled_because": self._live.why(deployment.deployment_id),
            "failing": self._live.failing(deployment.deployment_id),
            "queued": backlog.queued if backlog else 0,
            "in_flight": backlog.in_flight if backlog else 0,
            "containers": containers,
            "starts": self._live.ways_to_start(deployment.deployment_id),
        }


def check_sibling(asker: Deployment, spec: DeploymentSpec, *, ephemeral: bool) -> None:
    """Refuse what code inside a container may not deploy: anything but its own source, for itself.

    Raises: ForbiddenError.
    """
    source, own = spec.source, asker.spec.source
    if not (ephemeral and asker.ephemeral):
        raise ForbiddenError(
            "auth.forbidden",
            f"code inside a container does not deploy; deploy {spec.name} from outside, by its name",
        )
    by_value = source.pickled or source.on_start_pickled or source.on_exit_pickled
    if source.blob is None or source.blob != own.blob or by_value:
        raise ForbiddenError(
            "auth.forbidden",
            f"{spec.name} is not of the source that {asker.spec.name} was started from",
        )

    mounted = {one.name for one in spec.volumes} - {one.name for one in asker.spec.volumes}
    if mounted:
        raise ForbiddenError(
            "auth.forbidden",
            f"{spec.name} has volumes that {asker.spec.name} has not: {', '.join(sorted(mounted))}",
        )
    unheld = {one.name for one in spec.models} - {one.name for one in asker.spec.models}
    if unheld:
        raise ForbiddenError(
            "auth.forbidden",
            f"{spec.name} has models that {asker.spec.name} has not: {', '.join(sorted(unheld))}",
        )
    unnamed = {one.name for one in spec.secrets} - {one.name for one in asker.spec.secrets}
    if unnamed:
        raise ForbiddenError(
            "auth.forbidden",
            f"{spec.name} has secrets that {asker.spec.name} has not: {', '.join(sorted(unnamed))}",
        )


def deployment_value(deployment: Deployment) -> dict[str, object]:
    """Return a deployment with every field written out, and the spec's most asked-for ones on top."""
    return {
        "deployment_id": deployment.deployment_id,
        "workspace": deployment.workspace,
        "name": deployment.spec.name,
        "app": deployment.spec.app,
        "kind": deployment.spec.kind,
        "version": deployment.version,
        "latest": deployment.latest,
        "ephemeral": deployment.ephemeral,
        "state": deployment.state,
        "image_digest": deployment.image_digest,
        "base_python": deployment.base_python,
        "created_at": deployment.created_at,
        "spec": deployment.spec,
    }


def deployment_url(exchange: Exchange, deployment: Deployment) -> str:
    """Return where this version is called over HTTP, as the asker reaches this gateway."""
    origin = exchange.origin
    if deployment.ephemeral:
        return f"{origin}/api/v1/deployments/{deployment.deployment_id}/call"
    if deployment.spec.kind is FunctionKind.ON_EVENT:
        return f"{origin}/events"
    door = {
        FunctionKind.ENDPOINT: "endpoint",
        FunctionKind.FUNCTION: "function",
        FunctionKind.TASK_QUEUE: "taskqueue",
        FunctionKind.SCHEDULE: "schedule",
    }[deployment.spec.kind]
    return f"{origin}/{door}/{deployment.spec.name}"


def _deployed(exchange: Exchange, deployment: Deployment) -> dict[str, object]:
    return {
        "event": "deployed",
        "deployment": deployment_value(deployment),
        "url": deployment_url(exchange, deployment),
    }
