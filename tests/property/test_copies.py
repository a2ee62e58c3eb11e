"""Copies on replicas, of which one is away, lost or corrupt at any moment: what was put is read, and nothing else."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import IO

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_imagecache.cluster import Cluster
from glowplug_imagecache.member_calls import AwayError
from glowplug_imagecache.objects import digest_of
from glowplug_imagecache.places import Thing
from glowplug_imagecache.raw_shelf import RawShelf
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

NAMES = ("one", "two", "three")
CONTENTS = [f"content {number}".encode() for number in range(4)]
PATHS = [f"blobs/{digest_of(data)[:2]}/{digest_of(data)}" for data in CONTENTS]
BYTES_MAX = 100


class Share:
    """One member's share, in memory."""

    def __init__(self) -> None:
        self.has: dict[str, bytes] = {}
        self.away = False

    def _here(self) -> dict[str, bytes]:
        if self.away:
            raise AwayError("told so")
        return self.has

    def put(self, path: str, source: IO[bytes]) -> None:
        source.seek(0)
        self._here()[path] = source.read()

    def fetch(self, path: str, file: IO[bytes], bytes_max: int) -> bool:
        found = self._here().get(path)
        if found is not None:
            file.write(found)
        return found is not None

    def head(self, path: str) -> Thing | None:
        found = self._here().get(path)
        return None if found is None else Thing(path, len(found), 1.0)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            self._here().pop(path, None)

    def walk(self, folder: str, after: str = ""):
        return iter([Thing(path, 1, 1.0) for path in sorted(self._here()) if path > after])

    def close(self) -> None:
        pass


class Copies(RuleBasedStateMachine):
    """Any replica is asked; at most one is away, and what was lost or hurt is scrubbed before the next is."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.shares = {name: Share() for name in NAMES}
        self.stored: set[int] = set()
        self.clusters = []
        root = Path(self.folder.name)
        for name in NAMES:
            cluster = Cluster(name, RawShelf(root), "t", copies=2, members=3, scratch=root)
            cluster._shares = self.shares  # type: ignore[assignment]
            self.clusters.append(cluster)
        for number in range(len(PATHS)):
            self.put(number, number)

    def teardown(self) -> None:
        for cluster in getattr(self, "clusters", []):
            cluster._threads.shutdown()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def ask(self, which: int) -> Cluster:
        """Return a replica that is not away, which heard long ago who is."""
        there = [c for c in self.clusters if not self.shares[c._name].away]
        chosen = there[which % len(there)]
        chosen._away.clear()
        return chosen

    def nobody_is_away(self) -> bool:
        return not any(share.away for share in self.shares.values())

    def scrub(self, which: int) -> None:
        for number, path in enumerate(PATHS):
            found = self.ask(which).intact(path, BYTES_MAX)
            assert found is (True if number in self.stored else None)

    @rule(which=st.integers(0, 2), number=st.integers(0, 3))
    def put(self, which: int, number: int) -> None:
        self.ask(which).put(PATHS[number], io.BytesIO(CONTENTS[number]))
        self.stored.add(number)

    @rule(which=st.integers(0, 2), number=st.integers(0, 3))
    def delete(self, which: int, number: int) -> None:
        if self.nobody_is_away():  # else its copy comes back, which is allowed
            self.ask(which).delete([PATHS[number]])
            self.stored.discard(number)

    @precondition(nobody_is_away)
    @rule(name=st.sampled_from(NAMES))
    def goes_away(self, name: str) -> None:
        self.shares[name].away = True

    @rule(which=st.integers(0, 2))
    def comes_back(self, which: int) -> None:
        for share in self.shares.values():
            share.away = False
        self.scrub(which)

    @precondition(nobody_is_away)
    @rule(name=st.sampled_from(NAMES), which=st.integers(0, 2))
    def loses_its_disk(self, name: str, which: int) -> None:
        self.scrub(which)
        self.shares[name].has.clear()
        self.scrub(which)

    @precondition(nobody_is_away)
    @rule(name=st.sampled_from(NAMES), which=st.integers(0, 2), scrubbed=st.booleans())
    def bytes_flip(self, name: str, which: int, scrubbed: bool) -> None:
        self.scrub(which)
        for path in self.shares[name].has:
            self.shares[name].has[path] = b"flipped"
        if scrubbed:
            self.scrub(which)
        else:
            for number in self.stored:
                assert self.ask(which).get(PATHS[number], BYTES_MAX) == CONTENTS[number]
            self.scrub(which)

    @invariant()
    def everybody_reads_what_was_put_and_nothing_else(self) -> None:
        if not hasattr(self, "clusters"):
            return
        for which in range(2):
            cluster = self.ask(which)
            for number, path in enumerate(PATHS):
                expected = CONTENTS[number] if number in self.stored else None
                assert cluster.get(path, BYTES_MAX) == expected
                assert (cluster.head(path) is not None) == (number in self.stored)
            if self.nobody_is_away():
                with cluster.whole():
                    seen = {thing.path for thing in cluster.walk("blobs")}
                assert seen == {PATHS[number] for number in self.stored}
            else:
                with pytest.raises(UnavailableError), cluster.whole():
                    list(cluster.walk("blobs"))


def test_what_was_put_is_read_whoever_is_away_lost_or_corrupt() -> None:
    run_state_machine_as_test(
        Copies, settings=settings(max_examples=30, stateful_step_count=15, deadline=None)
    )
