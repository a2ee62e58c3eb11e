"""Inputs and outputs by name."""

from __future__ import annotations

import dataclasses
from typing import Literal

import glowplug
import pytest
from glowplug import schema
from glowplug.errors import InvalidInputError, NotYetSupportedError
from glowplug.schema import checked_inputs, fields_of, fields_of_signature


class Order(schema.Schema):
    item = schema.String()
    count = schema.Integer(default=1)
    tags = schema.List(schema.String, optional=True)
    size = schema.Enum(["small", "large"], default="small")
    address = schema.Object({"street": schema.String(), "floor": schema.Integer(optional=True)})


def test_every_wrong_field_is_named_by_its_path():
    given = {
        "count": True,
        "tags": ["a", 3],
        "size": "huge",
        "address": {"floor": "1"},
        "colour": "red",
    }
    with pytest.raises(InvalidInputError) as caught:
        checked_inputs(fields_of(Order), given)
    assert set(caught.value.details["fields"]) == {
        "item",
        "count",
        "tags[1]",
        "size",
        "address.street",
        "address.floor",
        "colour",
    }


def test_defaults_are_filled_in_and_optional_ones_may_be_null():
    given = {"item": "tea", "tags": None, "address": {"street": "High", "floor": None}}
    assert checked_inputs(fields_of(Order), given) == {**given, "count": 1, "size": "small"}


def test_specs_use_the_platform_s_words():
    specs = {name: field.spec() for name, field in fields_of(Order()).items()}
    assert specs["tags"] == {"type": "list", "optional": True, "items": {"type": "string"}}
    assert specs["size"] == {
        "type": "enum",
        "optional": True,
        "default": "small",
        "choices": ["small", "large"],
    }
    assert specs["address"]["fields"]["floor"] == {"type": "integer", "optional": True}


def test_annotations_are_read_where_nothing_was_given():
    def handler(
        context,
        a: int,
        b: list[str],
        c: Literal["x", "y"] = "x",
        d: float | None = None,
        e=None,
        f: str | None = "z",
    ): ...

    fields = fields_of_signature(handler)
    assert fields is not None
    assert {name: field.spec() for name, field in fields.items()} == {
        "a": {"type": "integer"},
        "b": {"type": "list", "items": {"type": "string"}},
        "c": {"type": "enum", "optional": True, "default": "x", "choices": ["x", "y"]},
        "d": {"type": "float", "optional": True},
        "e": {"type": "json", "optional": True},
        "f": {"type": "string", "optional": True, "default": "z"},
    }


@pytest.mark.parametrize(
    "function", [lambda **kwargs: 1, lambda *args: 1, lambda x=print: 1, lambda x=(1,): 1]
)
def test_what_annotations_can_not_say_is_left_to_the_function(function):
    assert fields_of_signature(function) is None


def test_annotations_that_name_missing_things_are_no_error():
    def handler(x: NotThere): ...  # noqa: F821

    fields = fields_of_signature(handler)
    assert fields is not None
    assert fields["x"].spec() == {"type": "json"}


def test_a_dataclass_does_as_well():
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0
        names: list[str] = dataclasses.field(default_factory=list)

    assert checked_inputs(fields_of(Point), {"x": 1}) == {"x": 1, "y": 0, "names": []}


def test_a_default_must_fit_its_type():
    with pytest.raises(ValueError, match="whole number"):
        schema.Integer(default="one")


def test_files_images_and_foreign_models_come_later():
    for name in ("File", "Image"):
        with pytest.raises(NotYetSupportedError):
            getattr(schema, name)

    class Model:
        model_fields = ()

    with pytest.raises(NotYetSupportedError, match="pydantic"):
        glowplug.function(inputs=Model)
