"""Models of a Hugging Face hub: what a repository holds at a commit, brought file by file.

A revision's name is looked up once for each pull, and the files are those of the commit that it stood for. They lie
in a folder of this process, named by workspace and digest, until the model is stored: another try, or another process
after a kill, goes on there. What one workspace has brought with its token is no other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from glowplug_contracts.errors import PlatformError
from glowplug_contracts.messages.model import ModelRecord
from glowplug_contracts.weights import parse_source
from glowplug_runtime.groups import leaves

from glowplug_imagecache.folders import LayerFolder
from glowplug_imagecache.models.fetching import Fetcher
from glowplug_imagecache.models.hub_words import (
    ANSWER_BYTES_MAX,
    HubFile,
    Repository,
    api_url,
    file_url,
    read_repository,
)
from glowplug_imagecache.models.sources import Say, Weights
from glowplug_imagecache.models.uploads import full
from glowplug_imagecache.quota import Quota
from glowplug_imagecache.registry.downloads import Download
from glowplug_imagecache.registry.manifests import Descriptor

FILES_AT_ONCE: Final = 4
# What a pull that failed has brought serves the next for so long.
KEPT_S: Final = 86_400.0


class HubWeights:
    """See the module; a `WeightSource`.

    Args:
        hub: its URL.
        token: asks a gateway for what a pull's secret holds, "" where it names none.
        bytes_max: of one model.
        free_bytes_min: a pull that would leave less on the disk is refused before it begins.
    """

    def __init__(
        self,
        hub: str,
        fetcher: Fetcher,
        folder: LayerFolder,
        token: Callable[[ModelRecord], Awaitable[str]],
        quota: Quota,
        *,
        bytes_max: int,
        free_bytes_min: int,
    ) -> None:
        self._hub = hub.rstrip("/")
        self._fetcher = fetcher
        self._folder = folder
        self._token = token
        self._quota = quota
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._in_use: Counter[str] = Counter()
        # Two pulls may want the same file: one brings it, the other finds it.
        self._bringing: dict[str, asyncio.Lock] = {}

    async def is_near(self, what: str) -> bool:  # noqa: ARG002 - a hub is as near to all
        """Return whether this imagecache can bring it."""
        return True

    @contextlib.asynccontextmanager
    async def open(self, record: ModelRecord, what: str, say: Say) -> AsyncIterator[Weights]:
        """Yield a repository's files. Raises: PlatformError (model.…, store.full)."""
        assert record.pull is not None  # noqa: S101 - taken
        revision = parse_source(record.pull.source).revision
        token = await self._token(record)
        found = await self._fetcher.read(
            api_url(self._hub, what, revision), token, ANSWER_BYTES_MAX
        )
        repository = await asyncio.to_thread(read_repository, found, self._bytes_max)
        names = [self._name(record, file) for file in repository.files]
        self._in_use.update(names)
        try:
            with contextlib.closing(self._quota.room(record.workspace)) as room:
                await room.hold(repository.size)
                await self._check_room(repository, names)
                await self._bring(what, repository, names, token, say)
                yield Weights(
                    files=tuple((file.path, file.size, False) for file in repository.files),
                    contents=_Files([self._folder.path / name for name in names]),
                    revision=repository.commit,
                )
        finally:
            self._in_use.subtract(names)
        await asyncio.to_thread(self._drop, names)

    def sweep(self, now: float) -> None:
        """Remove what no pull has used for KEPT_S (`now`: Unix time)."""
        in_use = frozenset(name for name, count in self._in_use.items() if count > 0)
        self._in_use = Counter({name: self._in_use[name] for name in in_use})
        self._folder.sweep(now - KEPT_S, in_use)
        self._folder.sweep_others(now - KEPT_S)

    async def _bring(
        self, what: str, repository: Repository, names: list[str], token: str, say: Say
    ) -> None:
        """Bring all files, a few at a time. Raises: PlatformError, OSError."""
        there: dict[int, int] = {}
        waiting = iter(enumerate(zip(repository.files, names, strict=True)))

        async def bring() -> None:
            for number, (file, name) in waiting:  # shared: whoever is free takes the next one

                def have(size: int, number: int = number) -> None:
                    there[number] = size
                    say("downloading", sum(there.values()), repository.size)

                url = file_url(self._hub, what, repository.commit, file.path)
                await self._bring_file(url, token, file, name, have)
                have(file.size)

        say("downloading", 0, repository.size)
        failed: BaseExceptionGroup[PlatformError | OSError] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(FILES_AT_ONCE):
                    tasks.create_task(bring())
        except* (PlatformError, OSError) as group:
            failed = group  # raised outside, since what is raised in here comes out in a group
        if failed is not None:
            raise leaves(failed)[0] from failed  # files fail for the same reason

    async def _bring_file(
        self, url: str, token: str, file: HubFile, name: str, have: Callable[[int], None]
    ) -> None:
        target = self._folder.path / name
        lock = self._bringing.setdefault(name, asyncio.Lock())
        async with lock:
            if file.size == 0:
                await asyncio.to_thread(target.touch)
            else:
                blob = Descriptor(digest=file.digest, size=file.size)
                download = Download(target, blob, have, before=file.before)
                await self._fetcher.download(url, token, download)
        self._bringing.pop(name, None)

    async def _check_room(self, repository: Repository, names: list[str]) -> None:
        """Raise UnavailableError (model.no_room) where what is not here yet would fill the disk."""

        def check() -> None:
            lacking = sum(
                file.size
                for file, name in zip(repository.files, names, strict=True)
                if not (self._folder.path / name).exists()
            )
            free = self._folder.free_bytes()
            if free - lacking < self._free_bytes_min:
                raise full(
                    f"imagecache's disk has {free} bytes free: the model's files need {lacking}, and "
                    f"{self._free_bytes_min} are kept free"
                )

        await asyncio.to_thread(check)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            if self._in_use[name] <= 0:
                (self._folder.path / name).unlink(missing_ok=True)

    def _name(self, record: ModelRecord, file: HubFile) -> str:
        """Return the name of a file's bytes here: the same only for the same bytes of one workspace."""
        text = f"{record.workspace}\0{file.digest}\0{file.size}"
        return f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


class _Files:
    """Reads the files that were brought."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def read(self, content: int, offset: int, size: int) -> bytes:
        """Return bytes of a file."""
        with self._paths[content].open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        assert len(data) == size, (content, offset, size)  # noqa: S101 - it was checked, and nobody else has it
        return data
