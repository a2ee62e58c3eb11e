"""A registry that does what a test tells it: drops, lies, limits, redirects and asks for logins.

It serves images from memory; `faults` are tried in order, the first that answers a request uses it up.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import ssl
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

from aiohttp import web

WITHIN_S = 30.0  # against a hang
OCI = "application/vnd.oci.image."
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def a_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with some files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class ScriptedRegistry:
    """One server. `requests` are what it was asked: (method, path, headers)."""

    def __init__(self) -> None:
        self.host = ""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # by tag and digest: media type, bytes
        self.faults: list[Fault] = []
        self.always: list[Fault] = []
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.knows_ranges = True
        self.arrived = 0  # what a client says it has of a blob

    def hear(self, size: int) -> None:
        self.arrived = size

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add_image(
        self,
        *layers: bytes,
        tag: str = "1",
        platform: tuple[str, str] = ("linux", "amd64"),
        config: Mapping[str, object] | None = None,
    ) -> str:
        """Serve an image with these tars as layers; return the manifest's digest."""
        described = {
            "os": platform[0],
            "architecture": platform[1],
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            **(config or {}),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": self.add_blob(json.dumps(described).encode(), f"{OCI}config.v1+json"),
            "layers": [
                self.add_blob(gzip.compress(layer, 1, mtime=0), f"{OCI}layer.v1.tar+gzip")
                for layer in layers
            ],
        }
        return self.add_manifest(manifest, tag)

    def add_index(self, entries: Sequence[Mapping[str, object]], tag: str = "1") -> str:
        return self.add_manifest(
            {"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": list(entries)},
            tag,
        )

    def add_manifest(self, document: Mapping[str, object], tag: str) -> str:
        data = json.dumps(document).encode()
        media_type = str(document.get("mediaType", f"{OCI}manifest.v1+json"))
        for name in (tag, digest_of(data)):
            self.manifests[name] = (media_type, data)
        return digest_of(data)

    def add_blob(self, data: bytes, media_type: str) -> dict[str, object]:
        self.blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def entry(self, digest: str, platform: Mapping[str, str] | None) -> dict[str, object]:
        """Return an index's entry for a manifest that is served."""
        media_type, data = self.manifests[digest]
        said = {} if platform is None else {"platform": dict(platform)}
        return {"mediaType": media_type, "digest": digest, "size": len(data), **said}

    def asked(self, part: str) -> list[Mapping[str, str]]:
        """Return the headers of requests whose path holds `part`."""
        return [headers for path, headers in self.requests if part in path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, dict(request.headers)))
        for fault in self.always:
            if (answer := await fault(request)) is not None:
                return answer
        for fault in list(self.faults):
            if (answer := await fault(request)) is not None:
                self.faults.remove(fault)
                return answer
        return self.plain(request)

    def plain(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = request.path.rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            media_type, data = self.manifests[name]
            said = {"Docker-Content-Digest": digest_of(data), "Content-Type": media_type}
            return web.Response(body=data, headers=said)
        if kind.endswith("/blobs") and name in self.blobs:
            return self.ranged(request, self.blobs[name])
        errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return web.json_response(errors, status=404)

    def ranged(self, request: web.Request, data: bytes) -> web.Response:
        asked = request.headers.get("Range", "")
        if not asked or not self.knows_ranges:
            return web.Response(body=data)
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        said = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return web.Response(status=206, body=data[start:], headers=said)


@contextlib.asynccontextmanager
async def open_scripted(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedRegistry]:
    """Yield a registry that listens on a port of its own."""
    registry = ScriptedRegistry()
    server = web.Server(registry.answer)
    runner = web.ServerRunner(server, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    registry.host = f"{host}:{port}"
    try:
        yield registry
    finally:
        await runner.cleanup()


def status(code: int, *, on: str = "", **headers: str) -> Fault:
    """Answer with a status; headers' underscores are dashes."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if on not in request.path:
            return None
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, headers=said)

    return fault


def broken_off(registry: ScriptedRegistry, after: int) -> Fault:
    """Send so many bytes of a blob, and close the connection once the client says that it has them."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        whole = registry.plain(request)
        assert isinstance(whole, web.Response)
        assert isinstance(whole.body, bytes)
        answer = web.StreamResponse(status=whole.status)
        answer.content_length = len(whole.body)
        start = 0
        if said := whole.headers.get("Content-Range"):
            answer.headers["Content-Range"] = said
            start = int(said.split()[1].partition("-")[0])
        await answer.prepare(request)
        await answer.write(whole.body[:after])
        async with asyncio.timeout(WITHIN_S):
            while registry.arrived != start + after:  # noqa: ASYNC110 - the client tells a number
                await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.close()
        return answer

    return fault


def instead(body: bytes, *, on: str) -> Fault:
    """Send other bytes."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=body) if on in request.path else None

    return fault


def moved(to: str, *, on: str) -> Fault:
    """Redirect."""
    return status(307, on=on, Location=to)


class TokenService:
    """Gives tokens, and a registry's requests without one a challenge."""

    def __init__(
        self,
        realm: str,
        *,
        password: str = "",
        expires_in: int = 300,
        sign: Callable[[str], str] | None = None,
    ) -> None:
        self.realm = realm
        self.sign = sign
        self.password = password
        self.expires_in = expires_in
        self.given: list[str] = []
        self.valid: set[str] = set()
        self.asked: list[Mapping[str, str]] = []

    async def challenge(self, request: web.Request) -> web.StreamResponse | None:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if shown in self.valid or not request.path.startswith("/v2/"):
            return None
        scope = f"repository:{'/'.join(request.path.split('/')[2:-2])}:pull"
        said = f'Bearer realm="{self.realm}",service="a, \\"quoted\\" one",scope="{scope}"'
        return web.Response(status=401, headers={"WWW-Authenticate": said})

    async def give(self, request: web.Request) -> web.StreamResponse | None:
        if request.path != "/token":
            return None
        self.asked.append(
            {**request.query, "Authorization": request.headers.get("Authorization", "")}
        )
        basic = base64.b64encode(f"me:{self.password}".encode()).decode()
        if self.password and request.headers.get("Authorization") != f"Basic {basic}":
            return web.json_response({"errors": [{"message": "who are you?"}]}, status=401)
        scope = request.query["scope"]
        token = self.sign(scope) if self.sign else f"token-{len(self.given)}"
        self.given.append(token)
        self.valid.add(token)
        return web.json_response({"token": token, "expires_in": self.expires_in})


@contextlib.contextmanager
def scripted_in_a_thread() -> Iterator[ScriptedRegistry]:
    """Yield a registry with an event loop of its own, for tests that have none."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = open_scripted()
    try:
        yield asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result(WITHIN_S)
    finally:
        closing = asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop)
        closing.result(WITHIN_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()


def only_with(credentials: str) -> Fault:
    """Answer only requests that show "user:password"."""
    shown = "Basic " + base64.b64encode(credentials.encode()).decode()

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == shown:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="tests"'})

    return fault
