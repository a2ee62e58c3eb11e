"""Checking JSON arguments against a declaration."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.messages.deployment import FieldSpec
from glowplug_gateway.inputs import DEPTH_MAX, check_inputs, check_specs, parse_object


def checked(spec: FieldSpec, value: object, *, text: bool = False) -> object:
    names = frozenset({"x"}) if text else frozenset()
    return check_inputs({"x": spec}, {"x": value}, text=names)["x"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "a", "a"),
        ("integer", 3, 3),
        ("integer", 3.0, 3),
        ("float", 3, 3.0),
        ("boolean", False, False),
        ("list", [1, "a"], [1, "a"]),
        ("object", {"a": 1}, {"a": 1}),
        ("json", None, None),
        ("json", [None], [None]),
    ],
)
def test_fitting_values_pass_in_the_declared_type(kind, value, expected):
    found = checked(FieldSpec(type=kind), value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", 1),
        ("integer", True),
        ("integer", 1.5),
        ("integer", "1"),
        ("float", "1.5"),
        ("float", True),
        ("boolean", 1),
        ("list", {}),
        ("object", []),
        ("string", None),
    ],
)
def test_other_values_do_not(kind, value):
    with pytest.raises(InvalidRequestError) as caught:
        checked(FieldSpec(type=kind), value)
    assert list(caught.value.details["fields"]) == ["x"]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("integer", "3", 3),
        ("float", "3", 3.0),
        ("boolean", "True", True),
        ("boolean", "0", False),
        ("list", "[1]", [1]),
        ("string", "3", "3"),
    ],
)
def test_texts_of_a_query_are_read_as_the_declared_type(kind, text, expected):
    assert checked(FieldSpec(type=kind), text, text=True) == expected


@pytest.mark.parametrize(("kind", "text"), [("integer", "x"), ("boolean", "maybe"), ("list", "[")])
def test_texts_that_mean_nothing_are_refused(kind, text):
    with pytest.raises(InvalidRequestError):
        checked(FieldSpec(type=kind), text, text=True)


def test_an_enum_takes_its_choices_only():
    spec = FieldSpec(type="enum", choices=("a", "b"))
    assert checked(spec, "b") == "b"
    with pytest.raises(InvalidRequestError, match="must be one of a, b"):
        checked(spec, "c")


def test_every_wrong_field_is_named_at_once():
    specs = {
        "name": FieldSpec(type="string"),
        "tags": FieldSpec(type="list", items=FieldSpec(type="integer")),
        "inner": FieldSpec(type="object", fields={"deep": FieldSpec(type="boolean")}),
    }
    with pytest.raises(InvalidRequestError) as caught:
        check_inputs(
            specs, {"tags": [1, "x", 2, None], "inner": {"deep": 1, "more": 2}}, text=frozenset()
        )
    assert set(caught.value.details["fields"]) == {
        "name",
        "tags[1]",
        "tags[3]",
        "inner.deep",
        "inner.more",
    }


def test_left_out_and_null_are_the_default():
    spec = FieldSpec(type="integer", optional=True, default=0)
    assert check_inputs({"x": spec}, {}, text=frozenset()) == {"x": 0}
    assert checked(spec, None) == 0
    assert checked(FieldSpec(type="integer", optional=True), None) is None


def test_an_object_may_be_as_deep_as_the_bound():
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert "a" in parse_object(nested(DEPTH_MAX))
    with pytest.raises(InvalidRequestError, match="deeper"):
        parse_object(nested(DEPTH_MAX + 1))
    with pytest.raises(InvalidRequestError):
        parse_object(nested(1_000_000))


def test_many_brackets_side_by_side_are_not_deep():
    assert len(parse_object(b'{"a":[' + b",".join([b"[]"] * 500) + b"]}")["a"]) == 500


def test_declarations_are_checked_too():
    wrong = check_specs(
        {
            "a": FieldSpec(type="complex"),
            "b": FieldSpec(type="enum"),
            "c": FieldSpec(type="list", items=FieldSpec(type="none")),
            "d": FieldSpec(type="object", fields={"e": FieldSpec(type="what")}),
            "fine": FieldSpec(type="string"),
        },
        "inputs",
    )
    assert set(wrong) == {"inputs.a", "inputs.b", "inputs.c.items", "inputs.d.e"}
