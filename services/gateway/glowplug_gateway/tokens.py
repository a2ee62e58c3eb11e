"""Keep the token table as the bucket says, and make the local token known."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from glowplug_contracts.errors import ConflictError
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.messages.deployment import Principal
from glowplug_contracts.streams import TOKENS
from glowplug_runtime.bus import Bus, Entry

from glowplug_gateway.auth import TokenTable, token_digest


@contextlib.asynccontextmanager
async def open_tokens(bus: Bus, local_token: str, now_unix: float) -> AsyncIterator[TokenTable]:
    """Yield a table that follows the bucket; `local_token` is made known if it is not ("" = none)."""
    table = TokenTable()

    async def on_entry(entry: Entry[Principal]) -> None:
        table.learn(entry.key, entry.value)

    watching = await bus.bucket(TOKENS).watch(on_entry)
    if local_token:
        digest = token_digest(local_token)
        local = Principal(workspace=DEFAULT_WORKSPACE, name="local", created_at=now_unix)
        with contextlib.suppress(ConflictError):  # made known at an earlier start
            await bus.bucket(TOKENS).create(digest, local)
        table.learn(digest, local)
    try:
        yield table
    finally:
        await watching.close()
