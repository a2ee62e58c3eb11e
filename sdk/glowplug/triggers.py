"""What `@on_event` was asked for: patterns, filter, batch and window, checked where they are written.

The grammar of patterns is the platform's (docs/guide/events.md); it is checked when the function is
deployed. Here is what can be told at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glowplug.policies import check_whole

BATCH_MAX = 1_000
WINDOW_S_MAX = 3_600.0
_OF_ATTRIBUTES = ("exact", "prefix", "suffix")
_OF_FILTERS = ("all", "any")


@dataclass(frozen=True)
class Trigger:
    """Which events call a function, and how many at a time.

    `filter` is (kind, attributes, filters), nested; `batch` 0 = one event by itself.
    """

    patterns: tuple[str, ...]
    filter: tuple[str, tuple[tuple[str, str], ...], tuple[Any, ...]] | None = None
    batch: int = 0
    window_s: float = 0.0


def trigger_of(patterns: object, filter: object, batch: object, window: object) -> Trigger:  # noqa: A002 - the parameter's public name
    """Return what was asked for.

    Raises: TypeError or ValueError with a sentence.
    """
    if callable(patterns):
        raise TypeError('say which events: @on_event("com.example.order.*")')
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(given, Sequence) or not given:
        raise TypeError(f"@on_event({patterns!r}): give a pattern, or a list of patterns")
    for one in given:
        if not isinstance(one, str) or not one:
            raise TypeError(f"@on_event: {one!r} is no pattern; give a text like 'com.example.*'")
    if batch is not None:
        check_whole("batch", batch, 1, BATCH_MAX)
    return Trigger(
        patterns=tuple(given),
        filter=None if filter is None else _filter(filter),
        batch=int(batch or 0),  # type: ignore[call-overload]
        window_s=_window(window, batch),
    )


def _window(window: object, batch: object) -> float:
    if window is None:
        return 0.0
    if isinstance(window, bool) or not isinstance(window, int | float):
        raise TypeError(f"window={window!r}: give seconds")
    if not 0 < window <= WINDOW_S_MAX:
        raise ValueError(f"window={window!r}: give seconds above 0, at most {WINDOW_S_MAX:g}")
    if batch is None:
        raise ValueError("window= needs batch=: say how many events one call takes at most")
    return float(window)


def _filter(given: object) -> tuple[str, tuple[tuple[str, str], ...], tuple[Any, ...]]:
    if isinstance(given, list | tuple):
        return "all", (), tuple(_filter(one) for one in given)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise TypeError(
            f"filter={given!r}: give one of exact, prefix, suffix, all, any, not, for instance "
            '{"prefix": {"subject": "invoices/"}}'
        )
    kind, inner = next(iter(given.items()))
    if kind in _OF_ATTRIBUTES:
        if not isinstance(inner, Mapping) or not inner:
            raise TypeError(f"filter {kind!r}: give attributes with their values")
        for name, value in inner.items():
            if not isinstance(name, str) or not isinstance(value, str) or not value:
                raise TypeError(f"filter {kind!r}: {name!r}: {value!r} is no attribute with a text")
        return kind, tuple(inner.items()), ()
    if kind in _OF_FILTERS:
        if not isinstance(inner, list | tuple) or not inner:
            raise TypeError(f"filter {kind!r}: give a list of filters")
        return kind, (), tuple(_filter(one) for one in inner)
    if kind == "not":
        return kind, (), (_filter(inner),)
    raise ValueError(f"filter {kind!r}: there are exact, prefix, suffix, all, any and not")
