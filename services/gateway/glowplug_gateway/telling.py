"""Telling callbacks: the shell of `callbacks`. One gateway does it, under the lease "callbacks".

Each try is a signed POST; its outcome is noted in the record by compare-and-set, which comes back as
the record's next word. Killed in between, the next holder of the lease reads all records once and makes the
try again, with the same id in its header.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import structlog
from glowplug_contracts.addresses import Network
from glowplug_contracts.errors import ConflictError, NotFoundError, PlatformError
from glowplug_contracts.ids import InvocationId, WorkspaceId
from glowplug_contracts.messages.http import (
    HEADER_CALLBACK_ATTEMPT,
    HEADER_CALLBACK_ID,
    HEADER_CALLBACK_SIGNATURE,
    HEADER_CALLBACK_TIMESTAMP,
)
from glowplug_contracts.messages.record import (
    HEADER_ABOUT,
    CallbackState,
    InvocationRecord,
    RecordAbout,
    callback_due,
)
from glowplug_contracts.subjects import RECORD
from glowplug_runtime.bus import Delivery
from glowplug_runtime.guarding import GuardedResolver
from glowplug_runtime.lease import Lease

from glowplug_gateway.addresses import check_url
from glowplug_gateway.callbacks import (
    Callbacks,
    Event,
    Heard,
    ScanAgain,
    Tell,
    Ticked,
    Told,
    next_try_s,
)
from glowplug_gateway.http.tasks import task_value
from glowplug_gateway.ports import Platform
from glowplug_gateway.recordfeed import RecordFeed
from glowplug_gateway.records import Records
from glowplug_gateway.signing import SigningSecrets, signature

log = structlog.get_logger()

LEASE = "callbacks"
TICK_S = 0.1
NOTE_TRIES_MAX = 20
ERROR_CHARS_MAX = 300
ANSWER_BYTES_MAX = 64 * 1024
OK = range(200, 300)

_ABOUT = msgspec.json.Decoder(RecordAbout)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How callbacks are told; see the gateway's settings."""

    timeout_s: float
    tries_max: int
    retry_s: float
    networks: tuple[Network, ...] = ()


