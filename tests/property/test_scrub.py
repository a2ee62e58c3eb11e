"""Whenever it is asked, killed or refused: a scrub reads everything once a pass, and no faster than it may."""

from __future__ import annotations

import msgspec
from glowplug_imagecache.scrub import (
    BURST_S,
    Assess,
    Assessed,
    Check,
    Checked,
    Failed,
    Hurt,
    Progress,
    Save,
    Scrub,
    Tell,
    Tick,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PERIOD_S = 1_000.0
FILES = st.dictionaries(st.sampled_from([f"chunks/{n:02}" for n in range(20)]), st.integers(0, 500))


class World:
    """A store of files of certain sizes, and a process that may die."""

    def __init__(self, files: dict[str, int], rate: int, data: st.DataObject) -> None:
        self.files = files
        self.rate = rate
        self.data = data
        self.now = 1_000_000.0
        self.saved = Progress()
        self.checked: list[str] = []
        self.read: list[tuple[float, int]] = []
        self.told: list[Progress] = []
        self.machine = self.born()

    def born(self) -> Scrub:
        restored = msgspec.json.decode(msgspec.json.encode(self.saved), type=Progress)
        return Scrub(restored, bytes_per_s=self.rate, period_s=PERIOD_S)

    def second(self) -> None:
        """Let some time pass, and do what is decided, unless something happens to it."""
        self.now += self.data.draw(st.sampled_from([0.1, 1.0, 1.0, 30.0]))
        fate = self.data.draw(st.sampled_from(["done", "done", "done", "failed", "killed"]))
        decisions = self.machine.step(Tick(), self.now)
        while decisions:
            decision = decisions.pop(0)
            assert self.machine.step(Tick(), self.now) == []  # one thing at a time
            if fate == "failed" and not isinstance(decision, Tell):
                self.machine.step(Failed(), self.now)
                return
            if fate == "killed" and not isinstance(decision, Save):
                self.machine = self.born()
                self.read = []  # a process that begins owes nothing
                return
            match decision:
                case Check():
                    decisions += self.machine.step(self.check(decision), self.now)
                case Assess():
                    hurt = (Hurt(digest="d" * 64, missing=1),)  # type: ignore[arg-type]
                    decisions += self.machine.step(Assessed(hurt), self.now)
                case Save():
                    self.saved = decision.progress
                case Tell():
                    self.told.append(decision.progress)

    def check(self, decision: Check) -> Checked:
        assert decision.bytes_max >= 1
        found: list[str] = []
        size = 0
        for name in sorted(self.files):
            if name > decision.after and (size < decision.bytes_max or not found):
                found.append(name)
                size += self.files[name]
        self.checked += found
        self.read.append((self.now, size))
        after = found[-1] if found else decision.after
        return Checked(after, len(found), size, (), ended=not any(n > after for n in self.files))


@settings(max_examples=40, deadline=None)
@given(FILES, st.integers(50, 2_000), st.data())
def test_a_pass_reads_every_file(files: dict[str, int], rate: int, data: st.DataObject) -> None:
    world = World(files, rate, data)
    for _ in range(40):
        world.second()
    if not world.told:
        world.data = _Undisturbed()  # type: ignore[assignment]
        for _ in range(400):
            world.second()
    assert world.told
    assert set(files) == set(world.checked)
    first = world.told[0]
    assert (first.files, first.bytes) == (len(files), sum(files.values()))
    assert first.hurt_count == 1
    assert first.ended_at >= first.began_at
    largest = max(files.values(), default=0)
    for at, (begin, _) in enumerate(world.read):
        for until in range(at, len(world.read)):
            read = sum(size for _, size in world.read[at : until + 1])
            span = world.read[until][0] - begin
            assert read <= rate * (span + BURST_S) + largest + 1


class _Undisturbed:
    def draw(self, strategy: st.SearchStrategy[object]) -> object:
        del strategy
        return next(self._answers)

    def __init__(self) -> None:
        self._answers = iter([1.0, "done"] * 1_000)


def test_what_is_hurt_stays_said_during_the_next_pass() -> None:
    before = Progress(
        began_at=10.0,
        ended_at=20.0,
        hurt=(Hurt(digest="d" * 64, missing=1),),  # type: ignore[arg-type]
        hurt_count=1,
    )
    machine = Scrub(before, bytes_per_s=100, period_s=50.0)
    assert machine.step(Tick(), 59.0) == []
    assert machine.step(Tick(), 61.0) == [Check("", 200)]
    assert (machine.progress.hurt, machine.progress.files) == (before.hurt, 0)
