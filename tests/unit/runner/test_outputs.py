"""Declared outputs against what functions return."""

from __future__ import annotations

import dataclasses

import pytest
from glowplug.runner.outputs import check_outputs
from glowplug.runner.payloads import BadResultError

FIELDS = {
    "text": {"type": "string"},
    "count": {"type": "integer", "optional": True},
    "score": {"type": "float", "optional": True},
    "flag": {"type": "boolean", "optional": True},
    "tags": {"type": "list", "items": {"type": "string"}, "optional": True},
    "kind": {"type": "enum", "choices": ["a", "b"], "optional": True},
    "inner": {"type": "object", "fields": {"n": {"type": "integer"}}, "optional": True},
    "any": {"type": "json", "optional": True},
}


@pytest.mark.parametrize(
    "value",
    [
        {"text": ""},
        {
            "text": "x",
            "count": 0,
            "score": 1,
            "flag": False,
            "tags": [],
            "kind": "a",
            "any": object(),
        },
        {"text": "x", "inner": {"n": 1}, "tags": ("a",), "count": None},
    ],
)
def test_what_matches_passes_unchanged(value):
    assert check_outputs(value, FIELDS) is value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "result must be an object, not null"),
        ({}, "text is missing"),
        ({"text": None}, "text must be a string, not null"),
        ({"text": "x", "count": True}, "count must be a whole number, not bool"),
        ({"text": "x", "count": 1.5}, "count must be a whole number"),
        ({"text": "x", "flag": 1}, "flag must be true or false"),
        ({"text": "x", "tags": ["a", 2]}, "tags[1] must be a string, not int"),
        ({"text": "x", "kind": "c"}, "kind must be one of a, b"),
        ({"text": "x", "inner": {}}, "inner.n is missing"),
        ({"text": "x", "inner": 3}, "must be an object, not int"),
        ({"text": "x", "other": 1}, "other is not expected"),
    ],
)
def test_what_does_not_match_is_named_by_path(value, words):
    with pytest.raises(BadResultError) as raised:
        check_outputs(value, FIELDS)
    assert words in str(raised.value)


def test_a_dataclass_counts_as_its_fields():
    @dataclasses.dataclass
    class Answer:
        text: str

    check_outputs(Answer("x"), FIELDS)
    with pytest.raises(BadResultError):
        check_outputs(Answer(3), FIELDS)
