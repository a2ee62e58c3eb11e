"""Exceptions as callers get them."""

from __future__ import annotations

import base64
import pickle

from glowplug.runner import failures


def _raised(make):
    try:
        make()
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def _round_trip(error):
    return pickle.loads(base64.b64decode(failures.remote_error(error)["pickled"]))


def _chain():
    try:
        try:
            raise KeyError("inner")  # noqa: TRY301
        except KeyError as error:
            raise ValueError("middle") from error
    except ValueError:
        raise RuntimeError("outer")  # noqa: B904 - an implicit context is wanted


def test_causes_and_contexts_travel():
    copy = _round_trip(_raised(_chain))
    assert (type(copy), copy.args) == (RuntimeError, ("outer",))
    assert type(copy.__context__) is ValueError
    assert copy.__cause__ is None
    assert not copy.__suppress_context__
    assert type(copy.__context__.__cause__) is KeyError
    assert copy.__context__.__suppress_context__


def test_raise_from_none_stays_without_context():
    def make():
        try:
            raise KeyError  # noqa: TRY301
        except KeyError:
            raise ValueError("alone") from None

    copy = _round_trip(_raised(make))
    assert copy.__suppress_context__


def test_a_cause_that_cannot_travel_is_named():
    class LocalError(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a}{b}")

    def make():
        try:
            raise LocalError(1, 2)  # noqa: TRY301
        except LocalError as error:
            raise ValueError("out") from error

    copy = _round_trip(_raised(make))
    assert type(copy.__cause__) is failures.UnpicklableError
    assert "LocalError: 12" in str(copy.__cause__)


def test_a_chain_without_end_is_cut():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert failures.remote_error(first)["message"] == "a"


def test_a_message_that_cannot_be_made_is_no_second_failure():
    class RudeError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    report = failures.remote_error(_raised(lambda: (_ for _ in ()).throw(RudeError())))
    assert report["type"] == "RudeError"
    assert "can't be made" in report["message"]


def test_notes_and_groups_are_in_the_traceback():
    error = ExceptionGroup("many", [ValueError("one"), KeyError("two")])
    error.add_note("a hint")
    text = failures.format_traceback(error)
    assert "ValueError: one" in text
    assert "a hint" in text


def test_everything_is_bounded():
    report = failures.remote_error(ValueError("x" * 10_000_000))
    assert len(report["message"]) <= failures.MESSAGE_CHARS_MAX
    assert len(report["traceback"]) <= failures.TRACEBACK_CHARS_MAX + 20
    assert report["pickled"] is None