class Teller:
    """See the module."""

    def __init__(
        self, platform: Platform, records: Records, feed: RecordFeed, secrets: SigningSecrets,
        terms: Terms,
    ) -> None:  # fmt: skip
        self._platform = platform
        self._records = records
        self._feed = feed
        self._secrets = secrets
        self._terms = terms

    @contextlib.asynccontextmanager
    async def lead(self, lease: Lease) -> AsyncIterator[None]:
        """Tell callbacks while the context is open."""
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._terms.networks, "callback_networks")
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._terms.timeout_s),
                headers={"User-Agent": "glowplug-callback", "Content-Type": "application/json"},
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            term = _Term(self, lease, session, tasks)
            with self._feed.listen(term.on_record):
                running = tasks.create_task(term.run())
                try:
                    yield
                finally:
                    term.stop()
                    running.cancel()

    async def scan(self, on_record: object) -> None:
        """Hear every record's last word once."""
        for shard in range(self._platform.shards):
            following = await self._platform.bus.follow(
                RECORD.pattern(shard=shard),
                on_record,  # type: ignore[arg-type]
                start="all",
                headers_only=True,
            )
            try:
                await following.caught_up()
            finally:
                await following.close()

    async def tell(
        self, session: aiohttp.ClientSession, workspace: WorkspaceId, task: InvocationId
    ) -> bool:
        """Make one try, and note it; return whether it is noted."""
        try:
            record, _ = await self._records.read(workspace, task)
            if not callback_due(record):
                return True
            status, error = await self._post(session, record)
            await self._note(workspace, task, status, error)
        except NotFoundError:
            return True  # removed meanwhile
        except PlatformError as failed:
            log.warning("callback.not_noted", invocation_id=task, error=str(failed))
            return False
        return True

    async def _post(
        self, session: aiohttp.ClientSession, record: InvocationRecord
    ) -> tuple[int, str]:
        body = callback_body(record)
        timestamp = int(self._platform.clock.unix())
        secret = await self._secrets.of(record.workspace)
        attempts = record.callback.attempts if record.callback else 0
        headers = {
            HEADER_CALLBACK_ID: record.invocation_id,
            HEADER_CALLBACK_ATTEMPT: str(attempts + 1),
            HEADER_CALLBACK_TIMESTAMP: str(timestamp),
            HEADER_CALLBACK_SIGNATURE: signature(secret, timestamp, body),
        }
        try:
            check_url(record.callback_url, self._terms.networks)
            async with session.post(
                record.callback_url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.content.read(ANSWER_BYTES_MAX)
                ok = answer.status in OK
                return answer.status, "" if ok else f"it answered {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, PlatformError) as err:
            return 0, _words(err)

    async def _note(
        self, workspace: WorkspaceId, task: InvocationId, status: int, error: str
    ) -> None:
        for _ in range(NOTE_TRIES_MAX):
            record, sequence = await self._records.read(workspace, task)
            if not callback_due(record):
                return
            noted = msgspec.structs.replace(record, callback=self._noted(record, status, error))
            try:
                await self._records.change(noted, sequence)
            except ConflictError:
                continue  # a replay, or another holder
            return
        raise ConflictError("invocation.conflict", f"{task} changes too fast")

    def _noted(self, record: InvocationRecord, status: int, error: str) -> CallbackState:
        now_unix = self._platform.clock.unix()
        attempts = (record.callback.attempts if record.callback else 0) + 1
        pause_s = next_try_s(
            record.invocation_id, attempts, self._terms.tries_max, self._terms.retry_s
        )
        if not error:
            state, due_at = "delivered", 0.0
        elif pause_s is None:
            state, due_at = "failed", 0.0
            log.warning("callback.failed", invocation_id=record.invocation_id, error=error)
        else:
            state, due_at = "waiting", now_unix + pause_s
        return CallbackState(
            state=state, attempts=attempts, due_at=due_at, status=status, error=error, at=now_unix
        )


class _Term:
    """One holding of the lease."""

    def __init__(
        self,
        teller: Teller,
        lease: Lease,
        session: aiohttp.ClientSession,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._teller = teller
        self._lease = lease
        self._session = session
        self._tasks = tasks
        self._machine = Callbacks()
        self._telling: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def run(self) -> None:
        """Read what there is, then let time pass."""
        await self._scan()
        while True:
            self._step(Ticked())
            await asyncio.sleep(TICK_S)

    def stop(self) -> None:
        """Begin nothing more; what is being told will be told again by the next holder."""
        self._stopped = True
        for task in self._telling:
            task.cancel()

    async def _scan(self) -> None:
        async def on_record(delivery: Delivery[InvocationRecord]) -> None:
            self.on_record(delivery)

        while True:
            try:
                await self._teller.scan(on_record)
            except PlatformError as error:
                log.warning("callback.not_scanned", error=str(error))
                await asyncio.sleep(TICK_S)
            else:
                return

    def on_record(self, delivery: Delivery[InvocationRecord]) -> None:
        """A record was written."""
        self._step(heard(delivery))

    def _step(self, event: Event) -> None:
        if self._stopped:
            return
        for decision in self._machine.step(event, self._teller._platform.clock.unix()):  # noqa: SLF001
            match decision:
                case Tell():
                    telling = self._tasks.create_task(self._tell(decision))
                    self._telling.add(telling)
                    telling.add_done_callback(self._telling.discard)
                case ScanAgain():
                    self._telling.add(self._tasks.create_task(self._scan()))

    async def _tell(self, tell: Tell) -> None:
        noted = False
        if self._lease.held:
            noted = await self._teller.tell(self._session, tell.workspace, tell.invocation_id)
        self._step(Told(tell.invocation_id, noted))


def heard(delivery: Delivery[InvocationRecord]) -> Heard:
    """Return what a record's headers say of its callback."""
    text = delivery.headers.get(HEADER_ABOUT) or ""
    due = '"callback":"due"' in text
    return Heard(
        invocation_id=InvocationId(delivery.fields["invocation_id"]),
        workspace=WorkspaceId(delivery.fields["workspace"]),
        sequence=delivery.sequence,
        due=due,
        due_at=_ABOUT.decode(text).callback_at if due else 0.0,
    )


def _words(err: BaseException) -> str:
    if isinstance(err, aiohttp.ClientConnectorError):
        err = err.os_error
    return (str(err) or type(err).__name__)[:ERROR_CHARS_MAX]


def callback_body(record: InvocationRecord) -> bytes:
    """Return what is told: the task as its status shows it."""
    value = task_value(record) | {
        "event": "task.ended",
        "name": record.name,
        "app": record.app,
        "tags": record.tags,
        "parent": record.parent or None,
    }
    return msgspec.json.encode(value)
