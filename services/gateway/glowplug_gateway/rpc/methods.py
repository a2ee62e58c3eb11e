"""What each method of the gRPC door does: the same core as HTTP, in protobuf's words."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from blake3 import blake3
from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import Digest, InvocationId, check_id
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import Format, Input, RemoteError, State, is_terminal
from glowplug_contracts.messages.record import InvocationRecord

from glowplug_gateway.blobs import Blobs
from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.deployments import Deployer, read_spec
from glowplug_gateway.http.tasks import task_value
from glowplug_gateway.intake import Intake
from glowplug_gateway.json_arguments import json_arguments
from glowplug_gateway.log_lines import LogQuery, log_lines
from glowplug_gateway.logs import Logs
from glowplug_gateway.ports import Platform
from glowplug_gateway.put_options import read_options
from glowplug_gateway.readmodel import ReadModel
from glowplug_gateway.records import Records
from glowplug_gateway.rpc.door import Asked, Methods
from glowplug_gateway.rpc.messages import pb
from glowplug_gateway.work import interactive, outcome_of

WAIT_S = 60.0
WAIT_MAX_S = 300.0
TAIL_DEFAULT = 1_000
TAIL_MAX = 100_000
DEPLOYMENTS_MAX = 100


class RpcMethods:
    """See the module."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the gateway
        self,
        platform: Platform,
        catalog: Catalog,
        deployer: Deployer,
        calls: Calls,
        intake: Intake,
        records: Records,
        blobs: Blobs,
        logs: Logs,
        readmodel: ReadModel,
    ) -> None:
        self._platform = platform
        self._catalog = catalog
        self._deployer = deployer
        self._calls = calls
        self._intake = intake
        self._records = records
        self._blobs = blobs
        self._logs = logs
        self._readmodel = readmodel

    def methods(self) -> Methods:
        """Return all of them."""
        return Methods(
            answers={
                "ListDeployments": self.on_list_deployments,
                "GetDeployment": self.on_get_deployment,
                "Invoke": self.on_invoke,
                "Put": self.on_put,
                "GetTask": self.on_get_task,
                "WaitTask": self.on_wait_task,
                "CancelTask": self.on_cancel_task,
            },
            streams={
                "Deploy": self.on_deploy,
                "InvokeStream": self.on_invoke_stream,
                "StreamLogs": self.on_stream_logs,
            },
        )

    # -- deployments ----------------------------------------------------------------------------

    async def on_deploy(self, asked: Asked, request: Any) -> AsyncIterator[Any]:
        """Deploy a version."""
        spec = read_spec(request.spec_json)
        if request.source_zip:
            digest = Digest(blake3(request.source_zip).hexdigest())
            await self._blobs.of(asked.workspace).put(digest, io.BytesIO(request.source_zip))
            source = msgspec.structs.replace(spec.source, blob=digest)
            spec = msgspec.structs.replace(spec, source=source)
        await self._deployer.prepare(asked.workspace, spec)
        await self._deployer.keep_source(asked.workspace, spec)
        async for one in self._deployer.deploy(asked.workspace, spec, ephemeral=False):
            if isinstance(one, Deployment):
                yield pb.DeployEvent(deployed=_deployment(one))
            else:
                progress = pb.ImageProgress(kind=one.kind, text=one.text, cached=one.cached)
                yield pb.DeployEvent(image=progress)

    async def on_list_deployments(self, asked: Asked, request: Any) -> Any:
        """List versions."""
        found = [
            _deployment(one)
            for one in self._catalog.deployments(asked.workspace)
            if (not request.app or one.spec.app == request.app)
            and (not request.name or one.spec.name == request.name)
            and (request.all or (one.latest and not one.ephemeral))
        ]
        return pb.ListDeploymentsReply(deployments=found)

    async def on_get_deployment(self, asked: Asked, request: Any) -> Any:
        """Show one."""
        return _deployment(await self._catalog.find(asked.workspace, request.deployment))

    # -- calls ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _held(self, asked: Asked, request: Any, *, stream: bool) -> AsyncIterator[Any]:
        deployment = await self._catalog.to_call(asked.workspace, request.deployment)
        if deployment.spec.is_generator != stream:
            right = "InvokeStream" if deployment.spec.is_generator else "Invoke"
            raise InvalidRequestError(
                "request.invalid", f"{deployment.spec.name} is called with {right}"
            )
        args = await json_arguments(deployment, self._blobs, request.arguments_json, {})
        call = interactive(
            self._platform,
            deployment,
            self._id(request.invocation_id),
            (Input(args=args),),
            asked.trace,
            deadline_s=asked.wait_s,
        )
        async with self._calls.open_call(call, deployment.spec.max_pending, asked.wait_s) as held:
            yield held

    async def on_invoke(self, asked: Asked, request: Any) -> Any:
        """Call and wait."""
        async with self._held(asked, request, stream=False) as held:
            while not held.done:
                await held.changed()
            outcome = outcome_of(held)
        reply = pb.InvokeReply(
            invocation_id=held.request.invocation_id,
            state=outcome.state.value,
            run_ms=outcome.run_ms,
        )
        if outcome.state is State.SUCCEEDED and outcome.result is not None:
            reply.result_json = await self._blobs.of(asked.workspace).bytes_of(outcome.result)
        else:
            reply.error.CopyFrom(_error(outcome.error))
        return reply

    async def on_invoke_stream(self, asked: Asked, request: Any) -> AsyncIterator[Any]:
        """Call a generator; items as they come."""
        own = self._blobs.of(asked.workspace)
        async with self._held(asked, request, stream=True) as held:
            while True:
                while held.items:
                    data = await own.bytes_of(held.items.popleft())
                    yield pb.StreamItem(item_json=data)
                    self._calls.taken(held)
                if held.done:
                    break
                await held.changed()
            outcome = outcome_of(held)
        if outcome.error is not None:
            yield pb.StreamItem(error=_error(outcome.error))

    # -- durable work ---------------------------------------------------------------------------

    async def on_put(self, asked: Asked, request: Any) -> Any:
        """Accept durable work."""
        deployment = await self._catalog.to_call(asked.workspace, request.deployment)
        given = request.options_json.decode("utf-8", "replace") or None
        options = read_options(given, request.idempotency_key or None)
        args = await json_arguments(deployment, self._blobs, request.arguments_json, {})
        call_id = self._id(request.invocation_id)
        record = await self._intake.accept(deployment, call_id, args, options, asked.trace)
        return pb.PutReply(task_id=record.invocation_id)

    async def on_get_task(self, asked: Asked, request: Any) -> Any:
        """Show a task."""
        return await self._task(await self._records.show(asked.workspace, request.task_id))

    async def on_wait_task(self, asked: Asked, request: Any) -> Any:
        """Wait for a task's end."""
        wait_s = request.wait_s or WAIT_S
        if not 0.0 < wait_s <= WAIT_MAX_S:
            raise InvalidRequestError(
                "request.invalid", f"wait_s must be from 0 to {WAIT_MAX_S:g} seconds"
            )
        wait_s = min(wait_s, asked.wait_s) if asked.wait_s else wait_s
        record = await self._records.wait(asked.workspace, request.task_id, wait_s)
        return await self._task(record)

    async def on_cancel_task(self, asked: Asked, request: Any) -> Any:
        """Cancel a task."""
        return await self._task(await self._records.cancel(asked.workspace, request.task_id))

    async def _task(self, record: InvocationRecord) -> Any:
        value: Mapping[str, Any] = task_value(record)
        task = pb.Task(
            task_id=record.invocation_id,
            deployment_id=record.deployment_id,
            status=value["status"],
            state=value["state"],
            attempt=record.attempt,
            progress=value["progress"] or 0.0,
            ended=is_terminal(record.state),
        )
        outcome = record.outcome
        if outcome is not None and outcome.error is not None:
            task.error.CopyFrom(_error(outcome.error))
        result = None if outcome is None else outcome.result
        if result is not None and result.format is Format.JSON:
            task.result_json = await self._blobs.of(record.workspace).bytes_of(result)
        return task

    # -- logs -----------------------------------------------------------------------------------

    async def on_stream_logs(self, asked: Asked, request: Any) -> AsyncIterator[Any]:
        """Read log lines."""
        wanted = frozenset(request.deployments)
        tail = request.tail or (0 if request.follow else TAIL_DEFAULT)
        if len(wanted) > DEPLOYMENTS_MAX or not 0 <= tail <= TAIL_MAX:
            raise InvalidRequestError(
                "request.invalid",
                f"at most {DEPLOYMENTS_MAX} deployments and {TAIL_MAX} lines of history",
            )
        query = LogQuery(
            workspace=asked.workspace,
            wanted=wanted,
            invocation=request.invocation_id,
            tail=tail,
            follow=request.follow,
        )
        lines = log_lines(self._logs, self._readmodel, query)
        async with contextlib.aclosing(lines):
            async for line in lines:
                known = {k: v for k, v in line.items() if k in _LOG_FIELDS}
                yield pb.LogLine(**known)

    def _id(self, given: str) -> InvocationId:
        if given:
            return InvocationId(check_id("invocation", given))
        return InvocationId(self._platform.clock.id("invocation"))


_LOG_FIELDS = frozenset(field.name for field in pb.LogLine.DESCRIPTOR.fields)


def _deployment(one: Deployment) -> Any:
    return pb.Deployment(
        deployment_id=one.deployment_id,
        name=one.spec.name,
        app=one.spec.app,
        kind=one.spec.kind.value,
        version=one.version,
        latest=one.latest,
        state=one.state.value,
        created_at=one.created_at,
        spec_json=encode(one.spec, "json"),
    )


def _error(error: RemoteError | None) -> Any:
    if error is None:
        return pb.Error(code="function.failed")
    return pb.Error(
        code=error.code, type=error.type, message=error.message, traceback=error.traceback
    )
