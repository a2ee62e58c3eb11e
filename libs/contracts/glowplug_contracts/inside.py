"""What code inside a container may ask of a gateway, through its worker: the one list of routes and headers.

A container holds no token and reaches no gateway. Its runner sends requests over the worker's socket; the
worker lets through what is listed here, and says for whom it asks in headers that only the internal token
may set. The gateway checks the same list again. Pure: bytes of others in, yes or no out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# (method, path as the gateway's table of routes spells it).
ALLOWED: Final[tuple[tuple[str, str], ...]] = (
    ("GET", "/api/v1/deployments/{deployment}"),
    # Only `?ephemeral=1`, and only of the asker's own source: the gateway looks.
    ("POST", "/api/v1/deployments"),
    ("POST", "/api/v1/deployments/{deployment}/call"),
    ("POST", "/api/v1/deployments/{deployment}/spawn"),
    ("POST", "/api/v1/compositions"),
    ("DELETE", "/api/v1/calls/{invocation}"),
    ("GET", "/tasks/{task}/status"),
    ("DELETE", "/tasks/{task}"),
    ("GET", "/api/v1/tasks/{task}"),
    ("GET", "/api/v1/tasks/{task}/result"),
    ("GET", "/api/v1/blobs/{digest}"),
    ("POST", "/events"),
    ("GET", "/api/v1/maps/{map}"),
    ("DELETE", "/api/v1/maps/{map}"),
    ("GET", "/api/v1/maps/{map}/keys"),
    ("GET", "/api/v1/maps/{map}/item"),
    ("PUT", "/api/v1/maps/{map}/item"),
    ("DELETE", "/api/v1/maps/{map}/item"),
    ("POST", "/api/v1/maps/{map}/add"),
    ("GET", "/api/v1/queues/{queue}"),
    ("DELETE", "/api/v1/queues/{queue}"),
    ("POST", "/api/v1/queues/{queue}/items"),
    ("POST", "/api/v1/queues/{queue}/take"),
    ("GET", "/api/v1/queues/{queue}/first"),
    ("POST", "/api/v1/outputs/parts"),
    ("POST", "/api/v1/outputs"),
    ("GET", "/api/v1/outputs"),
    ("GET", "/api/v1/outputs/{output}"),
    ("GET", "/api/v1/outputs/{output}/content"),
    ("POST", "/api/v1/outputs/{output}/url"),
)

# What a worker asks for a container that starts; no container gets through to it.
WORKER_ALLOWED: Final[tuple[tuple[str, str], ...]] = (("GET", "/api/v1/container/environment"),)

# What imagecache asks for a build, with the internal token; `ask` is whom the gateway wanted to be told.
PULL_CREDENTIALS: Final = "/internal/pulls/{ask}/credentials"

# Likewise, which secrets the build's steps name and which values are meant (stamps, not the values), and, for
# the worker that runs such a step, the variables of one of them.
BUILD_SECRETS: Final = "/internal/builds/{ask}/secrets"
BUILD_SECRET: Final = "/internal/builds/{ask}/secrets/{secret}"  # noqa: S105 - a route

# Likewise for a model that it pulls: `pull` must be the one that the model's record has.
MODEL_TOKEN: Final = "/internal/models/{workspace}/{model}/pulls/{pull}/token"  # noqa: S105 - a route

# Who asks; a gateway believes these from whoever shows the internal token, and from nobody else.
TRUSTED_PREFIX: Final = "glowplug-inside-"
INSIDE_WORKSPACE: Final = "Glowplug-Inside-Workspace"
INSIDE_CONTAINER: Final = "Glowplug-Inside-Container"
INSIDE_DEPLOYMENT: Final = "Glowplug-Inside-Deployment"
INSIDE_PARENT: Final = "Glowplug-Inside-Parent"

# In INSIDE_DEPLOYMENT, for a container of no deployment: a worker says so when it opens a sandbox's secrets,
# and never for what code asks.
NO_DEPLOYMENT: Final = "-"

PATH_CHARS_MAX: Final = 1_024
HEADERS_MAX: Final = 32
HEADER_BYTES_MAX: Final = 8 * 1024
# One request's body; larger data does not belong into a request.
ASK_BYTES_MAX: Final = 16 * 1024 * 1024
# Of an answer: so much may be on its way before the runner has taken any.
ANSWER_CREDIT_AT_FIRST: Final = 512 * 1024

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_PATH: Final = re.compile(
    r"^(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)+(?:\?[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*)?\Z"
)
_HEADER: Final = re.compile(r"^[A-Za-z][A-Za-z0-9-]{0,63}\Z")
_VALUE: Final = re.compile(r"^[\x20-\x7e]*\Z")
_PLAIN_HEADERS: Final = frozenset({"accept", "content-type", "idempotency-key"})
_PREFIXES: Final = ("glowplug-", "ce-")


def _compiled(path: str) -> re.Pattern[str]:
    parts = (r"[^/]+" if part.startswith("{") else re.escape(part) for part in path.split("/"))
    return re.compile("^" + "/".join(parts) + r"\Z")


_ROUTES: Final = tuple((method, _compiled(path)) for method, path in ALLOWED)


def allows_route(method: str, route: str) -> bool:
    """Return whether a route of the gateway's table is for containers, or workers on their behalf."""
    return (method, route) in ALLOWED or (method, route) in WORKER_ALLOWED


def allows(method: str, path: str) -> bool:
    """Return whether a container may ask for this path (with its query, if any)."""
    if method not in _METHODS or len(path) > PATH_CHARS_MAX or not _PATH.match(path):
        return False
    bare = path.partition("?")[0]
    if any(part in {".", ".."} or "%2f" in part.lower() for part in bare.split("/")):
        return False
    return any(method == one and pattern.match(bare) for one, pattern in _ROUTES)


def passing_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """Return those of a container's headers that go on to the gateway, or None for what no header is."""
    found: dict[str, str] = {}
    size = 0
    for number, (name, value) in enumerate(headers):
        size += len(name) + len(value)
        if number >= HEADERS_MAX or size > HEADER_BYTES_MAX:
            return None
        if not _HEADER.match(name) or not _VALUE.match(value):
            return None
        lower = name.lower()
        if lower.startswith(TRUSTED_PREFIX):
            continue
        if lower in _PLAIN_HEADERS or lower.startswith(_PREFIXES):
            found[name] = value
    return found
