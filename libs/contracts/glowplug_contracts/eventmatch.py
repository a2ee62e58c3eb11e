r"""Which events a pattern or filter means. Pure; compiled once, matched often, never backtracking.

Grammar of a pattern: `*` is any run of characters inside one part, `?` is one such character, `**` is
any run at all, `\` takes the next character as it is. Parts are divided by "." in an event's type and
by "/" in its subject. A pattern that begins with "subject:" is about the subject, any other (also with
"type:" before it) about the type.

The gateway matches with it what it shows and replays, the event router what it routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.event import CloudEvent, EventFilter, TriggerSpec

PATTERNS_MAX: Final = 64
PATTERN_CHARS_MAX: Final = 512
FILTER_DEPTH_MAX: Final = 8
FILTER_NODES_MAX: Final = 128
ATTRIBUTES_MAX: Final = 64
VALUE_CHARS_MAX: Final = 2_048
BATCH_MAX: Final = 1_000
WINDOW_S_MAX: Final = 3_600.0

Match = Callable[[CloudEvent], bool]

_ANY, _PART, _ONE = "**", "*", "?"
_WANTED = {"exact": "attributes", "prefix": "attributes", "suffix": "attributes"}
_COMBINED = ("all", "any", "not")


class Glob:
    """A compiled pattern over texts whose parts are divided by `divider`.

    Attributes:
        literal: the text that alone matches, where the pattern has no wildcards; else None.
    """

    __slots__ = ("_divider", "_tokens", "literal")

    def __init__(self, pattern: str, divider: str) -> None:
        self._divider = divider
        self._tokens = _tokens(pattern)
        plain = all(not wild for wild, _ in self._tokens)
        self.literal = "".join(text for _, text in self._tokens) if plain else None

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches. Cost: its length times the pattern's tokens."""
        if self.literal is not None:
            return text == self.literal
        reached = self._skip({0})
        for letter in text:
            reached = self._skip(self._step(reached, letter))
            if not reached:
                return False
        return len(self._tokens) in reached

    def _step(self, reached: set[int], letter: str) -> set[int]:
        found: set[int] = set()
        for at in reached:
            if at == len(self._tokens):
                continue
            wild, text = self._tokens[at]
            if not wild:
                if text == letter:
                    found.add(at + 1)
            elif text == _ANY or letter != self._divider:
                found.add(at + 1 if text == _ONE else at)
        return found

    def _skip(self, reached: set[int]) -> set[int]:
        """Add where one gets to by letting stars stand for nothing."""
        found = set(reached)
        for start in reached:
            at = start
            while at < len(self._tokens) and self._tokens[at] in ((True, _ANY), (True, _PART)):
                at += 1
                found.add(at)
        return found


def _tokens(pattern: str) -> list[tuple[bool, str]]:
    """Return (is a wildcard, text) for each piece: wildcards as they are written, single letters."""
    found: list[tuple[bool, str]] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith(_ANY, at):
            found.append((True, _ANY))
            at += 2
        elif pattern[at] in "*?":
            found.append((True, pattern[at]))
            at += 1
        elif pattern[at] == "\\":
            if at + 1 == len(pattern):
                raise _wrong(pattern, "a backslash at its end takes nothing")
            found.append((False, pattern[at + 1]))
            at += 2
        else:
            found.append((False, pattern[at]))
            at += 1
    return found


def attribute(event: CloudEvent, name: str) -> str:
    """Return an attribute's value, "" where the event has none."""
    if name in _ATTRIBUTES:
        value: str = getattr(event, name)
        return value
    if name == "specversion":
        return "1.0"
    return event.extensions.get(name, "")


