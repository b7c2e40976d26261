"""Every datatype, at its ends, in JSON: what goes in is what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.conformance.case import Group
from tests.conformance.models import NUMBERS
from tests.conformance.target import Target
from tests.conformance.wire import DTYPES, Array, array, callers_error, error, outputs, request, same, tensor

types = Group("types")
numbers = Group("types", needs=["every_number"])
texts = Group("types", needs=["identity_bytes"])


def ends(datatype: str) -> Array:
    """Values of this type that a careless reader would lose."""
    dtype: np.dtype[Any] = DTYPES[datatype]
    if dtype.kind == "b":
        return np.array([True, False, True])
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return np.array([0.1, -1 / 3, limits.max, limits.smallest_subnormal, 1e-5], dtype=dtype)
    whole = np.iinfo(dtype)
    return np.array([whole.min, whole.max, 1], dtype=dtype)


def every_number(datatype: str, values: Array) -> dict[str, Any]:
    """A request of every_number in which one input has these values, and all others are 0."""
    inputs = []
    for index, kind in enumerate(NUMBERS):
        given = values if kind == datatype else np.zeros(len(values), DTYPES[kind])
        inputs.append(tensor(f"INPUT{index}", kind, given.tolist()))
    return request(*inputs)


def _keeps(datatype: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        values = ends(datatype)
        found = outputs(target.infer("every_number", every_number(datatype, values)))
        output = found[f"OUTPUT{NUMBERS.index(datatype)}"]
        assert output["datatype"] == datatype
        same(output, values)

    return run


for each in NUMBERS:
    numbers.add(
        "MUST", f"{each.lower()}_comes_back_exactly", "the datatype's whole range is the tensor's", _keeps(each)
    )


@types.must("a float's digits are enough to read the same float again", "identity_fp32")
def fp32_comes_back_exactly(target: Target) -> None:
    values = ends("FP32")
    body = request(tensor("INPUT0", "FP32", values.astype(float).tolist()))
    same(outputs(target.infer("identity_fp32", body))["OUTPUT0"], values)


@types.must("JSON's true and false are BOOL's values", "every_number")
def bool_comes_back_as_true_and_false(target: Target) -> None:
    found = outputs(target.infer("every_number", every_number("BOOL", np.array([True, False]))))
    data = np.ravel(found[f"OUTPUT{NUMBERS.index('BOOL')}"]["data"]).tolist()
    assert data == [True, False], data


def _out_of_range(datatype: str, value: object) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        body = every_number(datatype, np.zeros(1, DTYPES[datatype]))
        body["inputs"][NUMBERS.index(datatype)]["data"] = [value]
        callers_error(target.infer("every_number", body))

    return run


for each, value in (
    ("UINT8", 256), ("UINT8", -1), ("INT8", 128), ("INT16", -32769), ("UINT32", 2**32), ("INT32", 2**31),
    ("INT64", 2**63), ("UINT64", 2**64), ("FP64", None), ("BOOL", 2),
):  # fmt: skip
    numbers.add(
        "SHOULD", f"{value}_is_no_{each.lower()}".replace("-", "minus_"),
        "a number that does not fit would come back as another one", _out_of_range(each, value),
    )  # fmt: skip


def _text(values: Any, shape: Sequence[int] | None = None) -> dict[str, Any]:
    return request(tensor("INPUT0", "BYTES", values, shape))


def _comes_back(values: list[str]) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        output = outputs(target.infer("identity_bytes", _text(values)))["OUTPUT0"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [len(values)])
        assert output["data"] == values

    return run


for name, values, level in (
    ("plain_texts_come_back", ["a", "bcd", "1"], "MUST"),
    ("texts_of_any_script_come_back", ["grün", "漢字", "🙂 👩‍👩‍👧", "שלום"], "MUST"),
    ("an_empty_text_comes_back", ["", "x", ""], "MUST"),
    ("texts_with_quotes_and_control_characters_come_back", ['"\\/', "\n\t\r\b", "\x01\x1f\x7f"], "MUST"),
    ("a_text_with_a_zero_byte_comes_back_whole", ["a\0b", "\0"], "MUST"),
    ("a_text_that_looks_like_a_number_stays_a_text", ["001", "1e5", "true", "null"], "MUST"),
    ("a_text_of_a_megabyte_comes_back", ["é" * 500_000], "SHOULD"),
):
    texts.add(level, name, "BYTES are given as JSON strings and none is special", _comes_back(values))


@texts.should("numbers are no texts", "identity_bytes")
def a_number_among_texts_is_refused(target: Target) -> None:
    callers_error(target.infer("identity_bytes", _text(["a", 1])))


@texts.must("an axis may be 0 for BYTES too")
def no_texts_at_all_are_answered(target: Target) -> None:
    output = outputs(target.infer("identity_bytes", _text([], [0])))["OUTPUT0"]
    assert (output["shape"], output["data"]) == ([0], [])


@types.must("16-bit floats are problematic in JSON: they are right, or refused", "identity_fp16")
def fp16_in_json_is_right_or_refused(target: Target) -> None:
    values = np.array([[[1.5, -2.0], [65504, 6e-8]]], "<f2")
    answer = target.infer("identity_fp16", request(tensor("INPUT0", "FP16", values.astype(float).tolist())))
    if answer.status == 200:
        assert array(outputs(answer)["OUTPUT0"]).tobytes() == values.tobytes()
    else:
        error(answer)
