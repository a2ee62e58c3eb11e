"""Dead letters: durable work that ended unsuccessfully, kept to be looked at, tried again or removed.

A dead letter *is* its record (`is_dead_letter`); there is no second store that could disagree. A replay is
a new invocation whose id derives from the old one's: repeated after a crash half way it is the same one.
First it is accepted, then the old record is told as what it was replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from glowplug_contracts.errors import ConflictError, NotFoundError, PlatformError
from glowplug_contracts.ids import InvocationId, WorkspaceId, derived
from glowplug_contracts.messages.deployment import Deployment
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import InvocationRecord, is_dead_letter

from glowplug_gateway.calllist import CallFilter, CallRow
from glowplug_gateway.calls import Calls
from glowplug_gateway.catalog import Catalog
from glowplug_gateway.intake import offered
from glowplug_gateway.ports import Platform
from glowplug_gateway.readmodel import ReadModel
from glowplug_gateway.recordfeed import RecordFeed
from glowplug_gateway.records import Records

CHANGE_TRIES_MAX = 20
AT_ONCE = 32


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of many letters.

    Attributes:
        handled: ids of the letters that were replayed (with the new id) or removed (with "").
        skipped: letters that somebody else had replayed or removed since they were listed.
        failed: letters that stay as they were, and why.
        rows: what was looked at; the next page begins after it.
    """

    handled: tuple[tuple[str, str], ...]
    skipped: int
    failed: tuple[tuple[str, PlatformError], ...]
    rows: tuple[CallRow, ...]


