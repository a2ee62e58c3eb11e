"""From a decorated function to a deployment: pack, upload, describe, send, follow the image's build."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from glowplug_contracts.messages.deployment import (
    DeploymentSpec,
    ImageSpec,
    ImageStep,
    Resources,
    SecretRef,
    SourceRef,
)
from glowplug_contracts.messages.invocation import RemoteError

from glowplug.asked import Asked
from glowplug.client import wire
from glowplug.client.blobs import put_blob, tar_of
from glowplug.client.http import BrokenAnswerError, Http, json_lines
from glowplug.client.loop import in_thread
from glowplug.client.outcomes import typed_error
from glowplug.client.packing import pack
from glowplug.client.source import START_MODULE, Origin, Project, find_origin, start_module
from glowplug.description import describe_asked
from glowplug.dockerfile.context import pack_sources
from glowplug.dockerfile.reading import Exec
from glowplug.errors import GlowplugError, PythonVersionMismatchError, error_for
from glowplug.image import Copied, Image, Step
from glowplug.units import CpuNeed, GpuNeed, MemoryNeed

if TYPE_CHECKING:
    from glowplug.wrappers import Wrapper

PROGRESS_PATIENCE_S = 30.0
OUTPUT_LINES_KEPT = 40


@dataclass(frozen=True)
class Deployed:
    """A deployment as the platform answered.

    Attributes:
        python_there: minor version of the Python that runs it; "" = not known.
    """

    deployment_id: str
    name: str
    version: int
    url: str
    python_there: str
    raw: dict[str, Any]


Progress = Callable[[dict[str, Any]], None]


class Packer:
    """Packs and uploads; what one program packed once is not packed again."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._digests: dict[tuple[Project, str], str] = {}

    async def source_of(self, wrapper: Wrapper[Any, Any], asked: Asked) -> SourceRef:
        """Upload what the function needs, and return where it is."""
        function = wrapper.__glowplug_fn__
        origin = find_origin(function, wrapper)
        if origin.module and getattr(function, "__module__", "") == "__main__":
            wire.name_script(origin.module)
        blob = await self._project(origin) if origin.project is not None else None
        by_value = b"" if origin.handler else wire.dump_code(function)
        started = await self._hook(asked.on_start, origin)
        ended = await self._hook(asked.on_exit, origin)
        return SourceRef(
            blob=blob,  # type: ignore[arg-type]
            handler=origin.handler,
            pickled=await self._upload(by_value),  # type: ignore[arg-type]
            on_start=started[0],
            on_start_pickled=await self._upload(started[1]),  # type: ignore[arg-type]
            on_exit=ended[0],
            on_exit_pickled=await self._upload(ended[1]),  # type: ignore[arg-type]
            sharing=asked.sharing,
        )

    async def image_of(self, image: Image) -> ImageSpec:
        """Upload the files that an image adds, and return its description."""
        steps: list[ImageStep] = []
        for step in image.steps:
            if step.details is not None:
                steps.append(await self._dockerfile_step(step))
                continue
            blob = None
            if step.origin is not None:
                data = await in_thread(tar_of, step.origin, step.arguments[0])
                blob = await put_blob(self._http, data, look_first=True)
            secrets = tuple(
                SecretRef(name=one.name, required_keys=one.required_keys) for one in step.secrets
            )
            steps.append(
                ImageStep(
                    kind=step.kind,
                    args=step.arguments,
                    blob=blob,  # type: ignore[arg-type]
                    secrets=secrets,
                    force=step.force,
                )
            )
        return ImageSpec(
            base=image.base,
            credentials=image.credentials,
            python_version=image.python_version,
            steps=tuple(steps),
            env=dict(image.environment),
            force=image.force,
        )

    async def _dockerfile_step(self, step: Step) -> ImageStep:
        details = step.details
        if isinstance(details, Copied):
            copy, stage, blob = details.copy, None, None
            if details.stage is not None:
                stage = await self.image_of(details.stage)
            else:
                data = await in_thread(_packed, details)
                blob = await put_blob(self._http, data, look_first=True)
            return ImageStep(
                kind=step.kind,
                args=step.arguments,
                blob=blob,  # type: ignore[arg-type]
                stage=stage,
                uid=copy.uid,
                gid=copy.gid,
                mode=copy.mode,
            )
        assert details is not None  # noqa: S101 - the caller looked
        user = details.user if isinstance(details, Exec) else ""
        return ImageStep(
            kind=step.kind,
            args=step.arguments,
            env=dict(details.env),
            cwd=details.cwd,
            user=user,
        )

    async def _project(self, origin: Origin) -> str:
        project = origin.project
        assert project is not None  # noqa: S101 - the caller looked
        extra: dict[str, str] = {}
        if project.paths:
            extra[f"{START_MODULE}.py"] = start_module(origin.module, project.paths)
        key = (project, origin.module if project.paths else "")
        if key not in self._digests:
            data = await in_thread(pack, project, extra)
            self._digests[key] = await put_blob(self._http, data, look_first=True)
        return self._digests[key]

    async def _hook(self, hook: Callable[..., Any] | None, origin: Origin) -> tuple[str, bytes]:
        """Return how on_start or on_exit travels: by name where the function's own module has it."""
        if hook is None:
            return "", b""
        found = find_origin(hook)
        if found.handler and found.project == origin.project and found.module == origin.module:
            return found.handler, b""
        return "", wire.dump_code(hook)

    async def _upload(self, data: bytes) -> str | None:
        return await put_blob(self._http, data, look_first=True) if data else None


