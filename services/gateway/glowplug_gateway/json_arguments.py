"""Keyword arguments as JSON, for every door that takes them: parsed, checked, and made a payload."""

from __future__ import annotations

from collections.abc import Mapping

from glowplug_contracts.codec import encode
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import Format, Payload

from glowplug_gateway.blobs import Blobs
from glowplug_gateway.inputs import check_inputs, parse_object


async def json_arguments(
    deployment: Deployment, blobs: Blobs, raw: bytes, texts: Mapping[str, str]
) -> Payload:
    """Return the payload of a call: members of the object `raw`, and of `texts` (a query).

    Raises: InvalidRequestError naming every wrong field.
    """
    own = blobs.of(deployment.workspace)
    values = parse_object(raw)
    specs = deployment.spec.inputs
    if not texts and specs is None:
        # The object was parsed only to be checked: its bytes go on as they are.
        data = b'{"args":[],"kwargs":' + (raw or b"{}") + b"}"
        return await own.payload(data, Format.JSON)
    both = texts.keys() & values.keys()
    if both:
        name = min(both)
        raise InvalidRequestError(
            "request.invalid",
            f"{name} is in the query and in the body",
            details={"fields": {name: "is there twice"}},
        )
    values |= texts
    if specs is not None:
        values = check_inputs(specs, values, text=frozenset(texts))
    return await own.payload(encode({"args": [], "kwargs": values}, "json"), Format.JSON)
