"""The bookkeeping of a map inside a container: bounded, in order where asked, each input once."""

from __future__ import annotations

from glowplug.client.outcomes import Ended
from glowplug.inside.mapping import AT_ONCE, WINDOW_INPUTS, Course
from hypothesis import given
from hypothesis import strategies as st


def a_course(*, ordered: bool) -> Course:
    return Course(lambda value: b"x" * value, ordered=ordered, return_exceptions=False)


@given(count=st.integers(0, 200), ordered=st.booleans(), data=st.data())
def test_every_input_is_yielded_once_whatever_order_they_end_in(count, ordered, data):
    course, out, yielded, pulled = a_course(ordered=ordered), [], [], 0
    while not course.done:
        while course.wants_more():
            if pulled == count:
                course.exhausted = True
            else:
                out.append(course.add(1)[0])
                pulled += 1
        assert len(out) <= AT_ONCE
        if out:
            index = out.pop(data.draw(st.integers(0, len(out) - 1)))
            course.came([(index, Ended("succeeded", "json", str(index).encode()))])
        yielded += [course.value(found) for found in course.ready()]
    assert sorted(yielded) == list(range(count))
    if ordered:
        assert yielded == sorted(yielded)


def test_a_slow_first_input_holds_up_a_bounded_number_of_others():
    course = a_course(ordered=True)
    course.add(1)
    while course.wants_more():
        index, _ = course.add(1)
        course.came([(index, Ended("succeeded", "json", b"0"))])
        assert list(course.ready()) == []
    assert index == WINDOW_INPUTS - 1
