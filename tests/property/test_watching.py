"""Files of a volume, for all ways of writing them: each settled content is told of once."""

from __future__ import annotations

from glowplug_gateway.watching import SETTLED_S, FileState, Watch
from hypothesis import given
from hypothesis import strategies as st

PATHS = ["a", "b", "c/d"]
# What happens between two looks: a path's content becomes another number, or the path goes (None).
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(PATHS), st.none() | st.integers(1, 3), max_size=3),
        st.sampled_from([0.3, 0.5, 1.0, 2.0]),
        st.booleans(),  # whether the watcher is killed and started again
        st.booleans(),  # whether telling fails
    ),
    max_size=30,
)


def state(number: int) -> FileState:
    return FileState(number, number, number)


@given(STEPS)
def test_each_settled_content_is_told_once_and_nothing_that_stays_is_missed(steps):
    watch, now, files = Watch({}), 0.0, {}
    told: list[tuple[str, FileState]] = []
    last: dict[str, FileState] = {}
    for changes, pause, restart, fails in steps:
        for path, number in changes.items():
            if number is None:
                files.pop(path, None)
            else:
                files[path] = state(number)
        now += pause
        for gone in last.keys() - files.keys():
            del last[gone]
        for change in watch.step(files, now):
            assert files[change.path] == change.state
            assert (change.kind == "changed") == (change.path in last)
            assert last.get(change.path) != change.state, "told twice"
            if not fails:
                watch.tell(change)
                last[change.path] = change.state
                told.append((change.path, change.state))
        assert watch.told == last
        if restart:
            watch = Watch(watch.told)
    # Left alone, everything is told in the end.
    for _ in range(2):
        for change in watch.step(files, now):
            watch.tell(change)
        now += SETTLED_S + 0.1
    assert watch.told == files
    assert watch.step(files, now + 10) == []


def test_a_file_that_keeps_growing_is_told_of_when_it_is_done():
    watch = Watch({})
    for number in range(20):
        assert watch.step({"a": state(number)}, number * 0.5) == []
    assert watch.step({"a": state(19)}, 9.5 + SETTLED_S / 2) == []
    (change,) = watch.step({"a": state(19)}, 9.5 + SETTLED_S)
    assert (change.path, change.kind) == ("a", "created")