_ATTRIBUTES = frozenset(
    {"id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}
)


def compile_pattern(pattern: str) -> Match:
    """Return the test of one pattern. Raises: InvalidRequestError."""
    check_pattern(pattern)
    name, glob = parse_pattern(pattern)
    if name == "subject":
        return lambda event: glob.matches(event.subject)
    return lambda event: glob.matches(event.type)


def parse_pattern(pattern: str) -> tuple[str, Glob]:
    """Return what a pattern is about ("type" or "subject") and its glob."""
    if pattern.startswith("subject:"):
        return "subject", Glob(pattern.removeprefix("subject:"), "/")
    return "type", Glob(pattern.removeprefix("type:"), ".")


def compile_patterns(patterns: Iterable[str]) -> Match:
    """Return the test that one of the patterns matches. Raises: InvalidRequestError."""
    tests = [compile_pattern(pattern) for pattern in patterns]
    if len(tests) == 1:
        return tests[0]
    return lambda event: any(test(event) for test in tests)


def compile_filter(wanted: EventFilter) -> Match:
    """Return the test of a filter that `check_filter` accepts."""
    if wanted.kind in _COMBINED:
        tests = [compile_filter(one) for one in wanted.filters]
        if wanted.kind == "all":
            return lambda event: all(test(event) for test in tests)
        if wanted.kind == "any":
            return lambda event: any(test(event) for test in tests)
        return lambda event: not tests[0](event)
    pairs = tuple(wanted.attributes.items())
    if wanted.kind == "exact":
        return lambda event: all(attribute(event, name) == text for name, text in pairs)
    if wanted.kind == "prefix":
        return lambda event: all(attribute(event, name).startswith(text) for name, text in pairs)
    return lambda event: all(attribute(event, name).endswith(text) for name, text in pairs)


def compile_trigger(spec: TriggerSpec) -> Match:
    """Return the test whether a trigger wants an event. Raises: InvalidRequestError."""
    by_pattern = compile_patterns(spec.patterns)
    if spec.filter is None:
        return by_pattern
    check_filter(spec.filter)
    by_filter = compile_filter(spec.filter)
    return lambda event: by_pattern(event) and by_filter(event)


# -- checks: specs come from outside -------------------------------------------------------------


def check_trigger(spec: TriggerSpec) -> None:
    """Raise InvalidRequestError unless a trigger can be compiled and is within the bounds."""
    if not 1 <= len(spec.patterns) <= PATTERNS_MAX:
        raise _bad(f"an event trigger takes 1 to {PATTERNS_MAX} patterns")
    for pattern in spec.patterns:
        check_pattern(pattern)
    if not 0 <= spec.batch <= BATCH_MAX:
        raise _bad(f"batch is {spec.batch}; it must be from 0 to {BATCH_MAX}")
    if not 0 <= spec.window_s <= WINDOW_S_MAX:
        raise _bad(f"window is {spec.window_s:g} s; it must be from 0 to {WINDOW_S_MAX:g}")
    if spec.window_s and not spec.batch:
        raise _bad("window without batch: say how many events one call takes")
    if spec.filter is not None:
        check_filter(spec.filter)


def check_pattern(pattern: str) -> None:
    """Raise InvalidRequestError unless a pattern can be compiled."""
    if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
        raise _bad(f"a pattern has 1 to {PATTERN_CHARS_MAX} characters")
    if not pattern.removeprefix("subject:").removeprefix("type:"):
        raise _wrong(pattern, "it matches nothing")
    _tokens(pattern)


def check_filter(wanted: EventFilter) -> None:
    """Raise InvalidRequestError unless a filter is well formed and within the bounds."""
    if _check_node(wanted, 1) > FILTER_NODES_MAX:
        raise _bad(f"a filter has at most {FILTER_NODES_MAX} parts")


def _check_node(wanted: EventFilter, depth: int) -> int:
    if depth > FILTER_DEPTH_MAX:
        raise _bad(f"a filter is nested at most {FILTER_DEPTH_MAX} deep")
    if wanted.kind in _COMBINED:
        if not wanted.filters or wanted.attributes:
            raise _bad(f"the filter {wanted.kind!r} takes filters")
        if wanted.kind == "not" and len(wanted.filters) != 1:
            raise _bad("the filter 'not' takes one filter")
        return 1 + sum(_check_node(one, depth + 1) for one in wanted.filters)
    if wanted.kind not in _WANTED:
        known = ", ".join((*_WANTED, *_COMBINED))
        raise _bad(f"{wanted.kind[:64]!r} is no filter; there are {known}")
    if not 1 <= len(wanted.attributes) <= ATTRIBUTES_MAX or wanted.filters:
        raise _bad(f"the filter {wanted.kind!r} takes 1 to {ATTRIBUTES_MAX} attributes with values")
    for name, value in wanted.attributes.items():
        if not name.isascii() or not name.isalnum() or name != name.lower():
            raise _bad(f"{name[:64]!r} is no attribute: they have lower-case letters and digits")
        if not 0 < len(value) <= VALUE_CHARS_MAX:
            raise _bad(f"the filter's value for {name} has 1 to {VALUE_CHARS_MAX} characters")
    return 1


def _wrong(pattern: str, why: str) -> InvalidRequestError:
    return _bad(f"the pattern {pattern[:80]!r}: {why}")


def _bad(message: str) -> InvalidRequestError:
    return InvalidRequestError("event.bad_pattern", message)
