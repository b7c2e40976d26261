"""A constant answer is checked against the outputs that it stands for."""

from __future__ import annotations

from typing import Any

import pytest

from registry.constants import constant_of
from registry.errors import InvalidSetting
from registry.options import MOST_CONSTANT_VALUES, ServingOptions
from registry.vocabulary import TensorSpec

OUTPUTS = (
    TensorSpec("label", "INT64", (None,)),
    TensorSpec("odds", "FP32", (None, 2)),
    TensorSpec("named", "BYTES", (None, 1)),
    TensorSpec("sure", "BOOL", None),
)
GOOD: dict[str, Any] = {"label": 1, "odds": [0.25, 0.75], "named": ["nobody"], "sure": [True, False]}


def read(table: Any) -> Any:
    return ServingOptions.from_dict({"fallback": "constant", "fallback_constant": table}).fallback_constant


def test_a_constant_becomes_an_array_for_each_output_in_their_order() -> None:
    label, odds, named, sure = constant_of(read(GOOD), OUTPUTS, by_rows=True)
    assert [str(array.dtype) for array in (label, odds, named, sure)] == ["int64", "float32", "object", "bool"]
    assert (label.shape, int(label)) == ((), 1)
    assert [odds.tolist(), named.tolist(), sure.tolist()] == [[0.25, 0.75], ["nobody"], [True, False]]


def test_where_an_output_is_no_rows_the_constant_is_the_whole_of_it() -> None:
    spec = TensorSpec("y", "FP16", (None, 2))
    (whole,) = constant_of(read({"y": [[1, 2], [3, 4], [5, 6]]}), (spec,), by_rows=False)
    assert (str(whole.dtype), whole.shape) == ("float16", (3, 2))
    (brain,) = constant_of(read({"y": 1.5}), (TensorSpec("y", "BF16", ()),), by_rows=False)
    assert (brain.dtype.name, float(brain)) == ("bfloat16", 1.5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lable": 1}, 'no output "lable", did you mean "label"'),
        ({"odds": None}, 'output "odds" is missing'),
        ({"odds": [0.5]}, r'output "odds": got shape \[1\], a row has \[2\]'),
        ({"odds": [[0.5, 0.5]]}, r"got shape \[1, 2\], a row has \[2\]"),
        ({"odds": 0.5}, r"got shape \[\], a row has \[2\]"),
        ({"sure": [[True], [True, False]]}, "not of equal lengths"),
        ({"sure": [True, [True]]}, "not of equal lengths"),
        ({"odds": [1e39, 0]}, "a number does not fit FP32"),
        ({"odds": [10**400, 0]}, "a number does not fit FP32"),
        ({"odds": ["a", "b"]}, "got 'a', wants FP32"),
        ({"odds": [True, False]}, "got True, wants FP32"),
        ({"label": 1.0}, "got 1.0, wants INT64"),
        ({"label": 2**63}, "does not fit INT64"),
        ({"named": [1]}, "got 1, wants BYTES"),
        ({"sure": [0, 1]}, "got 0, wants BOOL"),
    ],
)
def test_a_constant_that_does_not_fit_says_of_which_output_and_what_is_wanted(
    changes: dict[str, Any], fault: str
) -> None:
    said = read({name: value for name, value in {**GOOD, **changes}.items() if value is not None})
    with pytest.raises(ValueError, match=fault):
        constant_of(said, OUTPUTS, by_rows=True)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"fallback": ["nobody"]}, "wants a list of previous, constant"),
        ({"fallback": 7}, "wants a list of previous, constant"),
        ({"fallback": ["previous", "previous"]}, "each once"),
        ({"fallback": ["constant", "previous"], "fallback_constant": {"y": 1}}, "constant last"),
        ({"fallback": ["constant"]}, "fallback_constant: it is used, and needed"),
        ({"fallback": ["previous"], "fallback_constant": {"y": 1}}, "fallback_constant: it is used, and needed"),
        ({"fallback": ["constant"], "fallback_constant": 7}, "wants a table"),
        ({"fallback": ["constant"], "fallback_constant": [[1, 2]]}, "wants a table"),
        ({"fallback": ["constant"], "fallback_constant": [1]}, "fallback_constant"),
        ({"fallback": ["constant"], "fallback_constant": {"y": float("nan")}}, "finite numbers"),
        ({"fallback": ["constant"], "fallback_constant": {"y": {"z": 1}}}, "finite numbers"),
        ({"fallback": ["constant"], "fallback_constant": {"y": [0.0] * (MOST_CONSTANT_VALUES + 1)}}, "more than 10000"),
        ({"fallback": ["constant"], "fallback_constant": {"y": [[]] * (MOST_CONSTANT_VALUES + 1)}}, "more than 10000"),
        ({"fallback": ["constant"], "fallback_constant": {"y": [[[[[[[[[1]]]]]]]]]}}, "deeper than 8"),
    ],
)
def test_options_of_a_fallback_that_cannot_be_meant_are_refused(written: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSetting, match=fault):
        ServingOptions.from_dict(written)


def test_a_fallback_survives_being_stored_and_is_part_of_the_options_only_where_it_is_said() -> None:
    options = ServingOptions.from_dict({"fallback": ["previous", "constant"], "fallback_constant": GOOD})
    assert ServingOptions.from_dict(options.to_dict()) == options
    assert {"fallback", "fallback_constant"} <= options.to_dict().keys()
    assert ServingOptions().to_dict() == {}
