"""Files of volumes as events: once each, when they have settled."""

from __future__ import annotations

from glowplug_contracts.cloudevents import check_event
from glowplug_gateway.volume_watch import CHANGED, CREATED, FIRST_LOOK_S, SeenFile, VolumeWatch

NOW = 10 * FIRST_LOOK_S


def told(watch: VolumeWatch, *files: SeenFile) -> list[tuple[str, str]]:
    events = watch.look(files, NOW)
    for event in events:
        check_event(event)
    return [(event.type, event.subject) for event in events]


def a_file(path: str = "a.txt", size: int = 1, at: float = NOW) -> SeenFile:
    return SeenFile(path, size, at)


def test_a_file_is_told_of_once_and_when_it_has_settled() -> None:
    watch = VolumeWatch("inbox")
    assert told(watch) == []
    assert told(watch, a_file(size=1)) == []
    assert told(watch, a_file(size=2)) == []
    assert told(watch, a_file(size=2)) == [(CREATED, "inbox/a.txt")]
    assert told(watch, a_file(size=2)) == []


def test_a_change_is_told_of_and_a_file_that_comes_back_is_new() -> None:
    watch = VolumeWatch("inbox")
    for _ in range(3):
        told(watch, a_file())
    assert told(watch, a_file(at=NOW + 1)) == []
    assert told(watch, a_file(at=NOW + 1)) == [(CHANGED, "inbox/a.txt")]
    assert told(watch) == []
    told(watch, a_file(at=NOW + 2))
    assert told(watch, a_file(at=NOW + 2)) == [(CREATED, "inbox/a.txt")]


def test_a_restart_tells_the_same_event_and_nothing_of_old_files() -> None:
    old = a_file("old", at=NOW - FIRST_LOOK_S - 1)
    events = []
    for _ in range(2):
        watch = VolumeWatch("inbox")
        watch.look([a_file(), old], NOW)
        events.append(watch.look([a_file(), old], NOW))
    first, second = events
    assert first == second
    assert [event.subject for event in first] == ["inbox/a.txt"]
