"""Objects kept by the replicas themselves, each in a directory of its own, several copies of each.

Who has an object is decided by rendezvous hashing of its path over the members that live, so nobody keeps a table.
A put goes to the first `copies` of them; one that does not answer is passed over, and the next takes its place. A get
asks in that order until a copy is what its name says, and gives it to those before it that lack it (read repair); a
scrub reads every copy, mends the bad and missing ones, and takes away what is too many once all members are there.

With fewer copies than members away, something could be nowhere: then what is not found is an error, not an answer.
What looks at all objects (eviction, leases) needs all members, since what one has alone keeps others' objects alive.
Blocks.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar, cast

import structlog
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.rendezvous import ranked

from glowplug_imagecache.member_calls import AwayError, Member
from glowplug_imagecache.naming import matches
from glowplug_imagecache.object_doors import DELETED_MAX, MEMORY_BYTES
from glowplug_imagecache.places import Thing
from glowplug_imagecache.raw_shelf import PIECE_BYTES, RawShelf

log = structlog.get_logger(__name__)

REQUESTS_AT_ONCE: Final = 16
# One that did not answer is passed over for so long; by then its beats say whether it lives.
PASSED_OVER_S: Final = 5.0
RETRY_S: Final = 2.0

T = TypeVar("T")
R = TypeVar("R")


class OwnShare:
    """This replica's own share, asked as a member is."""

    def __init__(self, shelf: RawShelf) -> None:
        self._shelf = shelf

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write an object."""
        source.seek(0)
        try:
            self._shelf.put(path, source)
        except OSError as err:  # a full disk: another member takes it
            raise AwayError(f"can't write: {err.strerror}") from err

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        """Write an object to a file; return whether it is here and no longer than that."""
        found = self._shelf.open(path)
        if found is None:
            return False
        with found:
            if found.seek(0, 2) > bytes_max:
                return False
            found.seek(0)
            shutil.copyfileobj(found, file, PIECE_BYTES)
        return True

    def close(self) -> None:
        """Do nothing: it has no connections."""

    def head(self, path: str) -> Thing | None:
        """Return what is here under a path."""
        return self._shelf.head(path)

    def delete(self, paths: list[str]) -> None:
        """Remove objects."""
        self._shelf.delete(paths)

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """Yield what is in a folder and those below it, by path."""
        return self._shelf.walk(folder, after)


Share = OwnShare | Member


class Cluster:
    """See the module.

    Args:
        name: this replica's; `own` is its share.
        token: what members show each other.
        copies: of each object.
        members: how many replicas there are when all are.
        scratch: a folder for what is being copied.
    """

    def __init__(
        self, name: str, own: RawShelf, token: str, *, copies: int, members: int, scratch: Path
    ) -> None:
        self._name = name
        self._token = token
        self._copies = copies
        self._wanted = members
        self._scratch = scratch
        self._shares: dict[str, Share] = {name: OwnShare(own)}
        self._urls: dict[str, str] = {}
        self._away: dict[str, float] = {}
        self._failures = 0
        self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "cluster")

    def close(self) -> None:
        """See Objects."""
        self._threads.shutdown(wait=True)
        self.meet({})

    def meet(self, urls: Mapping[str, str]) -> None:
        """Know the other members that live, by name."""
        others = {name: url for name, url in urls.items() if name != self._name}
        if others == self._urls:
            return
        kept = {
            n: s
            for n, s in self._shares.items()
            if n == self._name or (n in others and others[n] == self._urls[n])
        }
        made: dict[str, Share] = {
            name: Member(url, self._token) for name, url in others.items() if name not in kept
        }
        left = [share for name, share in self._shares.items() if name not in kept]
        # Replaced as a whole, since threads read it.
        self._urls = others
        self._shares = kept | made
        for share in left:
            share.close()

    @property
    def missing_members(self) -> int:
        """Return how many are not there now."""
        return max(0, self._wanted - len(self._live()))

    def put(self, path: str, data: bytes | IO[bytes]) -> None:
        """See Objects."""
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        done = 0
        for name, share in self._by_rank(path):
            if self._tried(name, partial(share.put, path, source)) is not AWAY:
                done += 1
                if done == self._copies:
                    return
        if not done:
            raise self._too_few("keep")

    def get(self, path: str, bytes_max: int) -> bytes | None:
        """See Objects."""
        with self._temporary() as file:
            if not self.fetch(path, file, bytes_max):
                return None
            file.seek(0)
            return file.read()

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        """See Objects. What it wrote is what the path names."""
        lacking: list[tuple[str, Share]] = []
        seen = 0
        for rank, (name, share) in enumerate(self._by_rank(path)):
            there = self._copied(name, share, path, file, bytes_max)
            if there is AWAY:
                continue
            seen += bool(there)
            if there and matches(path, file):
                self._heal(path, file, lacking)
                return True
            if rank < self._copies:
                lacking.append((name, share))
        _empty(file)
        if not seen:
            self._check_enough("find")
        return False

    def head(self, path: str) -> Thing | None:
        """See Objects. The latest copy says when it was written."""
        found: Thing | None = None
        for rank, (name, share) in enumerate(self._by_rank(path)):
            if found is not None and rank >= self._copies:
                break
            one = self._tried(name, partial(share.head, path))
            if isinstance(one, Thing) and (found is None or one.at > found.at):
                found = one
        if found is None:
            self._check_enough("find")
        return found

    def copy(self, path: str, to: str) -> bool:
        """See Objects."""
        with self._temporary() as file:
            if not self.fetch(path, file, MAX_BYTES):
                return False
            self.put(to, file)
            return True

    def delete(self, paths: Iterable[str]) -> None:
        """See Objects. A member that is away keeps its copy, which is old when it comes back."""
        wanted = list(paths)
        for start in range(0, len(wanted), DELETED_MAX):
            some = wanted[start : start + DELETED_MAX]
            for name, share in self._live().items():
                self._tried(name, partial(share.delete, some))

    def walk(self, folder: str, after: str = "") -> Iterator[Thing]:
        """See Objects: what any member has, once, with the latest time."""
        walks = [self._walked(name, share, folder, after) for name, share in self._live().items()]
        merged = heapq.merge(*walks, key=lambda one: one.path)
        for _, same in itertools.groupby(merged, key=lambda one: one.path):
            yield max(same, key=lambda one: one.at)

    def intact(self, path: str, bytes_max: int) -> bool | None:
        """See Objects. Mends copies that are bad or missing, and takes away those that are too many."""
        by_rank = list(self._by_rank(path))
        good: IO[bytes] | None = None
        lacking: list[tuple[str, Share]] = []
        bad = False
        with contextlib.ExitStack() as stack:
            for rank, (name, share) in enumerate(by_rank):
                file = stack.enter_context(self._temporary())
                there = self._copied(name, share, path, file, bytes_max)
                fine = there is True and matches(path, file, decoded=True)
                if fine:
                    good = good or file
                elif there is not AWAY and rank < self._copies:
                    lacking.append((name, share))
                if there is True and not fine:
                    log.error("object.corrupt", path=path, member=name)
                    bad = True
                    if rank >= self._copies:
                        self._tried(name, partial(share.delete, [path]))
            if good is None:
                return False if bad else None
            if self._heal(path, good, lacking) and not self.missing_members:
                for name, share in by_rank[self._copies :]:
                    self._tried(name, partial(share.delete, [path]))
        return True

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """See Objects."""
        failures = self._failures
        if self.missing_members:
            raise self._too_few("look at all objects")
        yield
        if self.missing_members or failures != self._failures:
            raise self._too_few("look at all objects")

    def each(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """See Objects."""
        if len(items) == 1:
            return [do(items[0])]
        return list(self._threads.map(do, items))

    # -- Members --------------------------------------------------------------------------------

    def _live(self) -> dict[str, Share]:
        now = time.monotonic()
        return {n: s for n, s in self._shares.items() if self._away.get(n, 0.0) <= now}

    def _by_rank(self, path: str) -> Iterator[tuple[str, Share]]:
        live = self._live()
        return ((name, live[name]) for name in ranked(path, live))

    def _tried(self, name: str, work: Callable[[], T]) -> T | _Away:
        """Ask a member; AWAY, and it is passed over for a while, if it does not answer."""
        try:
            return work()
        except AwayError as err:
            log.warning("member.away", member=name, error=str(err))
            self._failures += 1
            self._away[name] = time.monotonic() + PASSED_OVER_S
            return AWAY

    def _walked(self, name: str, share: Share, folder: str, after: str) -> Iterator[Thing]:
        found = share.walk(folder, after)
        while True:
            one = self._tried(name, partial(next, found, None))
            if not isinstance(one, Thing):
                return
            yield one

    def _copied(
        self, name: str, share: Share, path: str, file: IO[bytes], bytes_max: int
    ) -> bool | _Away:
        _empty(file)
        return self._tried(name, partial(share.fetch, path, file, bytes_max))

    def _heal(self, path: str, file: IO[bytes], lacking: list[tuple[str, Share]]) -> bool:
        """Give a copy to members that should have one; return whether they have it."""
        healed = True
        for name, share in lacking:
            log.info("object.healed", path=path, member=name)
            done = self._tried(name, partial(share.put, path, file))
            healed = healed and done is not AWAY
        return healed

    def _temporary(self) -> IO[bytes]:
        return cast(
            "IO[bytes]", tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(self._scratch))
        )

    def _check_enough(self, what: str) -> None:
        if self.missing_members >= self._copies:
            raise self._too_few(what)

    def _too_few(self, what: str) -> UnavailableError:
        return UnavailableError(
            "platform.unavailable",
            f"imagecache can't {what}: {self.missing_members} of its {self._wanted} replicas are away, and "
            f"there are {self._copies} copies of each object; start them again",
            retry_after_s=RETRY_S,
        )


class _Away:
    """A member did not answer."""


AWAY: Final = _Away()
MAX_BYTES: Final = 1 << 62


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