async def describe(packer: Packer, wrapper: Wrapper[Any, Any]) -> DeploymentSpec:
    """Return the description of one version, with everything uploaded that it refers to.

    Raises: PythonVersionMismatchError where code would travel by value between two versions.
    """
    asked = wrapper.asked
    source = await packer.source_of(wrapper, asked)
    there = asked.image.python_version
    if source.pickled and there and there != wire.python_here():
        raise PythonVersionMismatchError(
            f"{asked.name} has no importable name, so its code travels by value, which works only "
            f"between equal versions: this is Python {wire.python_here()}, the image asks for "
            f"{there}. Move it to the top level of a module, or use Python {there} here"
        )
    spec = describe_asked(
        asked,
        source=msgspec.to_builtins(source),
        image=msgspec.to_builtins(await packer.image_of(asked.image)),
        is_generator=wrapper.is_generator,
    )
    return msgspec.convert(spec, DeploymentSpec)


def resources_of(cpu: CpuNeed, memory: MemoryNeed, gpu: GpuNeed, disk_bytes: int = 0) -> Resources:
    """Return what one container needs, in the platform's words."""
    return Resources(
        cpu_millis=cpu.request_millis,
        cpu_limit_millis=cpu.limit_millis,
        disk_bytes=disk_bytes,
        memory_bytes=memory.request_bytes,
        memory_limit_bytes=memory.limit_bytes,
        gpus=gpu.kinds,
        gpu_count=gpu.count,
        gpu_memory_bytes=gpu.memory_bytes,
    )


async def deploy(
    http: Http, spec: DeploymentSpec, *, ephemeral: bool, progress: Progress | None = None
) -> Deployed:
    """Send a description; return the deployment once its image stands.

    Raises: ImageBuildError, PythonVersionMismatchError and whatever else the platform refuses it for.
    """
    body = msgspec.json.encode(spec)
    event = await follow_events(
        http,
        f"/api/v1/deployments?ephemeral={int(ephemeral)}",
        body,
        last="deployed",
        progress=progress,
        # An ephemeral id follows from the spec, so asking again is safe; a named deploy would count up.
        repeat=ephemeral,
    )
    raw = event["deployment"]
    return Deployed(
        deployment_id=raw["deployment_id"],
        name=spec.name,
        version=raw.get("version", 0),
        url=event.get("url", ""),
        python_there=_python_there(event, spec),
        raw=raw,
    )


async def follow_events(
    http: Http,
    path: str,
    body: bytes,
    *,
    last: str,
    progress: Progress | None,
    repeat: bool,
) -> dict[str, Any]:
    """Post something that answers in JSON lines; return the line whose event is `last`.

    Raises: the exception of an `error` line.
    """

    async def once(url: str) -> dict[str, Any]:
        async with http.open_stream(
            url, "POST", path, body=body, headers={"Content-Type": "application/json"}
        ) as response:
            return await _last_event(json_lines(response), last, progress)

    return await http.retrying(once, patience_s=PROGRESS_PATIENCE_S, repeat=repeat)


async def _last_event(
    lines: AsyncIterator[dict[str, Any]], last: str, progress: Progress | None
) -> dict[str, Any]:
    told = Told(progress)
    async for event in lines:
        if event.get("event") == "error":
            raise _event_error(event["error"], told)
        if event.get("event") == last:
            told.end()
            return event
        told.take(event)
    raise BrokenAnswerError(f"the answer ended without {last!r}")


class Told:
    """What a build has told so far, in whole lines: output arrives in pieces of any size."""

    def __init__(self, progress: Progress | None) -> None:
        self.step = ""
        self.output: list[str] = []
        self._progress = progress
        self._rest = ""

    def take(self, event: dict[str, Any]) -> None:
        """Note one event; hand on each line that it completes."""
        text = str(event.get("text", ""))
        if event.get("kind") == "output":
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._line(line)
        elif event.get("kind") == "step":
            self.end()
            self.step, self.output = text, []
            self._tell({**event, "text": text.rstrip()})
        elif event.get("kind") == "bytes":
            self._tell(event)

    def end(self) -> None:
        """Hand on a last line that has no end."""
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        line = line.rstrip("\r")
        if line.strip():
            self.output = [*self.output[-OUTPUT_LINES_KEPT:], line]
            self._tell({"event": "image", "kind": "output", "text": line})

    def _tell(self, event: dict[str, Any]) -> None:
        if self._progress is not None:
            self._progress(event)


def _event_error(error: dict[str, Any], told: Told) -> GlowplugError:
    told.end()
    if "type" in error:  # a RemoteError, from a container that built or started
        return typed_error(msgspec.convert(error, RemoteError))
    code = str(error.get("code", ""))
    details = dict(error.get("details") or {})
    if code == "image.build_failed":
        details.setdefault("step", told.step)
        details.setdefault("output", "\n".join(told.output))
    return error_for(
        code,
        str(error.get("message", "")),
        details=details,
        retry_after_s=error.get("retry_after_s"),
    )


def _python_there(event: dict[str, Any], spec: DeploymentSpec) -> str:
    there = event["deployment"].get("base_python") or spec.image.python_version
    return ".".join(str(there).split(".")[:2]) if there else ""


def _packed(details: Copied) -> bytes:
    copy = details.copy
    return pack_sources(copy.line, details.context, copy.sources, unpacks=copy.unpacks)
