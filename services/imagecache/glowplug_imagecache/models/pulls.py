"""Bring weights here: whatever record says that it is pending, one imagecache takes, stores and tells of.

Nothing is remembered that is not in the bucket. A pull whose imagecache died is taken by another, or by the same
one when it is back, and goes on with what has been brought.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import structlog
from glowplug_contracts.errors import ConflictError, PlatformError
from glowplug_contracts.messages.invocation import RemoteError
from glowplug_contracts.messages.model import ModelPull, ModelRecord, ModelVersion
from glowplug_contracts.streams import MODELS
from glowplug_contracts.weights import parse_source
from glowplug_runtime.bus import Entry
from glowplug_runtime.service import Shell

from glowplug_imagecache.flattening import Flat, flatten_tree
from glowplug_imagecache.layers.bounds import Bounds
from glowplug_imagecache.metering import Counted
from glowplug_imagecache.models import rules
from glowplug_imagecache.models.sources import Weights, WeightSource
from glowplug_imagecache.models.trees import tree_of
from glowplug_imagecache.settings import ImagecacheSettings
from glowplug_imagecache.stopping import in_thread
from glowplug_imagecache.store import Store

log = structlog.get_logger(__name__)

# What the bucket tells comes at once; this is how soon a pull that lost its imagecache is taken.
LOOK_S: Final = 2.0
# How often a record says how far its pull is.
TELL_S: Final = 1.0
WRITES_MAX: Final = 20
# A pull that is nearer to another replica is taken after all, if only to say that it fails.
LEFT_TO_OTHERS_S: Final = 10.0


class Pulls:
    """See the module."""

    def __init__(
        self, shell: Shell[ImagecacheSettings], store: Store, sources: Mapping[str, WeightSource]
    ) -> None:
        self._shell = shell
        self._store = store
        self._sources = sources
        self._bucket = shell.bus.bucket(MODELS)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(shell.settings.pulls_max)

    async def on_record(self, entry: Entry[ModelRecord]) -> None:
        """A record changed: take its pull, or end one that is not wanted any more."""
        record = entry.value
        if record is not None:
            await self._take(record, entry.revision)

    async def look(self) -> None:
        """Take what nobody does, and end what nobody wants."""
        entries = {entry.key: entry for entry in await self._bucket.entries()}
        wanted = {
            entry.value.pull.pull_id
            for entry in entries.values()
            if entry.value is not None and entry.value.pull is not None
        }
        for pull_id in set(self._running) - wanted:
            self._running[pull_id].cancel()
        records = [entry.value for entry in entries.values() if entry.value is not None]
        for record in rules.choose(
            records, self._alive(), self._shell.instance, tuple(self._running)
        ):
            await self._take(record, entries[_key(record)].revision)

    async def close(self) -> None:
        """Stop; whoever looks next takes what was not done."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _take(self, record: ModelRecord, revision: int) -> None:
        free = rules.choose([record], self._alive(), self._shell.instance, tuple(self._running))
        if not free or record.pull is None or self._shell.stopping.is_set():
            return
        if not await self._is_ours(record.pull):
            return
        taken = rules.take(record, self._shell.instance)
        pull_id = record.pull.pull_id
        if pull_id in self._running:
            return  # the watch and the look may both have seen it
        task = self._shell.tasks.create_task(self._run(taken, revision), name="pull")
        self._running[pull_id] = task
        task.add_done_callback(lambda _: self._running.pop(pull_id, None))

    async def _is_ours(self, pull: ModelPull) -> bool:
        """Return whether to take a pull: leave it to whoever may be nearer for a while, if anybody is."""
        beats = self._shell.peers.services()
        if not any(
            beat.service == self._shell.service and beat.instance != self._shell.instance
            for beat in beats
        ):
            return True
        with contextlib.suppress(PlatformError):  # what is no source fails where it is done
            source = parse_source(pull.source)
            if not await self._sources[source.kind].is_near(source.what):
                return self._shell.clock.unix() - pull.asked_at > LEFT_TO_OTHERS_S
        return True

    async def _run(self, record: ModelRecord, revision: int) -> None:
        assert record.pull is not None  # noqa: S101 - taken
        pull_id = record.pull.pull_id
        try:
            async with self._room:
                await self._bucket.update(_key(record), record, revision)
                await self._pull(record)
        except ConflictError:
            return  # somebody was first, or asked for something else
        except PlatformError as err:
            log.warning("model.pull_failed", model=record.name, pull_id=pull_id, error=str(err))
            error = RemoteError(
                code=err.code, type=type(err).__name__, message=err.message, details=err.details
            )
        except Exception:  # a bug of ours must not leave callers waiting
            log.exception("model.pull_broken", model=record.name, pull_id=pull_id)
            error = RemoteError(
                code="platform.bug", type="Error", message="the pull broke; see the log"
            )
        else:
            return
        with contextlib.suppress(PlatformError):  # the next look finds it and tries again
            await self._change(record, lambda now: rules.fail(now, error))

    async def _pull(self, record: ModelRecord) -> None:
        assert record.pull is not None  # noqa: S101 - taken
        source = parse_source(record.pull.source)
        said = _Said()
        telling = self._shell.tasks.create_task(self._tell(record, said), name="tell of a pull")
        try:
            async with self._sources[source.kind].open(record, source.what, said.say) as weights:
                flat = await self._store_tree(weights, said)
                telling.cancel()
                version = ModelVersion(
                    tree=flat.digest,
                    source=record.pull.source,
                    revision=weights.revision,
                    files=len(weights.files),
                    bytes_total=sum(size for _, size, _ in weights.files),
                    ready_at=self._shell.clock.unix(),
                )
                await self._change(record, lambda now: rules.finish(now, version))
        finally:
            telling.cancel()
        log.info("model.ready", model=record.name, tree=version.tree, bytes=version.bytes_total)

    async def _tell(self, record: ModelRecord, said: _Said) -> None:
        """Write how far the pull is, while it changes; end the pull when it is not wanted any more."""
        told: tuple[str, int, int] = ("", 0, 0)
        while True:
            await asyncio.sleep(TELL_S)
            if (now := said.now) == told:
                continue
            with contextlib.suppress(PlatformError):  # said again soon
                await self._change(record, functools.partial(_told, now))
                told = now

    async def _change(
        self, record: ModelRecord, change: Callable[[ModelRecord], ModelRecord]
    ) -> None:
        """Change the record while its pull is ours. Raises: ConflictError where it is not any more."""
        assert record.pull is not None  # noqa: S101 - taken
        for _ in range(WRITES_MAX):
            entry = await self._bucket.get(_key(record))
            value = entry.value if entry is not None else None
            if entry is None or value is None:
                break
            if not rules.is_pulling(value, record.pull.pull_id, self._shell.instance):
                break
            try:
                await self._bucket.update(entry.key, change(value), entry.revision)
            except ConflictError:
                continue
            return
        raise ConflictError("model.not_ready", f"the pull of {record.name} is not wanted any more")

    async def _store_tree(self, weights: Weights, said: _Said) -> Flat:
        """Store the tree in a thread, which a cancelled pull does not leave behind."""
        bounds = Bounds(bytes_max=self._shell.settings.model_bytes_max)
        total = sum(size for _, size, _ in weights.files)
        counted = Counted(weights.contents, lambda done: said.say("storing", done, total))

        def store(check: Callable[[], None]) -> Flat:
            return flatten_tree(self._store, counted, tree_of(weights.files, bounds), check)

        return await in_thread(store, "the pull")

    def _alive(self) -> set[str]:
        return {beat.instance for beat in self._shell.peers.services()}


class _Said:
    """What a pull said last; said in threads, told by the loop."""

    def __init__(self) -> None:
        self.now: tuple[str, int, int] = ("", 0, 0)

    def say(self, text: str, done: int, total: int) -> None:
        """Say how far it is."""
        self.now = (text, done, total)


@contextlib.asynccontextmanager
async def open_pulls(
    shell: Shell[ImagecacheSettings], store: Store, sources: Mapping[str, WeightSource]
) -> AsyncIterator[Pulls]:
    """Do pulls until closed."""
    pulls = Pulls(shell, store, sources)
    watching = await shell.bus.bucket(MODELS).watch(pulls.on_record)
    shell.every(LOOK_S, pulls.look, "pulls of models")
    try:
        yield pulls
    finally:
        await watching.close()
        await pulls.close()


def _told(said: tuple[str, int, int], record: ModelRecord) -> ModelRecord:
    return rules.tell(record, *said)


def _key(record: ModelRecord) -> str:
    return f"{record.workspace}.{record.name}"
