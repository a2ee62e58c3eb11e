"""Sandboxes over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from glowplug_contracts.messages.deployment import ModelMount, SecretRef, VolumeMount
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.messages.sandbox import SandboxSpec

from glowplug.client.deploying import follow_events, resources_of
from glowplug.client.http import BrokenAnswerError, Http, json_lines
from glowplug.client.session import current_session
from glowplug.errors import NotFoundError, error_for
from glowplug.sandbox import CodeError, CodeResult

if TYPE_CHECKING:
    from glowplug.sandbox import Sandbox

Write = Callable[[str], None]
ENDED = frozenset({"terminated", "failed"})


class Running:
    """A sandbox that was started."""

    def __init__(self, http: Http, sandbox_id: str) -> None:
        self._http = http
        self.sandbox_id = sandbox_id

    async def record(self) -> dict[str, Any]:
        """Return what the platform knows about it.

        Raises: NotFoundError.
        """
        found: dict[str, Any] = await self._http.request_json(
            "GET", f"/api/v1/sandboxes/{self.sandbox_id}"
        )
        return found

    async def terminate(self) -> None:
        """End it."""
        await self._http.request("DELETE", f"/api/v1/sandboxes/{self.sandbox_id}", fine=(404,))

    async def run(
        self, body: dict[str, Any], on_stdout: Write | None, on_stderr: Write | None
    ) -> CodeResult:
        """Run something in it and wait for its end."""
        data = msgspec.json.encode(body)

        async def once(url: str) -> CodeResult:
            async with self._http.open_stream(
                url,
                "POST",
                f"/api/v1/sandboxes/{self.sandbox_id}/exec",
                body=data,
                headers={"Content-Type": "application/json"},
            ) as response:
                result = CodeResult()
                async for event in json_lines(response):
                    if _take(result, event, on_stdout, on_stderr):
                        return result
            raise BrokenAnswerError("the output ended without an end")

        # Code that may have run is not run again.
        return await self._http.retrying(once, repeat=False)


async def create_sandbox(sandbox: Sandbox) -> Running:
    """Start a sandbox; return it once it runs."""
    session = current_session()
    http = await session.reach()
    if any(model.directory or model.source for model in sandbox.models):
        from glowplug.client.models import ensure_models  # noqa: PLC0415 - few have any

        await ensure_models(http, sandbox.models, session.output.model_event)
    spec = SandboxSpec(
        image=await session.packer.image_of(sandbox.image),
        resources=resources_of(sandbox.cpu, sandbox.memory, sandbox.gpu, sandbox.disk_bytes),
        env=sandbox.env,
        ttl_s=sandbox.keep_warm_seconds,
        network=msgspec.convert(sandbox.network, NetworkSpec),
        secrets=tuple(
            SecretRef(name=one.name, required_keys=one.required_keys) for one in sandbox.secrets
        ),
        volumes=tuple(
            VolumeMount(name=one.name, path=one.mount_path, read_only=one.read_only)
            for one in sandbox.volumes
        ),
        models=tuple(
            ModelMount(name=one.name, path=one.mount_path, version=one.version)
            for one in sandbox.models
        ),
    )
    event = await follow_events(
        http,
        "/api/v1/sandboxes",
        msgspec.json.encode(spec),
        last="created",
        progress=session.output.build_event,
        repeat=False,
    )
    return Running(http, event["sandbox"]["sandbox_id"])


async def connect_sandbox(sandbox_id: str) -> Running:
    """Return a sandbox that runs.

    Raises: NotFoundError if it has ended or never was.
    """
    running = Running(await current_session().reach(), sandbox_id)
    record = await running.record()
    if record.get("state") in ENDED:
        raise NotFoundError(
            f"sandbox {sandbox_id} has ended ({record['state']})", code="sandbox.not_found"
        )
    return running


def _take(
    result: CodeResult, event: dict[str, Any], on_stdout: Write | None, on_stderr: Write | None
) -> bool:
    """Add one event to the result; return whether it was the last."""
    kind = event.get("kind")
    if kind == "stdout":
        result.stdout += _text(event, on_stdout)
    elif kind == "stderr":
        result.stderr += _text(event, on_stderr)
    elif kind == "result":
        result.result = _text(event, None)
    elif event.get("event") == "error":
        error = event["error"]
        raise error_for(str(error.get("code", "")), str(error.get("message", "")))
    elif kind == "ended":
        result.exit_code = event.get("exit_code")
        error = event.get("error")
        if error:
            result.error = CodeError(error["type"], error["message"], error.get("traceback", ""))
            if result.exit_code is None:
                result.exit_code = 1
        return True
    return False


def _text(event: dict[str, Any], write: Write | None) -> str:
    text = event.get("text")
    if text is None:
        text = base64.b64decode(event.get("data", "")).decode("utf-8", "replace")
    if write is not None:
        write(str(text))
    return str(text)