class Letters:
    """See the module."""

    def __init__(
        self,
        platform: Platform,
        catalog: Catalog,
        calls: Calls,
        records: Records,
        feed: RecordFeed,
        readmodel: ReadModel,
    ) -> None:
        self._platform = platform
        self._catalog = catalog
        self._calls = calls
        self._records = records
        self._feed = feed
        self._readmodel = readmodel

    async def list(
        self, workspace: WorkspaceId, wanted: CallFilter, limit: int
    ) -> tuple[Sequence[CallRow], int]:
        """Return the newest letters that fit, and how many changes the list lags behind."""
        lag = await self._feed.caught_up()
        return await self._readmodel.calls(workspace, wanted, limit), lag

    async def show(self, workspace: WorkspaceId, task: str) -> InvocationRecord:
        """Return a letter. Raises: NotFoundError."""
        return (await self._read(workspace, task))[0]

    async def _read(self, workspace: WorkspaceId, task: str) -> tuple[InvocationRecord, int]:
        record, sequence = await self._records.read(workspace, task)
        if not is_dead_letter(record):
            raise NotFoundError(
                "invocation.not_found", f"{task} is no dead letter: it is {record.state.value}"
            )
        return record, sequence

    async def replay(
        self, workspace: WorkspaceId, task: str, *, same_version: bool
    ) -> InvocationRecord:
        """Try a letter again as a new invocation; return it. Again and again it is the same one.

        It runs the latest version of its function, which may hold the fix, or the one that it failed in.

        Raises: NotFoundError (no letter; or nothing is deployed under its name any more);
            QuotaExceededError or OverloadedError (as much waits already as may).
        """
        letter, _ = await self._read(workspace, task)
        if letter.replayed_as:
            return await self._records.show(workspace, letter.replayed_as)
        deployment = await self._deployment(letter, same_version=same_version)
        again = replayed(letter, deployment, self._platform.clock.unix())
        self._calls.admit(offered(self._platform, deployment, again.invocation_id))
        try:
            again = await self._records.accept(again)
        except ConflictError:
            # An earlier try got so far, perhaps with another version.
            known = await self._records.show(workspace, again.invocation_id)
            if known.replay_of != letter.invocation_id:
                raise
            again = known
        await self._mark(workspace, task, again.invocation_id)
        return again

    async def _deployment(self, letter: InvocationRecord, *, same_version: bool) -> Deployment:
        if letter.name and not same_version:
            with contextlib.suppress(NotFoundError):  # a program's own functions have no name here
                return await self._catalog.by_name(letter.workspace, letter.name)
        try:
            return await self._catalog.to_call(letter.workspace, letter.deployment_id)
        except NotFoundError as error:
            raise NotFoundError(
                "deployment.not_found",
                f"{letter.name} is not deployed any more: deploy it, then replay",
            ) from error

    async def _mark(self, workspace: WorkspaceId, task: str, again: InvocationId) -> None:
        for _ in range(CHANGE_TRIES_MAX):
            try:
                letter, sequence = await self._read(workspace, task)
                if letter.replayed_as:
                    return
                await self._records.change(
                    msgspec.structs.replace(letter, replayed_as=again), sequence
                )
            except ConflictError:
                continue
            except NotFoundError:
                return  # removed meanwhile
            return
        raise ConflictError("invocation.conflict", f"{task} changes too fast; replay it again")

    async def purge(self, workspace: WorkspaceId, task: str) -> None:
        """Remove a letter for good. Raises: NotFoundError."""
        for _ in range(CHANGE_TRIES_MAX):
            letter, sequence = await self._read(workspace, task)
            try:
                await self._records.remove(letter, sequence)
            except ConflictError:
                continue
            return
        raise ConflictError("invocation.conflict", f"{task} changes too fast; try again")

    async def replay_many(
        self, workspace: WorkspaceId, wanted: CallFilter, limit: int, *, same_version: bool
    ) -> Handled:
        """Replay the newest letters that fit, at most `limit`."""

        async def one(task: str) -> str:
            again = await self.replay(workspace, task, same_version=same_version)
            return again.invocation_id

        return await self._many(workspace, wanted, limit, one)

    async def purge_many(self, workspace: WorkspaceId, wanted: CallFilter, limit: int) -> Handled:
        """Remove the newest letters that fit, at most `limit`."""

        async def one(task: str) -> str:
            await self.purge(workspace, task)
            return ""

        return await self._many(workspace, wanted, limit, one)

    async def _many(
        self,
        workspace: WorkspaceId,
        wanted: CallFilter,
        limit: int,
        one: Callable[[str], Awaitable[str]],
    ) -> Handled:
        rows, _ = await self.list(workspace, wanted, limit)
        handled: list[tuple[str, str]] = []
        failed: list[tuple[str, PlatformError]] = []
        skipped = 0

        async def attempt(task: str) -> str | PlatformError:
            try:
                return await one(task)
            except PlatformError as error:
                return error

        for start in range(0, len(rows), AT_ONCE):
            tasks = [row.invocation_id for row in rows[start : start + AT_ONCE]]
            results = await asyncio.gather(*(attempt(task) for task in tasks))
            for task, result in zip(tasks, results, strict=True):
                if isinstance(result, str):
                    handled.append((task, result))
                elif result.code == "invocation.not_found":
                    skipped += 1
                else:
                    failed.append((task, result))
        return Handled(
            handled=tuple(handled), skipped=skipped, failed=tuple(failed), rows=tuple(rows)
        )


def replayed(letter: InvocationRecord, deployment: Deployment, now_unix: float) -> InvocationRecord:
    """Return the record that tries a letter again.

    What the caller said of it stays (arguments, priority, key, tags, time to live); how often and how long
    it is tried is the version's to say where it is another one. Nobody waits for it any more, and its
    idempotency key stays with the letter.
    """
    ttl_s = letter.expires_at - letter.accepted_at if letter.expires_at else 0.0
    spec = deployment.spec
    other = deployment.deployment_id != letter.deployment_id
    return msgspec.structs.replace(
        letter,
        invocation_id=derived(letter.workspace, "replay", letter.invocation_id),
        deployment_id=deployment.deployment_id,
        retry=spec.retry if other else letter.retry,
        timeout_s=spec.timeout_s if other else letter.timeout_s,
        state=State.ACCEPTED,
        attempt=0,
        user_attempts=0,
        lost_attempts=0,
        accepted_at=now_unix,
        started_at=0.0,
        ended_at=0.0,
        due_at=0.0,
        expires_at=now_unix + ttl_s if ttl_s > 0 else 0.0,
        worker_id="",
        container_id="",
        outcome=None,
        order=0,
        reason="",
        progress=None,
        idempotency_key="",
        idempotent_until=0.0,
        then=(),
        attempts=(),
        callback=None,
        replay_of=letter.invocation_id,
        replayed_as="",
    )
