"""A Hugging Face hub that does what a test says: its documented API, and a second origin for large files.

`GET /api/models/<repository>/revision/<revision>?blobs=true` and `GET /<repository>/resolve/<commit>/<path>`, which for
large files leads to the other origin, as the real one does. It remembers what it was asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

COMMIT = "c" * 40
LARGE = 1000


class ScriptedHub:
    """See the module."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.token = ""
        self.siblings: list[dict[str, Any]] | None = None
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        # Bytes after which each of the next answers with content breaks off.
        self.breaks: list[int] = []
        self.wrong_bytes = 0
        self.statuses: list[int] = []
        self.url = ""
        self.elsewhere = ""

    def sibling(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        if len(data) >= LARGE:
            name = hashlib.sha256(data).hexdigest()
            return {
                "rfilename": path,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": name, "size": len(data), "pointerSize": 135},
            }
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"rfilename": path, "size": len(data), "blobId": git}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, dict(request.headers)))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if match := re.fullmatch(r"/api/models/org/name/revision/(main|v1)", request.path):
            siblings = self.siblings or [self.sibling(path) for path in self.files]
            return web.json_response(
                {"id": "org/name", "sha": COMMIT, "siblings": siblings, "x": match[1]}
            )
        path = request.path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if path not in self.files:
            return web.Response(status=404)
        if len(self.files[path]) >= LARGE:
            raise web.HTTPFound(f"{self.elsewhere}/large/{path}?signed=%2Fyes")
        return await self.content(request, self.files[path])

    async def large(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, dict(request.headers)))
        return await self.content(request, self.files[request.path.removeprefix("/large/")])

    async def content(self, request: web.Request, data: bytes) -> web.StreamResponse:
        begin, status, headers = 0, 200, {}
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            begin, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = data[begin:]
        if self.wrong_bytes:
            self.wrong_bytes -= 1
            body = bytes(len(body))
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_length = len(body)
        await answer.prepare(request)
        if self.breaks:
            await answer.write(body[: self.breaks.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(body)
        await answer.write_eof()
        return answer

    def asked(self, part: str) -> list[Mapping[str, str]]:
        """Return the headers of requests whose path holds `part`."""
        return [headers for path, headers in self.requests if part in path]


@contextlib.asynccontextmanager
async def open_hub() -> AsyncIterator[ScriptedHub]:
    """Serve one, on two ports of this machine."""
    hub = ScriptedHub()
    async with contextlib.AsyncExitStack() as stack:
        for name, handler in (("url", hub.answer), ("elsewhere", hub.large)):
            runner = web.ServerRunner(web.Server(handler))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            setattr(hub, name, f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield hub
