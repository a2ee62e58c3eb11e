"""Functions of a program that runs without being deployed: one calls another from inside its container.

The other is deployed as the program itself would have done, from the source that this container was started
from. What would have to be uploaded can't be: there is no way to pack a program from in here.
"""

from __future__ import annotations

import json
from typing import Any

from glowplug.client.answers import BrokenAnswerError, json_lines
from glowplug.description import describe_asked
from glowplug.errors import NotYetSupportedError, error_for
from glowplug.inside.http import DoorHttp


async def deploy_sibling(http: DoorHttp, own: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    """Return the deployment of a function of the same source.

    Raises: NotYetSupportedError for what can't be deployed from a container.
    """
    body = json.dumps(describe_sibling(own, wrapper)).encode()

    async def once(url: str) -> dict[str, Any]:
        async with http.open_stream(
            url,
            "POST",
            "/api/v1/deployments?ephemeral=1",
            body=body,
            headers={"Content-Type": "application/json"},
        ) as response:
            async for event in json_lines(response):
                if event.get("event") == "error":
                    error = event["error"]
                    raise error_for(str(error.get("code", "")), str(error.get("message", "")))
                if event.get("event") == "deployed":
                    deployment: dict[str, Any] = event["deployment"]
                    return deployment
        raise BrokenAnswerError("the answer ended without a deployment")

    return await http.retrying(once)


def describe_sibling(own: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    """Return the description of a function, as the program would have sent it.

    Raises: NotYetSupportedError.
    """
    return describe_asked(
        wrapper.asked,
        source=_source_of(own, wrapper),
        image=_image_of(own, wrapper),
        is_generator=wrapper.is_generator,
    )


def _source_of(own: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    source = own["spec"].get("source") or {}
    handler = _handler_of(wrapper.__glowplug_fn__)
    if not source.get("blob") or not handler:
        raise _refusal(wrapper, "it has no importable name: move it to the top level of a module")
    hooks = {}
    for name in ("on_start", "on_exit"):
        hook = getattr(wrapper.asked, name)
        hooks[name] = _handler_of(hook) if hook is not None else ""
        if hook is not None and not hooks[name]:
            raise _refusal(wrapper, f"its {name} has no importable name")
    return {"blob": source["blob"], "handler": handler, **hooks}


def _image_of(own: dict[str, Any], wrapper: Any) -> dict[str, Any]:
    image = wrapper.asked.image
    steps = []
    uploaded = [step for step in own["spec"]["image"].get("steps", ()) if step.get("blob")]
    for step in image.steps:
        if step.details is not None:
            raise _refusal(
                wrapper, "its image comes from a Dockerfile, which this container does not have"
            )
        made: dict[str, Any] = {
            "kind": step.kind,
            "args": list(step.arguments),
            "secrets": [
                {"name": one.name, "required_keys": list(one.required_keys)} for one in step.secrets
            ],
            "force": step.force,
        }
        if step.origin is not None:
            # The same files under the same name, which the program packed for this container's image.
            same = [one for one in uploaded if list(one.get("args", ())) == made["args"]]
            if not same:
                raise _refusal(wrapper, "its image adds files that this container does not have")
            made["blob"] = same[0]["blob"]
        steps.append(made)
    return {
        "base": image.base,
        "credentials": image.credentials,
        "python_version": image.python_version,
        "steps": steps,
        "env": dict(image.environment),
        "force": image.force,
    }


def _handler_of(function: Any) -> str:
    module = getattr(function, "__module__", "") or ""
    qualname = getattr(function, "__qualname__", "<") or "<"
    return "" if "<" in qualname or module in {"", "__main__"} else f"{module}:{qualname}"


def _refusal(wrapper: Any, why: str) -> NotYetSupportedError:
    return NotYetSupportedError(
        f"{wrapper.name} can't be called from inside a container yet: {why}. Deploying it "
        "(`glowplug deploy`) works in any case"
    )
