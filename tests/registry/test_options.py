"""The option `features`: types and missing codes by column, and errors that say what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidSetting
from registry.options import ServingOptions


def test_types_and_missing_codes_survive_being_stored() -> None:
    said = {"age": "integer", "city": "categorical", "note": "text_length", "x": {"type": "numeric", "missing": ["?"]}}
    options = ServingOptions.from_dict({"features": said})
    assert options.features == (
        ("age", "integer", ()),
        ("city", "categorical", ()),
        ("note", "text_length", ()),
        ("x", "numeric", ("?",)),
    )
    assert ServingOptions.from_dict(options.to_dict()) == options


def test_missing_codes_may_stand_alone() -> None:
    assert ServingOptions.from_dict({"features": {"x": {"missing": ["?", "-", "?"]}}}).features == (
        ("x", "", ("-", "?")),
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"age": "int"}, "column 'age': 'int' is no type, did you mean 'integer'"),
        ({"note": "text"}, "did you mean 'text_length'"),
        ({"city": "category"}, "did you mean 'categorical'"),
        ({"age": "xyz"}, "is no type; it is one of numeric, integer, categorical, boolean, text_length"),
        ({"age": {"typ": "integer"}}, "column 'age' says 'typ', and what it may say is type and missing"),
        ({"age": 3}, "column 'age' wants a type"),
        ({"age": {"missing": "?"}}, "missing wants a list of texts"),
        ({"age": {"type": 3}}, "3 is no type"),
        ("age", "wants a table"),
        ([["age", "integer"]], "wants a table"),
        ([3], "wants a table"),
        ({"age": "a" * 1000}, "is no type"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_was_meant(said: Any, told: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        ServingOptions.from_dict({"features": said})
    assert told in caught.value.message
    assert len(caught.value.message) < 600
