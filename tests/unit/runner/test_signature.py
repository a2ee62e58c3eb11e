"""Where `context` stands, and what needs an event loop."""

from __future__ import annotations

import functools

import pytest
from glowplug.runner.signature import context_position, is_async


def plain(a, context): ...
def keyword_only(a, *, context): ...
def without(a): ...
def positional_only(context, /): ...
async def coroutine(context): ...
async def async_generator():
    yield 1


class Callable:
    def __call__(self, a, context): ...
    def method(self, context): ...


class AsyncCallable:
    async def __call__(self): ...


@functools.wraps(plain)
def wrapped(*args, **kwargs): ...


@pytest.mark.parametrize(
    ("function", "position"),
    [
        (plain, 1),
        (without, None),
        (positional_only, None),
        (coroutine, 0),
        (Callable(), 1),
        (Callable().method, 0),
        (functools.partial(without), None),
        (wrapped, 1),
        (len, None),
    ],
)
def test_the_position_of_context(function, position):
    assert context_position(function) == position


def test_a_keyword_only_context_is_beyond_every_position():
    assert context_position(keyword_only) > 1000


@pytest.mark.parametrize(
    "function", [coroutine, async_generator, AsyncCallable(), functools.partial(coroutine)]
)
def test_async(function):
    assert is_async(function)


@pytest.mark.parametrize("function", [plain, Callable(), len, Callable])
def test_not_async(function):
    assert not is_async(function)
